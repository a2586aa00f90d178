"""The state of the daemon, in memory that all its processes share.

Only the supervisor writes; workers and the monitor read it to answer readiness and metrics. It is
a table of fixed size in an anonymous shared mapping, so it costs no file, no lock, no message, and
it is right even when the process that would answer has just died. Each cell is one aligned word,
written at once, so that a reader never sees half of it.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from enum import IntEnum

_WORD_BYTES = 4
_DRAINING, _GENERATION, _BY_SIGNAL, _BY_EXIT, _HEADER_WORDS = range(5)
_PID, _STATE, _SLOT_GENERATION, _SLOT_WORDS = range(4)


class State(IntEnum):
    """What a worker is doing."""

    EMPTY = 0
    STARTING = 1
    READY = 2
    DRAINING = 3


@dataclass(frozen=True)
class Slot:
    """One row: the worker that has this place."""

    number: int
    pid: int
    state: State
    generation: int


class Scoreboard:
    """A header and ``size`` slots. Made before the first fork; every child inherits it."""

    def __init__(self, size: int) -> None:
        self.size = size
        words = _HEADER_WORDS + size * _SLOT_WORDS
        self._words = memoryview(mmap.mmap(-1, words * _WORD_BYTES)).cast("I")

    @property
    def is_draining(self) -> bool:
        return bool(self._words[_DRAINING])

    @property
    def generation(self) -> int:
        return self._words[_GENERATION]

    @property
    def restarts(self) -> dict[str, int]:
        """Count the workers that were replaced, by how they had ended."""
        return {"signal": self._words[_BY_SIGNAL], "exit": self._words[_BY_EXIT]}

    @property
    def is_ready(self) -> bool:
        """Tell whether a request that comes now would be answered."""
        return not self.is_draining and any(slot.state is State.READY for slot in self.slots())

    def set_draining(self) -> None:
        self._words[_DRAINING] = 1

    def set_generation(self, generation: int) -> None:
        self._words[_GENERATION] = generation

    def count_restart(self, by_signal: bool) -> None:
        self._words[_BY_SIGNAL if by_signal else _BY_EXIT] += 1

    def set_slot(self, number: int, pid: int, state: State, generation: int) -> None:
        start = self._start(number)
        self._words[start + _PID] = pid
        self._words[start + _SLOT_GENERATION] = generation
        # Last, since a row counts from the moment that it has a state.
        self._words[start + _STATE] = state

    def clear_slot(self, number: int) -> None:
        self._words[self._start(number) + _STATE] = State.EMPTY

    def slots(self) -> list[Slot]:
        """List the slots that a worker has."""
        rows = []
        for number in range(self.size):
            start = self._start(number)
            state = State(self._words[start + _STATE])
            if state is not State.EMPTY:
                pid = self._words[start + _PID]
                rows.append(Slot(number, pid, state, self._words[start + _SLOT_GENERATION]))
        return rows

    @staticmethod
    def _start(number: int) -> int:
        return _HEADER_WORDS + number * _SLOT_WORDS
