"""Whether the process lives, and its metrics; and every other path."""

from __future__ import annotations

import asyncio

import tornado.web

from pyfuncserver.metrics import exposition
from pyfuncserver.model.call import Reply
from pyfuncserver.protocol.rest.handler import Handler


class NoSuchPath(Handler):
    """Any other path; the body is read first, so that the connection can be used again."""

    def refuse(self) -> None:
        raise tornado.web.HTTPError(404, reason=f"No such path: {self.request.path}")

    get = head = post = put = patch = delete = options = refuse  # type: ignore[assignment]


class Alive(Handler):
    """``GET /``: the process answers."""

    def get(self) -> None:
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish("Alive")


class Metrics(Handler):
    """``GET /metrics``, or whichever path METRICS_PATH says."""

    async def get(self) -> None:
        body, content_type = await asyncio.get_running_loop().run_in_executor(
            self.around.slow_work,
            exposition.render,
            self.around.scoreboard,
            self.request.headers.get("Accept", ""),
        )
        self.send(Reply(body, 200), content_type)


PAGES = ((r"/", Alive),)
