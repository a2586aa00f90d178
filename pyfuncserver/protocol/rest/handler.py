"""Handlers: what Tornado has becomes a Request, and a Reply what Tornado sends.

What a request means is the dialect's; what becomes of it, the InferenceService's.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import tornado.web
from tornado.iostream import StreamClosedError

from pyfuncserver.errors import ServingError, Unauthenticated, UnsupportedMediaType
from pyfuncserver.model.call import Reply, Request
from pyfuncserver.model.catalogue import Catalogue
from pyfuncserver.model.exchange import Exchange
from pyfuncserver.model.pipe import Pipe
from pyfuncserver.model.service import InferenceService
from pyfuncserver.protocol import request_id
from pyfuncserver.protocol.reloading import Reloader
from pyfuncserver.protocol.rest import coding, deadline, shapes
from pyfuncserver.protocol.rest.cloudevents import NO_ORIGIN, Origin
from pyfuncserver.protocol.rest.outlet import Outlet
from pyfuncserver.protocol.rest.prediction import AUTHORIZATION, CHALLENGE, Route, phrase
from pyfuncserver.scoreboard import Scoreboard
from pyfuncserver.utils.tokens import Tokens

log = logging.getLogger(__name__)

JSON = "application/json; charset=UTF-8"


@dataclass(frozen=True)
class Surroundings:
    """What handlers need of the process that they are in."""

    models: Catalogue
    """Those that are there; where they are not in this process, nothing but their names."""
    scoreboard: Scoreboard
    slow_work: Executor
    """Where the exposition is rendered: it reads files and must not hold up the loop."""
    service: InferenceService | None = None
    """None in the process that serves nothing but probes and metrics."""
    tokens: Tokens | None = None
    """What predictions have to bring, if anything."""
    origin: Origin = NO_ORIGIN
    """Of the events that predictions are answered with, where they come as events."""
    reloader: Reloader | None = None
    """Has models loaded, again or not any more; None where that cannot be asked for."""
    has_docs: bool = True
    """Whether the API is documented by the server itself."""
    passes_payload: bool = False
    """Whether the model gets bodies as they come (PAYLOAD_PASSTHROUGH)."""
    count_feedback: Callable[[float], None] = lambda _: None
    """Is told the reward of each feedback."""
    metrics_path: str | None = "/metrics"
    """Where the exposition is; None where it is on another port."""
    max_body_size: int = sys.maxsize
    """Bytes that a body may have when its coding has been undone."""
    logs_all: bool = False
    """Whether a line is logged for what is no prediction, too."""


@tornado.web.stream_request_body  # else Tornado reads a form into arguments, or refuses it
class Handler(tornado.web.RequestHandler):
    """What all our handlers share: the request's id, the end of a connection, the error body."""

    request_id = ""
    allowed = "GET, HEAD"
    """The methods of this path."""

    def initialize(self, around: Surroundings) -> None:
        self.around = around

    def prepare(self) -> None:
        self.request_id = request_id.take_or_make(self.request.headers.get(request_id.HEADER))
        self.set_header(request_id.HEADER, self.request_id)

    def data_received(self, chunk: bytes) -> None:
        """Drop a body that nobody asked for."""

    def head(self, *args: str, **kwargs: str) -> Awaitable[None] | None:
        """Answer as ``GET`` would; Tornado leaves the body out (RFC 9110, section 9.3.2)."""
        return self.get(*args, **kwargs)

    def send(self, reply: Reply, content_type: str = JSON) -> None:
        """Send a reply whose status is an HTTP status."""
        status = int(reply.status)
        self.set_status(status, phrase(status, reply.reason))
        self.set_header("Content-Type", reply.content_type or content_type)
        for name, value in reply.headers:
            self.set_header(name, value)
        self.finish(reply.body)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say in our own shape what Tornado refused, or what a handler of ours did wrong."""
        cause = kwargs.get("exc_info", (None, None, None))[1]
        self.set_header(request_id.HEADER, self.request_id)
        if status_code == 405:
            self.set_header("Allow", self.allowed)  # RFC 9110, section 15.5.6
        if isinstance(cause, Unauthenticated):
            self.set_header(*CHALLENGE)
        if isinstance(cause, ServingError):
            self.send_error_body(cause.http_status, str(cause))
            return
        if isinstance(cause, tornado.web.HTTPError):
            reason = cause.reason or phrase(status_code)
        elif isinstance(cause, asyncio.CancelledError):
            reason = phrase(status_code)  # the loop has ended, and all connections before it
        else:
            error_id = uuid.uuid4().hex
            log.error("an internal error, error_id=%s", error_id, exc_info=cause)
            reason = f"Internal server error (error id {error_id})"
        self.send_error_body(status_code, reason)

    def send_error_body(self, status: int, reason: str) -> None:
        """Send an error in the shape of the path's dialect."""
        shape = shapes.shape_of(self.request.path)
        self.send(Reply(shape.body(status, reason), status), shape.content_type)

    def log_exception(self, *args: Any) -> None:
        """Leave it to :meth:`write_error`, which logs each fault of ours once."""

    def compute_etag(self) -> None:
        """Give none: an answer is never asked for again, and a hash of it costs time."""


class Predict(Handler):
    """A prediction in one dialect, where a transport has not taken it past the application."""

    allowed = "POST"
    route: Route

    def initialize(self, around: Surroundings, route: Route) -> None:  # type: ignore[override]
        super().initialize(around)
        self.route = route
        self.body = bytearray()
        self.deadline = math.inf
        self.exchange: Exchange | None = None
        self.has_gone = False
        self.sending: asyncio.Future[None] | None = None

    def prepare(self) -> None:
        super().prepare()
        headers = self.request.headers
        self.deadline = self.route.admit(headers.get(AUTHORIZATION), headers.get(deadline.HEADER))

    def headers_for_model(self) -> dict[str, str]:
        """Give the request's headers, without the token that let it in."""
        # Tornado's names are in Title-Case; of duplicates the last one stays.
        headers = dict(self.request.headers.get_all())
        if self.route.tokens is not None:
            headers.pop(AUTHORIZATION, None)
        return headers

    def raw_header(self, name: bytes) -> bytes | None:
        """Give a header's value by its name in lower case."""
        value = self.request.headers.get(name.decode())
        return None if value is None else value.encode("latin-1")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Count what was refused at its head, as the service does what it refuses itself."""
        cause = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(cause, ServingError):
            self.route.refuse(self.model, self.request_id, cause, self.headers_for_model)
        if isinstance(cause, UnsupportedMediaType):  # RFC 9110, section 15.5.16
            self.set_header("Accept-Encoding", coding.ACCEPTED)
        super().write_error(status_code, **kwargs)

    def data_received(self, chunk: bytes) -> None:
        self.body += chunk

    def on_connection_close(self) -> None:
        """Take back a prediction that waits for its turn; one that runs is not disturbed."""
        super().on_connection_close()  # ends the wait for a body that will not come
        self.has_gone = True
        if self.exchange is not None:
            self.exchange.abandon()
        if self.sending is not None:
            self.sending.cancel()  # Tornado forgets who waits for a write

    @property
    def model(self) -> str:
        """The key of the model that is asked for, or of the one that is meant by default."""
        models, named = self.around.models, self.path_kwargs
        if "model" in named:
            return models.key_of(named["model"], named.get("version") or "")
        return models.full_key_of(named["full_name"]) if "full_name" in named else models.default

    async def _whole_body(self) -> bytes:
        """Give the body without its coding. Raises: as :func:`coding.decoded`"""
        body = bytes(self.body)
        codings = self.request.headers.get(coding.HEADER)
        if codings is None:
            return body
        limit = self.around.max_body_size
        return await asyncio.to_thread(coding.decoded, body, codings, limit)

    async def post(self, **_: str) -> None:
        request = Request(
            model=self.model,
            body=await self._whole_body(),
            id=self.request_id,
            headers=self.headers_for_model,
            header=self.raw_header,
            deadline=self.deadline,
            is_wanted=lambda: not self.has_gone,
        )
        loop = asyncio.get_running_loop()
        reply = await self._answer(request, loop)
        if reply.stream is not None:
            with deadline.alarm(loop, request.deadline, self._expire):
                await self._send_stream(reply, reply.stream)
            self.exchange = None
            return
        self.exchange = None
        if reply.retry_after_s is not None:
            self.set_header("Retry-After", str(reply.retry_after_s))
        self.send(reply, self.route.content_type)

    def _expire(self) -> None:
        if self.exchange is not None:
            self.exchange.expire()

    async def _send_stream(self, reply: Reply, stream: Pipe) -> None:
        """Send what comes, as fast as the client reads, until the stream has ended."""
        self.set_header("Content-Type", reply.content_type)
        for name, value in reply.headers:
            self.set_header(name, value)
        if self.request.version == "HTTP/1.0":
            self.set_header("Connection", "close")  # which is how such a client finds the end
        sending = self.sending = asyncio.ensure_future(self._write_all(Outlet(stream)))
        await asyncio.wait([sending])
        if not sending.cancelled():
            sending.result()

    async def _write_all(self, outlet: Outlet) -> None:
        try:
            await self.flush()
            while (data := await outlet.next()) is not None:
                self.write(data)
                await self.flush()
            self.finish()
        except StreamClosedError:  # Tornado may tell so here, before it calls on_connection_close
            self.on_connection_close()

    async def _answer(self, request: Request, loop: asyncio.AbstractEventLoop) -> Reply:
        reply: asyncio.Future[Reply] = loop.create_future()

        def settle(found: Reply) -> None:
            if not reply.done():  # the process ends, and has cancelled this
                reply.set_result(found)

        def deliver(found: Reply) -> None:
            try:
                loop.call_soon_threadsafe(settle, found)
            except RuntimeError as error:  # the loop has ended before the prediction has
                log.debug("request_id=%s: nobody takes the answer: %s", request.id, error)

        self.exchange = self.route.submit(request, deliver)
        with deadline.alarm(loop, request.deadline, self.exchange.expire):
            return await reply
