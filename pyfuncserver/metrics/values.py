"""Values that one can always count with, whatever has become of the metrics directory.

A value is a cell, a double in a file that is mapped into memory: counting is one addition to it, so
that what was counted outlives ``kill -9``. The names, the files' format and the exposition are
``prometheus_client``'s, whose own values cost five times as much (a lock, a second figure, a
packing for each).

``prometheus_client`` left to itself raises from the midst of a prediction when such a file cannot
be made or cannot grow, and a full disk ends the process by SIGBUS, since the blocks of a file are
only sought when they are written. Here a file has all its blocks before it is mapped. What cannot
be in a file is counted in this process alone, which says so once in the log: it goes on serving.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import threading
from array import array
from pathlib import Path
from typing import Any
from weakref import WeakSet

from prometheus_client import REGISTRY, CollectorRegistry, mmap_dict, values

from pyfuncserver.metrics import directory

NOBODY = ""
"""The identity of a process that has no place in the directory."""

LOCK = threading.Lock()
"""Held by whoever changes a cell: an addition reads and writes."""

Cells = Any
"""Doubles that can be read and set by their number: of a mapped file, or of this process."""

_FRAME_BYTES = 4 + 8 + 16  # an entry's length, at most so much padding, and its value and time
_CELL_BYTES = 8
# Before release 0.17 of prometheus_client an entry had a value only.
_HAS_TIME = hasattr(mmap_dict, "_unpack_two_doubles")
_identity = [NOBODY]
_files: dict[str, SteadyFile] = {}
_all: WeakSet[Value] = WeakSet()
_has_complained = [False]

log = logging.getLogger(__name__)


class Value:
    """One figure of ``prometheus_client``'s: what its counters, gauges, histograms are made of.

    ``cells[index]`` is the figure; :data:`LOCK` has to be held where it is changed, or where both
    are read. Thread-safe otherwise.
    """

    __slots__ = ("__weakref__", "_key", "_prefix", "cells", "index")
    _multiprocess = True  # what prometheus_client asks of a class of values

    def __init__(
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Any,
        labelvalues: Any,
        help_text: str,
        multiprocess_mode: str = "",
        **_: Any,
    ) -> None:
        self._prefix = f"{typ}_{multiprocess_mode}" if typ == "gauge" else typ
        self._key = mmap_dict.mmap_key(metric_name, name, labelnames, labelvalues, help_text)
        with LOCK:
            self.locate()
            _all.add(self)

    def locate(self) -> None:
        """Find the cell among those of this process's identity, with :data:`LOCK` held."""
        file = _files.get(self._prefix)
        if file is None:
            file = _files[self._prefix] = SteadyFile(self._prefix, _identity[0])
        self.cells, self.index = file.cell(self._key)

    def inc(self, amount: float) -> None:
        with LOCK:
            self.cells[self.index] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        with LOCK:
            self.cells[self.index] = value
            if _HAS_TIME:  # in seconds since 1970, for gauges of which the latest counts
                self.cells[self.index + 1] = timestamp or 0.0

    def get(self) -> float:
        with LOCK:
            return float(self.cells[self.index])

    def set_exemplar(self, exemplar: Any) -> None:
        """Drop it: the files hold none."""

    def get_exemplar(self) -> None:
        return None


def install(identity: str) -> None:
    """Keep every metric that is made from now on, the model's too, in files of that identity."""
    set_identity(identity)
    ensure_installed()


def ensure_installed() -> None:
    """Let every metric that is made from now on have values of ours; in files, if anybody's."""
    if values.ValueClass is Value:
        return
    values.ValueClass = Value
    # A process that the model forks would count in the cells of the one that forked it; and no
    # other thread may be in the midst of finding a cell, or hold the lock for ever in the child.
    os.register_at_fork(
        before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=_become_nobody
    )


def set_identity(identity: str) -> None:
    """Take another identity, after a fork. No two living processes may have the same."""
    with LOCK:
        _take(identity)


def _become_nobody() -> None:
    """Count for this process alone; in a child that was forked with the lock held."""
    try:
        _take(NOBODY)
        _free_locks(REGISTRY)
    finally:
        LOCK.release()


def _free_locks(registry: CollectorRegistry) -> None:
    """Free what threads that the child does not have held when it was forked.

    ``prometheus_client`` finds a metric's child under a lock of the metric.
    """
    for owner in (registry, *registry._collector_to_names):
        lock = getattr(owner, "_lock", None)
        if lock is not None:
            lock._at_fork_reinit()


def _take(identity: str) -> None:
    if identity == _identity[0]:
        return
    _identity[0] = identity
    for file in _files.values():
        file.close()
    _files.clear()
    for value in _all:
        value.locate()


class SteadyFile:
    """A file of cells; those that it has no room for are this process's own. It never raises.

    Call it with :data:`LOCK` held.
    """

    def __init__(self, prefix: str, identity: str) -> None:
        self._file: Any = None
        if identity == NOBODY:
            return
        self._path = Path(os.environ[directory.VARIABLE], f"{prefix}_{identity}.db")
        try:
            if not self._path.exists():
                directory.make_file(self._path)
            self._file = _mapped(self._path)
        except OSError as error:
            _complain(self._path, error)
            return
        self._cells = _cells(self._file)

    def cell(self, key: str) -> tuple[Cells, int]:
        """Give the cell of a key, and where it is; what an earlier process counted is in it."""
        if not self._has_room(key):
            return array("d", (0.0, 0.0)), 0
        file = self._file
        file.read_value(key)  # makes the entry where there is none
        return self._cells, file._positions[key] // _CELL_BYTES

    def close(self) -> None:
        """Use it no more; its mapping ends with the last value that has a cell there."""
        if self._file is not None:
            self._file._f.close()
            self._file = None

    def _has_room(self, key: str) -> bool:
        """Grow where the file is too small for one more entry; False where that cannot be."""
        file = self._file
        if file is None or key in file._positions:
            return file is not None
        needed = file._used + len(key.encode()) + _FRAME_BYTES
        capacity = file._capacity
        while capacity < needed:
            capacity *= 2
        try:
            if capacity > file._capacity:
                self._grow(capacity)
        except OSError as error:
            _complain(self._path, error)
            return False
        return True

    def _grow(self, capacity: int) -> None:
        """Map a larger file; the cells that were given out are of the same file, and stay."""
        file = self._file
        directory.allocate(file._f.fileno(), file._capacity, capacity)
        file._m = mmap.mmap(file._f.fileno(), capacity)
        file._capacity = capacity
        self._cells = _cells(file)


def _cells(file: Any) -> Cells:
    return memoryview(file._m)[: file._capacity // _CELL_BYTES * _CELL_BYTES].cast("d")


def _mapped(path: Path) -> Any:
    try:
        file: Any = mmap_dict.MmapedDict(str(path))
        if 0 < file._used <= file._capacity and _is_aligned(file):
            return file
        log.debug("%s claims to hold %d bytes", path, file._used)
    except (struct.error, RuntimeError, ValueError) as error:
        log.debug("%s is torn: %s", path, error)
    directory.make_file(path)  # what it held cannot be told; a new one counts from nothing
    return mmap_dict.MmapedDict(str(path))


def _is_aligned(file: Any) -> bool:
    return not any(position % _CELL_BYTES for position in file._positions.values())


def _complain(path: Path, error: OSError) -> None:
    """Log the first trouble of this process; what follows is of its kind."""
    if _has_complained[0]:
        return
    _has_complained[0] = True
    text = "metrics are not told any more, or not all of them, but predictions go on: %s: %s"
    # Not on this thread, for a log handler of the model's may count lines: by a metric, whose lock
    # is held here.
    try:
        threading.Thread(
            target=log.error, args=(text, path, os.strerror(error.errno or 0)), daemon=True
        ).start()
    except RuntimeError:  # no thread can be made; then there are other lines that tell of trouble
        return
