"""An answer in parts over our own transport: written as it comes, no faster than it is read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyfuncserver.model.pipe import Pipe
from pyfuncserver.protocol.rest.outlet import Outlet

if TYPE_CHECKING:
    from pyfuncserver.protocol.rest.transport.native import HttpConnection

log = logging.getLogger(__name__)

CHUNKED = b"Transfer-Encoding: chunked\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def is_chunked(connection: HttpConnection) -> bool:
    """Tell how its client finds the end: HTTP/1.0 has no chunks, but the end of the connection."""
    return connection.head.version == "HTTP/1.1"


class Outflow:
    """Writes a body to a connection whose head has been written; ``when_done`` is told its end."""

    def __init__(
        self, connection: HttpConnection, pipe: Pipe, when_done: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._is_chunked = is_chunked(connection)
        self._when_done = when_done
        self._is_writable = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(Outlet(pipe)))

    def resume(self) -> None:
        """Go on: the client has read."""
        self._is_writable.set()

    def abandon(self) -> None:
        """Write no more: the client has gone."""
        self._task.cancel()

    async def _run(self, outlet: Outlet) -> None:
        try:
            await self._write_all(outlet)
        except Exception:
            log.exception("an answer in parts could not be written to its end")
            self._connection.abort()

    async def _write_all(self, outlet: Outlet) -> None:
        connection = self._connection
        while (data := await outlet.next()) is not None:
            connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)
            while not connection.is_writable:
                self._is_writable.clear()
                await self._is_writable.wait()
        if self._is_chunked:
            connection.write(LAST_CHUNK)
        self._when_done()
        connection.finish()
