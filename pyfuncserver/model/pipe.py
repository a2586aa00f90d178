"""A pipe: an answer in parts, on its way from the model's thread to the client.

It holds little, so that a model is not ahead of a client who reads slowly, or not at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

MOST_PARTS = 8
MOST_BYTES = 64 << 10


def _tell_nobody() -> None:
    pass


class Pipe:
    """Bytes that one thread puts in, and another one takes out. Thread-safe."""

    def __init__(self) -> None:
        self._room = threading.Condition()
        self._parts: list[bytes] = []
        self._size = 0
        self._is_ended = False
        self._tell: Callable[[], None] = _tell_nobody

    @property
    def is_ended(self) -> bool:
        """Tell whether nothing can be put in any more."""
        return self._is_ended

    def put(self, part: bytes) -> None:
        """Put a part in; into a pipe that has ended, in vain."""
        with self._room:
            if self._is_ended:
                return
            was_empty = not self._parts
            self._parts.append(part)
            self._size += len(part)
        if was_empty:
            self._tell()

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until another part may be made, or none has to be; False where that takes longer."""
        with self._room:
            return self._room.wait_for(self._has_room, timeout_s)

    def end(self, last: bytes) -> None:
        """Put in the last part, whatever is there; whoever waits for room need not."""
        with self._room:
            if self._is_ended:
                return
            self._parts.append(last)
            self._is_ended = True
            self._room.notify_all()
        self._tell()

    def listen(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called, on any thread, when there is something where nothing was."""
        with self._room:
            self._tell = tell
            is_empty = not self._parts
        if not is_empty:
            tell()

    def take(self) -> tuple[bytes, bool]:
        """Take out what is there, and tell whether nothing more comes."""
        with self._room:
            data = b"".join(self._parts)
            self._parts.clear()
            self._size = 0
            self._room.notify_all()
            return data, self._is_ended

    def _has_room(self) -> bool:
        has_room = len(self._parts) < MOST_PARTS and self._size < MOST_BYTES
        return has_room or self._is_ended
