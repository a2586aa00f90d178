"""What was made of files, made anew when they have been renewed."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from pyfuncserver.errors import StartupError

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0

T = TypeVar("T")
Signature = list[tuple[int, int, int] | None]


class Renewed(Generic[T]):
    """Holds what ``load`` makes of files. Thread-safe.

    The files are looked at when the value is asked for, at most once a second. Where they cannot be
    loaded, or change meanwhile, the value stays the old one; the log says so once.

    Raises: StartupError where the first load fails.
    """

    def __init__(self, paths: Sequence[str], load: Callable[[], T]) -> None:
        self._paths = paths
        self._load = load
        self._lock = threading.Lock()
        self._seen = self._signature()
        self._value = load()
        self._look_at = time.monotonic() + LOOK_INTERVAL_S

    def get(self) -> T:
        """Give the value of now."""
        if time.monotonic() >= self._look_at and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()
        return self._value

    def _look(self) -> None:
        self._look_at = time.monotonic() + LOOK_INTERVAL_S
        signature = self._signature()
        if signature == self._seen:
            return
        try:
            value = self._load()
        except StartupError as error:
            self._seen = signature
            log.warning("what was loaded before stays in use: %s", error)
            return
        if self._signature() == signature:
            self._seen = signature
            self._value = value
            log.info("renewed: %s", ", ".join(self._paths))

    def _signature(self) -> Signature:
        return [_signature(path) for path in self._paths]


def _signature(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  follows the links by which secrets are mounted
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
