"""Values that one can always count with, whatever has become of the metrics directory.

``prometheus_client`` maps a file for each kind of metric into memory. Left to itself it raises from
the midst of a prediction when such a file cannot be made or cannot grow, and a full disk ends the
process by SIGBUS, since the blocks of a file are only sought when they are written. Here a file has
all its blocks before it is mapped. What cannot be in a file is counted in this process alone, which
says so once in the log: it goes on serving.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import mmap_dict, values

from pyfuncserver.metrics import directory

NOBODY = ""
"""The identity of a process that has no place in the directory."""

_FRAME_BYTES = 4 + 8 + 16  # an entry's length, at most so much padding, and its value and time
# Before its release 0.17 an entry had a value only.
_ZERO: Any = (0.0, 0.0) if hasattr(mmap_dict, "_unpack_two_doubles") else 0.0
_has_complained = [False]

log = logging.getLogger(__name__)


def install(identity: Callable[[], str]) -> None:
    """Keep every metric that is made from now on, the model's too, in files of that identity."""
    values.MmapedDict = SteadyFile  # type: ignore[attr-defined,assignment]
    values.ValueClass = values.MultiProcessValue(identity)


class SteadyFile:
    """A file of values; those that it has no room for are kept beside it. It never raises.

    ``prometheus_client`` calls it under a lock of its own.
    """

    def __init__(self, filename: str) -> None:
        self._path = Path(filename)
        self._kept: dict[str, Any] = {}
        self._file: Any = None
        if filename.endswith(f"_{NOBODY}.db"):
            return
        try:
            if not self._path.exists():
                directory.make_file(self._path)
            self._file = _mapped(self._path)
        except OSError as error:
            _complain(self._path, error)

    def read_value(self, key: str) -> Any:
        if key in self._kept or not self._has_room(key):
            return self._kept.setdefault(key, _ZERO)
        return self._file.read_value(key)

    def write_value(self, key: str, *value: float) -> None:
        if key in self._kept:
            self._kept[key] = value if len(value) > 1 else value[0]
        else:
            self._file.write_value(key, *value)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

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
                directory.allocate(file._f.fileno(), file._capacity, capacity)
                file._m = mmap.mmap(file._f.fileno(), capacity)
                file._capacity = capacity
        except OSError as error:
            _complain(self._path, error)
            return False
        return True


def _mapped(path: Path) -> Any:
    try:
        file: Any = mmap_dict.MmapedDict(str(path))
        if 0 < file._used <= file._capacity:
            return file
        log.debug("%s claims to hold %d bytes", path, file._used)
    except (struct.error, RuntimeError, ValueError) as error:
        log.debug("%s is torn: %s", path, error)
    directory.make_file(path)  # what it held cannot be told; a new one counts from nothing
    return mmap_dict.MmapedDict(str(path))


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
