"""The supervisor's books: generations, workers and their places, and what deaths it may spend."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from pyfuncserver.orders import NO_ORDERS, Orders
from pyfuncserver.scoreboard import Restart, State

FOREVER = float("inf")


class Loading(Enum):
    """How the workers of one generation come to their model."""

    UNDECIDED = "the host still loads"
    FORKED = "the host forks them"
    SEPARATE = "each loads its own"


@dataclass(eq=False)
class Generation:
    """One load of the model, and the host that did it."""

    number: int
    loading: Loading
    is_reload: bool = False
    """It was asked for while another one serves: where it fails, nothing is to change."""
    host_pid: int = 0
    host_name: str = ""
    """The host's identity in the metrics directory."""
    commands: int = -1
    """Descriptor by which the host is told to fork."""
    reserved: int = -1
    """The slot that is kept for the host until it has decided not to serve itself."""
    ends_by: float = FOREVER
    """When the host, which has been told to end, is killed."""
    orders: Orders = NO_ORDERS
    """What it is to serve of what it finds."""
    tickets: list[int] = field(default_factory=list)
    """Of the clients who have asked for it."""
    located: str = ""
    """Where on this machine the models of a remote address are, as soon as they are there."""
    served: set[str] = field(default_factory=set)
    """The full names of the models that it has loaded."""

    @property
    def can_start_workers(self) -> bool:
        return self.loading is Loading.SEPARATE or (
            self.loading is Loading.FORKED and self.host_pid != 0
        )


@dataclass(eq=False)
class Worker:
    """One worker process; ``pid`` is 0 until the host has forked it."""

    slot: int
    generation: Generation
    asked_at: float
    pid: int = 0
    state: State = State.STARTING
    is_condemned: bool = False
    """It was killed before it served; how it ended is no news."""
    is_stuck: bool = False
    """Its loop has stopped, and it was told to show its stack and die."""
    is_closed: bool = False
    """It drains, and takes no new connection any more."""
    leaving: Restart | None = None
    """Why it is to be replaced; it serves until its replacement does."""
    ends_by: float = FOREVER
    """When it, which has been told to end, is killed."""

    @property
    def is_ready(self) -> bool:
        return self.state is State.READY and not self.is_stuck

    @property
    def is_staying(self) -> bool:
        """Tell whether it counts as one of those that are asked for."""
        return self.state is not State.DRAINING and not self.is_stuck and self.leaving is None


@dataclass
class Load:
    """A model that a process is loading now."""

    name: str
    full_name: str
    began_at: float
    told_at: float
    """When the log was told last that it goes on."""


@dataclass
class Fleet:
    """All workers of all generations, and ``size`` places for them."""

    size: int
    workers: list[Worker] = field(default_factory=list)

    def __iter__(self) -> Iterator[Worker]:
        """Iterate over a copy, since burying changes the list."""
        return iter(list(self.workers))

    def of(self, generation: Generation) -> list[Worker]:
        return [worker for worker in self.workers if worker.generation is generation]

    def in_slot(self, slot: int) -> Worker | None:
        return next((worker for worker in self.workers if worker.slot == slot), None)

    def with_pid(self, pid: int) -> Worker | None:
        return next((worker for worker in self.workers if worker.pid == pid), None)

    @property
    def has_ready(self) -> bool:
        return any(worker.is_ready for worker in self.workers)

    def free_slots(self, *generations: Generation | None) -> list[int]:
        """List the places that neither a worker has nor a host of these has reserved."""
        taken = {worker.slot for worker in self.workers}
        taken.update(generation.reserved for generation in generations if generation is not None)
        return [slot for slot in range(self.size) if slot not in taken]


class RestartBudget:
    """So many deaths are borne within a window of time."""

    def __init__(self, limit: int, window_s: float) -> None:
        self.limit = limit
        self.window_s = window_s
        self._deaths: deque[float] = deque()

    def spend(self, now: float) -> bool:
        """Note a death; False where it is one too many."""
        self._deaths.append(now)
        while self._deaths[0] < now - self.window_s:
            self._deaths.popleft()
        return len(self._deaths) <= self.limit
