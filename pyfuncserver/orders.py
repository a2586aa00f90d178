"""What is to be served, as far as clients have a say: changes they ask for, and what comes of it.

A change goes up to the supervisor as a report; a generation is loaded under the orders that follow
from it, and how that ended comes down by its ticket, in memory that all processes share.
"""

from __future__ import annotations

import mmap
import secrets
import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from pyfuncserver.scoreboard import Reload

TICKETS_KEPT = 1024
"""More clients than will ever wait for changes at a time, each with a ticket of its own."""
_ROW = struct.Struct("=IHH504s")
_ENDS = list(Reload)


class Action(str, Enum):
    """What a client wants for a model, in all its versions."""

    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True)
class Orders:
    """Which of the models that a generation finds it is to serve."""

    absent: frozenset[str] = frozenset()
    """Names of models that were unloaded."""
    required: frozenset[str] = frozenset()
    """Full names of the models that have been served: a generation that cannot is no use."""
    asked: str = ""
    """The name of the model that a client wants changed now; required, if it is to be loaded."""
    deadly: Mapping[str, str] = field(default_factory=dict)
    """Why each model, by its full name, is left out that has ended the process that loads it.

    One that is asked for is tried again.
    """

    @property
    def wanted(self) -> str:
        """The name of a model that a client wants loaded now; empty for none."""
        return "" if self.asked in self.absent else self.asked

    def after(self, action: Action, name: str) -> Orders:
        """Give the orders that follow from a change."""
        is_gone = action is Action.UNLOAD
        return replace(
            self, absent=self.absent | {name} if is_gone else self.absent - {name}, asked=name
        )

    def demands(self, name: str, full_name: str) -> bool:
        """Tell whether a generation is no use without this model."""
        return name == self.wanted or full_name in self.required


NO_ORDERS = Orders()


@dataclass
class Change:
    """What clients have asked for, and the tickets by which they will know what came of it."""

    action: Action
    name: str
    tickets: list[int]


def put(waiting: deque[Change], action: Action, name: str, ticket: int) -> None:
    """Let a wish wait; with the last one for its name, if that is for the same."""
    last = next((change for change in reversed(waiting) if change.name == name), None)
    if last is not None and last.action is action:
        last.tickets.append(ticket)
    else:
        waiting.append(Change(action, name, [ticket]))


def new_ticket() -> int:
    """Draw a ticket; none is 0. Not by ``random``, which models seed when they load."""
    return 1 + secrets.randbelow(0xFFFF_FFFF)


class Outcomes:
    """What became of the last changes. Only the supervisor writes; made before the first fork.

    A row is a ticket, how it ended, and why, in UTF-8. The ticket is written last and read twice,
    so that nobody takes one row's end for another's.
    """

    def __init__(self) -> None:
        self._rows = mmap.mmap(-1, TICKETS_KEPT * _ROW.size)
        self._next = 0

    def settle(self, ticket: int, end: Reload, why: str = "") -> None:
        """Say what became of a change."""
        start, self._next = self._next * _ROW.size, (self._next + 1) % TICKETS_KEPT
        text = why.encode()[:504]
        row = _ROW.pack(ticket, _ENDS.index(end), len(text), text)
        self._rows[start : start + 4] = bytes(4)
        self._rows[start + 4 : start + _ROW.size] = row[4:]
        self._rows[start : start + 4] = row[:4]

    def of(self, ticket: int) -> tuple[Reload, str] | None:
        """Tell how a change ended, and why it did so; None while it has not."""
        wanted = struct.pack("=I", ticket)
        for start in range(0, len(self._rows), _ROW.size):
            if self._rows[start : start + 4] != wanted:
                continue
            _, end, length, text = _ROW.unpack(self._rows[start : start + _ROW.size])
            if self._rows[start : start + 4] == wanted:
                return _ENDS[end], text[:length].decode(errors="replace")
        return None
