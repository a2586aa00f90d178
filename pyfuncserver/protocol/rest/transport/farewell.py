"""Closes connections so that the last answer is not lost with them (RFC 9112, section 9.6)."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from dataclasses import dataclass

log = logging.getLogger(__name__)

QUIET_S = 2.0
LONGEST_S = 30.0
MOST_BYTES = 256 << 20


@dataclass
class _Leaving:
    since: float
    heard_at: float
    left: int = MOST_BYTES


class Farewell:
    """Shuts the side that we write, and discards what a client still sends, within bounds.

    Closing at once would answer what it sends by a reset, and that makes its system throw away
    the answer that it has not read yet.
    """

    def __init__(self) -> None:
        self._sockets: dict[socket.socket, _Leaving] = {}
        self._waste = bytearray(256 << 10)

    def __len__(self) -> int:
        return len(self._sockets)

    def take(self, connection: socket.socket) -> None:
        """Close a connection, when the client has, or in a while."""
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError as error:  # the client has gone already
            log.debug("closed at once: %s", error)
            connection.close()
            return
        now = time.monotonic()
        self._sockets[connection] = _Leaving(now, now)
        asyncio.get_running_loop().add_reader(connection, self._discard, connection)

    def _discard(self, connection: socket.socket) -> None:
        try:
            count = connection.recv_into(self._waste)
        except BlockingIOError:
            return
        except OSError as error:
            log.debug("reset by the client: %s", error)
            count = 0
        leaving = self._sockets[connection]
        leaving.heard_at = time.monotonic()
        leaving.left -= count
        if not count or leaving.left <= 0:
            self._close(connection)

    def sweep(self, now: float, quiet_s: float = QUIET_S) -> None:
        """Close those that are quiet, or have taken long."""
        for connection, leaving in list(self._sockets.items()):
            if now - leaving.heard_at > quiet_s or now - leaving.since > LONGEST_S:
                self._close(connection)

    def close(self) -> None:
        for connection in list(self._sockets):
            self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        del self._sockets[connection]
        asyncio.get_running_loop().remove_reader(connection)
        connection.close()
