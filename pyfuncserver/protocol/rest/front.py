"""The HTTP front end of one process: accepts from the shared socket, and drains.

All processes accept from one listening socket, so a connection that waits is taken by whoever is
free, and none is lost with the process that has just died.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from pyfuncserver.protocol.rest.transport.connection import Limits, Phase, Transport
from pyfuncserver.utils.sockets import admit, ignore_new_connections

log = logging.getLogger(__name__)

LINGER_S = 0.5
DRIP_S = 2.0
HANDSHAKE_S = 0.05
POLL_S = 0.02


class HttpFront:
    """Serves with a transport on a listening socket that other processes may listen on as well."""

    def __init__(self, transport: Transport, listener: socket.socket, limits: Limits) -> None:
        self._transport = transport
        self._connections = transport.connections
        self._listener = listener
        self._accepting = False
        self._evicted = 0
        self._spare: int | None = None
        self._sweep_s = min(1.0, limits.keep_alive_s / 4, limits.request_timeout_s / 4)

    def start(self) -> None:
        """Accept connections on the running loop."""
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)
        self._accepting = True
        self._sweep()

    def _sweep(self) -> None:
        self._transport.sweep()
        self._keep_spare()
        if self._evicted:
            log.warning("%d idle connections were closed: too many open files", self._evicted)
            self._evicted = 0
        self._sweeper = asyncio.get_running_loop().call_later(self._sweep_s, self._sweep)

    def _keep_spare(self) -> None:
        """Hold a descriptor that is given up for a connection where there is no other left."""
        if self._spare is None:
            try:
                self._spare = os.open(os.devnull, os.O_RDONLY)
            except OSError as error:
                log.debug("no spare descriptor: %s", error)

    def _give_up_spare(self) -> bool:
        if self._spare is None:
            return False
        os.close(self._spare)
        self._spare = None
        return True

    def _accept(self) -> bool:
        """Accept one connection: the rest of a burst is left to the other workers.

        Tells whether there may be more.
        """
        try:
            accepted, address = self._accept_somehow()
        except BlockingIOError:
            return False
        except ConnectionAbortedError:  # the client has gone; there may be others
            return True
        except OSError as error:
            if self._accepting and error.errno == errno.EINVAL:
                # Another worker has shut the socket for all, for the daemon is stopping.
                asyncio.get_running_loop().remove_reader(self._listener.fileno())
            elif self._accepting:
                self._pause(error)
            return False
        try:
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            admit(accepted)  # another worker may be closing the socket
            self._transport.adopt(accepted, address)
        except OSError as error:  # the client has gone before its handshake
            log.debug("a connection was lost at once: %s", error)
            accepted.close()
        return True

    def _accept_somehow(self) -> tuple[socket.socket, Any]:
        """Accept; where there is no descriptor left, in place of whoever has waited longest.

        His may be free only when the loop has turned once more, hence the spare one.
        """
        try:
            return self._listener.accept()
        except OSError as error:
            idle = self._connections.longest_idle()
            if error.errno not in (errno.EMFILE, errno.ENFILE) or idle is None:
                raise
            idle.close()
            self._evicted += 1
            is_spared = self._give_up_spare()
        try:
            return self._listener.accept()
        finally:
            if is_spared:
                asyncio.get_running_loop().call_later(POLL_S, self._keep_spare)

    def _pause(self, error: OSError) -> None:
        """Give the others a moment where no connection can be taken (too many open files)."""
        pause_s = POLL_S
        if not self._evicted:  # else what somebody else had is free at once
            pause_s = 1
            log.error("no connection can be accepted for a second: %s", error)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener.fileno())
        loop.call_later(pause_s, self._resume)

    def _resume(self) -> None:
        if self._accepting:
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    async def drain(
        self, timeout_s: float, last: bool, when_closed: Callable[[], None] = lambda: None
    ) -> bool:
        """Stop accepting, answer what was accepted, close; False where that took too long.

        ``when_closed`` is called when no new connection comes any more. ``last`` says that no
        process goes on listening: then the socket is shut for all of them, when what waits in it
        has been accepted.
        A connection without a request stays a moment, since one may be on its way.
        """
        self._connections.start_draining()
        await self._stop_accepting(last)
        when_closed()
        started = time.monotonic()
        # There is no event for this.
        while self._open_connections(started) and time.monotonic() < started + timeout_s:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        is_done = not any(connection.is_busy for connection in self._connections.open)
        await self._transport.close()
        await self._part()
        return is_done

    async def _part(self) -> None:
        """Wait a moment for clients to close, too."""
        deadline = time.monotonic() + LINGER_S
        while self._transport.leaving and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        self._transport.cut()
        self._sweeper.cancel()
        self._give_up_spare()

    async def _stop_accepting(self, last: bool) -> None:
        if not self._accepting:
            return
        if last:
            # Nobody may connect between the last accept and the end of the socket: the kernel would
            # say yes to him, and then reset him.
            ignore_new_connections(self._listener)
            await asyncio.sleep(HANDSHAKE_S)
        self._accepting = False
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        if last:
            while self._accept():
                continue
            try:
                self._listener.shutdown(socket.SHUT_RD)
            except OSError as error:  # another worker was faster
                log.debug("the listening socket is shut already: %s", error)
        self._listener.close()

    def _open_connections(self, since: float) -> bool:
        """Close connections that wait in vain; tell whether any is left."""
        self._transport.sweep()
        now = time.monotonic()
        for connection in list(self._connections.open):
            waited_s = now - max(since, connection.since)
            is_waiting = waited_s >= LINGER_S and connection.is_idle
            is_dripping = connection.phase is Phase.HEAD and waited_s >= DRIP_S
            if is_waiting or is_dripping:
                connection.close()
        return bool(self._connections.open)
