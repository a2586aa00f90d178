"""How many rows a batch may have: a number that was set, or one found from measured times."""

from __future__ import annotations

import threading
from statistics import median
from typing import Protocol

LARGEST = 256
SAMPLES = 9
"""So many times of a size make a judgement of it."""
PAYS, PAYS_WELL = 0.1, 0.2
"""The shares by which a row has to be cheaper than at half the size: to stay, and to go on."""
SOON_S, SOON = 0.1, 3
"""A size is not doubled once its batches take longer than this, and so many times the shortest."""
FIRST_PAUSE, LONGEST_PAUSE = 64, 16_384
"""Batches until a size that did not pay is tried again; each time twice as many."""


class BatchSize(Protocol):
    """Bounds the rows of a batch, and hears what batches took. Thread-safe."""

    @property
    def rows(self) -> int: ...

    def observe(self, rows: int, took_s: float) -> None:
        """Take note of what a batch, or a single call, of so many rows has taken."""


class FixedSize:
    """As many rows as were set."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def observe(self, rows: int, took_s: float) -> None:
        """Nothing follows from it."""


class MeasuredSize:
    """Doubles the size as long as that makes a row cheaper, and halves it where it does not.

    A model has a cost c of each call and a cost r of each row. While c rules, twice the rows cost
    little more; once r does, a larger batch only keeps its clients waiting. So the time per row at
    a size is compared with that at half of it (a batch counts for the next power of two; medians of
    ``SAMPLES`` batches each). A size is doubled where it saves a fifth or more, and halved where it
    saves less than a tenth; what has been given up is tried again after a pause, which grows. That
    ends between 3 c/r and 6 c/r rows, where a row costs at most a third more than r, and a batch
    takes at most seven times as long as a call of one row.

    Only what fills a size lets it grow: where fewer calls wait, no batch is larger for it. Times
    age, and a machine may have become slower since; so when a size no longer saves enough, half of
    it is measured anew, and the judgement is by that: back again, or further down.
    """

    def __init__(self, largest: int = LARGEST) -> None:
        self.rows = 1
        self._largest = largest
        self._lock = threading.Lock()
        self._new: dict[int, list[float]] = {}
        """Seconds per row of the latest batches, by size, until there are enough to judge."""
        self._known: dict[int, float] = {}
        """The median seconds per row, by size."""
        self._is_descending = False
        self._batches = 0
        self._resume_at = 0
        self._pause = FIRST_PAUSE

    def observe(self, rows: int, took_s: float) -> None:
        size = 1 << (rows - 1).bit_length()
        with self._lock:
            self._batches += 1
            times = self._new.setdefault(size, [])
            times.append(took_s / rows)
            if len(times) == SAMPLES:
                self._known[size] = median(self._new.pop(size))
                self._judge(size)

    def _judge(self, size: int) -> None:
        if self._is_descending:
            if size == self.rows:
                self._descend_or_return(size)
        elif size > self.rows:  # single calls, which have more rows than a batch may have
            self._grow()
        elif self._saving(size) < PAYS:
            self._descend(size)
        elif size == self.rows and self._saving(size) >= PAYS_WELL and self._is_soon(size):
            self._grow()

    def _saving(self, size: int) -> float:
        """Give the share by which a row is cheaper than at half the size; 1 where none knows."""
        smaller = self._known.get(size // 2)
        return 1 - self._known[size] / smaller if smaller else 1

    def _is_soon(self, size: int) -> bool:
        shortest_s = min(rows * per_row_s for rows, per_row_s in self._known.items())
        return self._known[size] * size <= max(SOON_S, SOON * shortest_s)

    def _grow(self) -> None:
        if self.rows < self._largest and self._batches >= self._resume_at:
            self.rows *= 2

    def _descend(self, size: int) -> None:
        """Measure half of a size anew; below one row there is nothing."""
        self._is_descending = size > 1
        self.rows = max(1, size // 2)
        self._new.pop(self.rows, None)

    def _descend_or_return(self, size: int) -> None:
        """Judge the size above by the fresh times of this one."""
        if self._saving(size * 2) >= PAYS:
            self.rows = size * 2
            self._is_descending = False
            return
        self._resume_at = self._batches + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self._descend(size)
