"""The assembly: groups of calls that may share a batch, while they wait for the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, Protocol, TypeVar

from pyfuncserver.model.batch_size import BatchSize
from pyfuncserver.model.rows import Rows

HELD_SHARE = 0.5
"""The share of the time its client gives it for which a call is held at most."""


class Closed(Enum):
    """Why no more calls were let into a group."""

    FULL = "full"
    """It has as many rows as it may, or the next call has too many."""
    EMPTY = "empty"
    """Nothing more waited."""
    OTHERS = "others"
    """Only calls waited that differ in columns, types or parameters."""
    DELAY = "delay"
    """Its first call had waited for as long as it may."""
    ALONE = "alone"
    """Its call cannot share a batch."""


class Waiting(Protocol):
    """A call that waits."""

    @property
    def arrived_at(self) -> float: ...

    @property
    def deadline(self) -> float: ...

    @property
    def rows(self) -> Rows | None:
        """None where it has to go alone."""


W = TypeVar("W", bound=Waiting)


@dataclass(eq=False)
class Group(Generic[W]):
    """Calls of one layout, in the order in which they came."""

    arrived_at: float
    due_at: float
    """When it goes to the model even if it is not full."""
    calls: dict[W, None] = field(default_factory=dict)
    length: int = 0
    """Rows of all its calls."""
    labels: set[Hashable] = field(default_factory=set)
    closed: Closed | None = None

    def takes(self, rows: Rows, most: int) -> bool:
        return self.length + rows.length <= most and self.labels.isdisjoint(rows.labels)

    def add(self, call: W, due_at: float) -> None:
        self.calls[call] = None
        self.due_at = min(self.due_at, due_at)
        if call.rows is not None:
            self.length += call.rows.length
            self.labels |= call.rows.labels

    def discard(self, call: W) -> None:
        del self.calls[call]
        if call.rows is not None:
            self.length -= call.rows.length
            self.labels -= call.rows.labels


class Assembly(Generic[W]):
    """Puts calls into groups, never of more rows than ``size`` says; not thread-safe.

    One call may have more rows than that: it goes alone, whole.
    """

    def __init__(self, size: BatchSize, delay_s: float) -> None:
        self._size = size
        self._delay_s = delay_s
        self._forming: dict[Hashable, Group[W]] = {}
        """By layout; the oldest is the first."""
        self._complete: deque[Group[W]] = deque()
        self._groups: dict[W, Group[W]] = {}

    @property
    def size(self) -> int:
        """The rows that a group may have now."""
        return self._size.rows

    def add(self, call: W) -> None:
        """Put a call into the group of its layout."""
        rows = call.rows
        if rows is None or rows.length >= self._size.rows:
            why = Closed.ALONE if rows is None else Closed.FULL
            self._complete.append(self._new(call, why))
            return
        group = self._forming.get(rows.layout)
        if group is not None and not group.takes(rows, self._size.rows):
            self._close(rows.layout, Closed.FULL)
            group = None
        if group is None:
            group = self._forming[rows.layout] = self._new(call)
        else:
            self._groups[call] = group
            group.add(call, self._due_at(call))
        if group.length >= self._size.rows:
            self._close(rows.layout, Closed.FULL)

    def put_first(self, call: W) -> None:
        """Let a call be the next that goes, alone."""
        self._complete.appendleft(self._new(call, Closed.ALONE))

    def discard(self, call: W) -> bool:
        """Take a call out; False if it is not here."""
        group = self._groups.pop(call, None)
        if group is None:
            return False
        group.discard(call)
        if not group.calls:
            self._drop(group, call)
        return True

    def has_next(self) -> bool:
        """Tell whether the group that came first is complete."""
        return bool(self._complete) and not self._is_forming_older()

    def next(self, now: float) -> Group[W] | None:
        """Take out the group that goes to the model now, if one does."""
        layout, group = self._first_due()
        if group is not None and group.due_at <= now and not self.has_next():
            self._close(layout, self._why_now())
            return self._take(self._complete.pop())
        return self._take(self._complete.popleft()) if self._complete else None

    @property
    def due_at(self) -> float:
        """When the next group goes that is not complete; infinite where there is none."""
        return min((group.due_at for group in self._forming.values()), default=float("inf"))

    def _new(self, call: W, closed: Closed | None = None) -> Group[W]:
        group = self._groups[call] = Group(call.arrived_at, float("inf"), closed=closed)
        group.add(call, self._due_at(call))
        return group

    def _due_at(self, call: W) -> float:
        held_s = min(self._delay_s, (call.deadline - call.arrived_at) * HELD_SHARE)
        return call.arrived_at + held_s

    def _close(self, layout: Hashable, why: Closed) -> None:
        group = self._forming.pop(layout)
        group.closed = why
        self._complete.append(group)

    def _why_now(self) -> Closed:
        if self._delay_s:
            return Closed.DELAY
        return Closed.EMPTY if len(self._forming) + len(self._complete) == 1 else Closed.OTHERS

    def _first_due(self) -> tuple[Hashable, Group[W] | None]:
        return min(self._forming.items(), key=lambda item: item[1].due_at, default=(None, None))

    def _is_forming_older(self) -> bool:
        oldest = next(iter(self._forming.values()), None)
        return oldest is not None and oldest.arrived_at < self._complete[0].arrived_at

    def _take(self, group: Group[W]) -> Group[W]:
        for call in group.calls:
            del self._groups[call]
        return group

    def _drop(self, group: Group[W], call: W) -> None:
        if group.closed is not None:
            self._complete.remove(group)
        elif call.rows is not None:
            del self._forming[call.rows.layout]
