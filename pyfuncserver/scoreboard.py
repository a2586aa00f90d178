"""The state of the daemon, in memory that all its processes share.

Only the supervisor writes; workers and the monitor read it to answer readiness and metrics. It is
a table of fixed size in an anonymous shared mapping, so it costs no file, no lock, no message, and
it is right even when the process that would answer has just died.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from enum import IntEnum

_HEADER = struct.Struct("=BxxxIQQ")  # draining, generation, restarts by signal, restarts by exit
_SLOT = struct.Struct("=iiI")  # pid, state, generation


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
        self._memory = mmap.mmap(-1, _HEADER.size + size * _SLOT.size)

    def _header(self) -> tuple[int, int, int, int]:
        draining, generation, by_signal, by_exit = _HEADER.unpack_from(self._memory, 0)
        return draining, generation, by_signal, by_exit

    @property
    def is_draining(self) -> bool:
        return bool(self._header()[0])

    @property
    def generation(self) -> int:
        return self._header()[1]

    @property
    def restarts(self) -> dict[str, int]:
        """Count the workers that were replaced, by how they had ended."""
        _, _, by_signal, by_exit = self._header()
        return {"signal": by_signal, "exit": by_exit}

    @property
    def is_ready(self) -> bool:
        """Tell whether a request that comes now would be answered."""
        return not self.is_draining and any(slot.state is State.READY for slot in self.slots())

    def set_draining(self) -> None:
        _HEADER.pack_into(self._memory, 0, 1, *self._header()[1:])

    def set_generation(self, generation: int) -> None:
        draining, _, by_signal, by_exit = self._header()
        _HEADER.pack_into(self._memory, 0, draining, generation, by_signal, by_exit)

    def count_restart(self, by_signal: bool) -> None:
        draining, generation, signals, exits = self._header()
        _HEADER.pack_into(
            self._memory, 0, draining, generation, signals + by_signal, exits + (not by_signal)
        )

    def set_slot(self, number: int, pid: int, state: State, generation: int) -> None:
        _SLOT.pack_into(self._memory, _HEADER.size + number * _SLOT.size, pid, state, generation)

    def clear_slot(self, number: int) -> None:
        self.set_slot(number, 0, State.EMPTY, 0)

    def slots(self) -> list[Slot]:
        """List the slots that a worker has."""
        rows = []
        for number in range(self.size):
            pid, state, generation = _SLOT.unpack_from(
                self._memory, _HEADER.size + number * _SLOT.size
            )
            if state != State.EMPTY:
                rows.append(Slot(number, pid, State(state), generation))
        return rows
