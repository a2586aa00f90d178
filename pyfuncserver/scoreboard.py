"""The state of the daemon, in memory that all its processes share.

Only the supervisor writes, but for the beats, which are each worker's own, and for the end, which
whoever loses the supervisor tells the others. Workers and the monitor read it to answer readiness
and metrics. It is a table of fixed size in an anonymous shared mapping, so it costs no file, no
lock, no message, and it is right even when the process that would answer has just died. Each cell
is one aligned word, written at once, so that nobody sees half of it.
"""

from __future__ import annotations

import mmap
import time
from dataclasses import dataclass
from enum import Enum, IntEnum

_WORD_BYTES = 4
_WORD_VALUES = 1 << 32
_PID, _STATE, _SLOT_GENERATION, _BEAT, _SLOT_WORDS = range(5)

BEAT_INTERVAL_S = 0.1
FRESH_S = 5.0
"""A worker whose last beat is older is not counted on by readiness."""


class State(IntEnum):
    """What a worker is doing."""

    EMPTY = 0
    STARTING = 1
    READY = 2
    DRAINING = 3


class Restart(Enum):
    """Why a worker was replaced; the value is the metric's label."""

    EXIT = "exit"
    SIGNAL = "signal"
    CRASH = "crash"
    OUT_OF_MEMORY = "out_of_memory"
    STUCK = "stuck"
    TIMEOUT = "timeout"
    RECYCLED = "recycled"


class Reload(Enum):
    """How a reload ended; the value is the metric's label."""

    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    SUPERSEDED = "superseded"


_DRAINING, _CLOSING, _MONITOR_BEAT, _GENERATION, _BOOT_FAILURES, _RELOADS = range(6)
_UNLOADED, _FIRST_COUNT = range(6, 8)
_COUNTS: dict[Restart | Reload, int] = {
    event: number for number, event in enumerate([*Restart, *Reload], start=_FIRST_COUNT)
}
_HEADER_WORDS = _FIRST_COUNT + len(_COUNTS)


@dataclass(frozen=True)
class Slot:
    """One row: the worker that has this place."""

    number: int
    pid: int
    state: State
    generation: int
    silent_s: float
    """Seconds since its loop last beat."""

    @property
    def is_serving(self) -> bool:
        return self.state is State.READY and self.silent_s < FRESH_S


class Scoreboard:
    """A header and ``size`` slots. Made before the first fork; every child inherits it."""

    def __init__(self, size: int) -> None:
        self.size = size
        words = _HEADER_WORDS + size * _SLOT_WORDS
        self._words = memoryview(mmap.mmap(-1, words * _WORD_BYTES)).cast("I")

    @property
    def is_draining(self) -> bool:
        """Tell whether the daemon is to end, and is not ready any more; it may serve still."""
        return bool(self._words[_DRAINING])

    @property
    def is_closing(self) -> bool:
        """Tell whether every worker is to end now."""
        return bool(self._words[_CLOSING])

    @property
    def is_unloaded(self) -> bool:
        """Tell whether the one model of a daemon that has no others was unloaded."""
        return bool(self._words[_UNLOADED])

    @property
    def generation(self) -> int:
        return self._words[_GENERATION]

    @property
    def boot_failures(self) -> int:
        """Count the workers and hosts that could not be brought up."""
        return self._words[_BOOT_FAILURES]

    @property
    def reloads_begun(self) -> int:
        """Count the reloads that were taken up; each ends in one way of :class:`Reload`."""
        return self._words[_RELOADS]

    @property
    def is_ready(self) -> bool:
        """Tell whether a request that comes now would be answered."""
        return not self.is_draining and any(slot.is_serving for slot in self.slots())

    def count_of(self, event: Restart | Reload) -> int:
        """Tell how often it has happened."""
        return self._words[_COUNTS[event]]

    def set_draining(self) -> None:
        self._words[_DRAINING] = 1

    def set_closing(self) -> None:
        self.set_draining()
        self._words[_CLOSING] = 1

    def set_generation(self, generation: int) -> None:
        self._words[_GENERATION] = generation

    def set_unloaded(self, is_unloaded: bool) -> None:
        self._words[_UNLOADED] = is_unloaded

    def count(self, event: Restart | Reload) -> None:
        self._words[_COUNTS[event]] += 1

    def count_reload(self) -> None:
        self._words[_RELOADS] += 1

    def count_boot_failure(self) -> None:
        self._words[_BOOT_FAILURES] += 1

    def set_slot(self, number: int, pid: int, state: State, generation: int) -> None:
        start = self._start(number)
        self._words[start + _PID] = pid
        self._words[start + _SLOT_GENERATION] = generation
        # Last, since a row counts from the moment that it has a state.
        self._words[start + _STATE] = state

    def clear_slot(self, number: int) -> None:
        self._words[self._start(number) + _STATE] = State.EMPTY

    def beat(self, number: int) -> None:
        """Note that the loop of the worker in this slot turns. Called by that worker."""
        self._words[self._start(number) + _BEAT] = _now_ms()

    def is_leaving(self, number: int) -> bool:
        """Tell whether the supervisor wants the worker in this slot to end."""
        return self.is_closing or self._slot(number).state is State.DRAINING

    def beat_monitor(self) -> None:
        self._words[_MONITOR_BEAT] = _now_ms()

    @property
    def monitor_silent_s(self) -> float:
        return self._silent_s(_MONITOR_BEAT)

    def slots(self) -> list[Slot]:
        """List the slots that a worker has."""
        rows = (self._slot(number) for number in range(self.size))
        return [row for row in rows if row.state is not State.EMPTY]

    def silent_s(self, number: int) -> float:
        """Give the seconds since the loop of the worker in this slot last beat."""
        return self._slot(number).silent_s

    def _slot(self, number: int) -> Slot:
        start = self._start(number)
        return Slot(
            number,
            self._words[start + _PID],
            State(self._words[start + _STATE]),
            self._words[start + _SLOT_GENERATION],
            self._silent_s(start + _BEAT),
        )

    def _silent_s(self, word: int) -> float:
        # Before the clock is read, or a beat in between would be one from the future.
        beat = self._words[word]
        # The clock wraps around after 49 days; differences do not mind.
        return (_now_ms() - beat) % _WORD_VALUES / 1000

    @staticmethod
    def _start(number: int) -> int:
        return _HEADER_WORDS + number * _SLOT_WORDS


def _now_ms() -> int:
    """Give the milliseconds of the clock that all processes of this machine share."""
    return int(time.monotonic() * 1000) % _WORD_VALUES
