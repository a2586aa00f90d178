"""The Tornado application: routes to handlers, handlers to dialects.

A handler moves what Tornado has into a Request and a Reply into what Tornado sends. What a request
means is the dialect's; what becomes of it, the InferenceService's.
"""

from __future__ import annotations

import asyncio
import http
import logging
import uuid
from asyncio import Future
from collections.abc import Awaitable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import tornado.web

from pyfuncserver.codec import json
from pyfuncserver.config import NAME_PATTERN
from pyfuncserver.errors import NotReady, ServingError, UnknownModel
from pyfuncserver.metrics import exposition
from pyfuncserver.model.call import Dialect, Reply, Request
from pyfuncserver.model.service import InferenceService
from pyfuncserver.protocol import request_id
from pyfuncserver.protocol.rest import v1
from pyfuncserver.scoreboard import Scoreboard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """What handlers need of the process that they are in."""

    model: str
    """Full name of the model."""
    scoreboard: Scoreboard
    slow_work: Executor
    """Where the exposition is rendered: it reads files and must not hold up the loop."""
    service: InferenceService | None = None
    """None in the process that serves nothing but probes and metrics."""
    predictions: Executor | None = None
    """The threads on which predictions run."""


def application(around: Surroundings) -> tornado.web.Application:
    """Build the application; without a service it has probes and metrics only."""
    routes: list[Any] = [
        (r"/", Alive, {"around": around}),
        (r"/metrics", Metrics, {"around": around}),
        (r"/v1/models", Models, {"around": around}),
        (rf"/v1/models/(?P<model>{NAME_PATTERN})", Readiness, {"around": around}),
    ]
    if around.service is not None:
        routes.append(
            (
                rf"/v1/models/(?P<model>{NAME_PATTERN}):predict",
                Predict,
                {"around": around, "dialect": v1.V1(), "content_type": v1.CONTENT_TYPE},
            )
        )
    return tornado.web.Application(
        routes, default_handler_class=NoSuchPath, default_handler_args={"around": around}
    )


@tornado.web.stream_request_body  # else Tornado reads a form into arguments, or refuses it
class Handler(tornado.web.RequestHandler):
    """What all our handlers share: the request's id, the end of a connection, the error body."""

    request_id = ""

    def initialize(self, around: Surroundings) -> None:
        self.around = around

    def prepare(self) -> None:
        self.request_id = request_id.take_or_make(self.request.headers.get(request_id.HEADER))
        self.set_header(request_id.HEADER, self.request_id)

    def data_received(self, chunk: bytes) -> None:
        """Drop a body that nobody asked for."""

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Future[None]:
        if self.around.scoreboard.is_draining:
            self.set_header("Connection", "close")
        return super().finish(chunk)

    def head(self, *args: str, **kwargs: str) -> Awaitable[None] | None:
        """Answer as ``GET`` would; Tornado leaves the body out (RFC 9110, section 9.3.2)."""
        return self.get(*args, **kwargs)

    def send(self, reply: Reply, content_type: str = v1.CONTENT_TYPE) -> None:
        """Send a reply whose status is an HTTP status."""
        status = int(reply.status)
        self.set_status(status, _phrase(status, reply.reason))
        self.set_header("Content-Type", content_type)
        self.finish(reply.body)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say in our own shape what Tornado refused, or what a handler of ours did wrong."""
        cause = kwargs.get("exc_info", (None, None, None))[1]
        self.set_header(request_id.HEADER, self.request_id)
        if isinstance(cause, ServingError):
            self.send(Reply(v1.error_body(cause.http_status, str(cause)), cause.http_status))
            return
        if isinstance(cause, tornado.web.HTTPError):
            reason = cause.reason or _phrase(status_code)
        else:
            error_id = uuid.uuid4().hex
            log.error("an internal error, error_id=%s", error_id, exc_info=cause)
            reason = f"Internal server error (error id {error_id})"
        self.send(Reply(v1.error_body(status_code, reason), status_code))

    def log_exception(self, *args: Any) -> None:
        """Leave it to :meth:`write_error`, which logs each fault of ours once."""

    def compute_etag(self) -> None:
        """Give none: an answer is never asked for again, and a hash of it costs time."""


def _phrase(status: int, wished: str = "") -> str:
    """Give a reason phrase that fits into a status line (RFC 9112, section 4)."""
    if wished and wished.isascii() and wished.isprintable():
        return wished
    return http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else "Unknown"


class NoSuchPath(Handler):
    def prepare(self) -> None:
        super().prepare()
        raise tornado.web.HTTPError(404, reason=f"No such path: {self.request.path}")


class Alive(Handler):
    """``GET /``: the process answers."""

    def get(self) -> None:
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish("Alive")


class Models(Handler):
    """``GET /v1/models``"""

    def get(self) -> None:
        self.send(Reply(json.dumps({"models": [self.around.model]}), 200))


class Readiness(Handler):
    """``GET /v1/models/{model}``"""

    def get(self, model: str) -> None:
        if model != self.around.model:
            raise UnknownModel(model)
        if not self.around.scoreboard.is_ready:
            raise NotReady(f"Model with full name {model} is not ready.")
        self.send(Reply(json.dumps({"name": model, "ready": True}), 200))


class Metrics(Handler):
    """``GET /metrics``"""

    async def get(self) -> None:
        body, content_type = await asyncio.get_running_loop().run_in_executor(
            self.around.slow_work,
            exposition.render,
            self.around.scoreboard,
            self.request.headers.get("Accept", ""),
        )
        self.send(Reply(body, 200), content_type)


class Predict(Handler):
    """A prediction in one dialect. It runs on a thread of its own, so that probes still answer."""

    dialect: Dialect
    content_type: str

    def initialize(  # type: ignore[override]
        self, around: Surroundings, dialect: Dialect, content_type: str
    ) -> None:
        super().initialize(around)
        self.dialect = dialect
        self.content_type = content_type
        self.body = bytearray()
        self.answer: asyncio.Future[Reply] | None = None

    def data_received(self, chunk: bytes) -> None:
        self.body += chunk

    def on_connection_close(self) -> None:
        """Take back a prediction that waits for its thread; one that runs is not disturbed."""
        if self.answer is not None:
            self.answer.cancel()

    async def post(self, model: str) -> None:
        request = Request(
            model=model,
            body=bytes(self.body),
            id=self.request_id,
            # Tornado's names are in Title-Case; of duplicates the last one stays.
            headers=dict(self.request.headers.get_all()),
        )
        assert self.around.service is not None
        self.answer = asyncio.get_running_loop().run_in_executor(
            self.around.predictions, self.around.service.handle, self.dialect, request
        )
        try:
            self.send(await self.answer, self.content_type)
        except asyncio.CancelledError:
            log.debug("request_id=%s: its client has gone", self.request_id)
