"""The outlet of a pipe: what a model's thread puts in, a transport takes out on its loop."""

from __future__ import annotations

import asyncio
import logging

from pyfuncserver.model.pipe import Pipe

log = logging.getLogger(__name__)


class Outlet:
    """Takes out of a pipe what is there, or waits for it. For the running loop."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._loop = asyncio.get_running_loop()
        self._has_come = asyncio.Event()
        self._is_dry = False
        pipe.listen(self._tell)

    def _tell(self) -> None:
        """Wake the loop; any thread calls it."""
        try:
            self._loop.call_soon_threadsafe(self._has_come.set)
        except RuntimeError as error:  # the loop has ended before the model has
            log.debug("nobody takes the parts of an answer: %s", error)

    async def next(self) -> bytes | None:
        """Give what has come, as soon as anything has; None behind the last of it."""
        while not self._is_dry:
            self._has_come.clear()
            data, self._is_dry = self._pipe.take()
            if data:
                return data
            if not self._is_dry:
                await self._has_come.wait()
        return None
