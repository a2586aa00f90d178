"""Spans: what OpenTelemetry is told of a prediction, from its arrival to its settlement.

A prediction is a span of a server (``v1 predict``), a child of its client's where that has sent a
context; the model's run is a child of that (``model.predict``), and current while the model runs,
so that spans of the model's own code are its children. Import this only where spans are wanted: it
imports OpenTelemetry.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer

from pyfuncserver.errors import ServingError
from pyfuncserver.model.call import Answer, Call, Form, ModelRunner, Request

_PREDICT, _FEEDBACK = "model.predict", "model.feedback"
# Of the attributes those of the semantic conventions are error.type, http.response.status_code and
# rpc.response.status_code.
_SERVER_FAULTS = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
"""The gRPC codes that are an error of the server's ("Semantic conventions for gRPC")."""


class Spans:
    """Begins a span for each prediction. Thread-safe."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, dialect: str, request: Request) -> PredictionSpan:
        """Begin the span of a request that has arrived."""
        # Their names are in Title-Case over HTTP, and the propagators' are not.
        carrier = {name.lower(): value for name, value in request.headers().items()}
        around = propagate.extract(carrier, Context())
        span = self._tracer.start_span(
            f"{dialect} predict",
            context=around,
            kind=SpanKind.SERVER,
            attributes={
                "pyfuncserver.dialect": dialect,
                "pyfuncserver.model": request.model,
                "pyfuncserver.request_id": request.id,
            },
        )
        return PredictionSpan(self._tracer, span, around)


class PredictionSpan:
    """The span of one prediction; ``around`` is what its client has sent of its own context."""

    __slots__ = ("_context", "_span", "_tracer")

    def __init__(self, tracer: Tracer, span: Span, around: Context) -> None:
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span, around)

    def end(self, status: int | str, failure: ServingError | None) -> None:
        """End it with what the client got: an HTTP status, or the name of a gRPC code."""
        span = self._span
        if isinstance(status, int):
            span.set_attribute("http.response.status_code", status)
        else:
            span.set_attribute("rpc.response.status_code", status)
        if failure is not None:
            _mark(span, failure)
        span.end()

    def runner(self, runner: ModelRunner) -> ModelRunner:
        """Give a runner that does the same, and whose runs are children of this span."""
        return _TracedRunner(runner, self)

    @contextmanager
    def run(self, form: Form, links: Sequence[Link] = (), **attributes: int) -> Iterator[Span]:
        """Have what is done inside be the model's run: a child, and this thread's current span.

        ``attributes`` are our own, named without the prefix.
        """
        token = context.attach(self._context)  # with what the client has sent beside the trace
        try:
            with self._tracer.start_as_current_span(
                _FEEDBACK if form is Form.FEEDBACK else _PREDICT,
                links=links,
                attributes={f"pyfuncserver.{key}": value for key, value in attributes.items()},
                record_exception=False,  # the log has it, under the error's id
                set_status_on_exception=False,
            ) as span:
                try:
                    yield span
                except GeneratorExit:
                    raise
                except BaseException as error:
                    _mark(span, error)
                    raise
        finally:
            context.detach(token)

    @contextmanager
    def run_with(self, others: Sequence[PredictionSpan], form: Form) -> Iterator[None]:
        """Have what is done inside be the run of a batch, of this prediction and others.

        A span has one parent: the run is a child of the first prediction that is recorded, and has
        a link to each other one; theirs have a child of the same times that has a link to the run.
        """
        first, *rest = sorted((self, *others), key=lambda one: not one._span.is_recording())
        links = [Link(one._span.get_span_context()) for one in rest]
        begun_at, failure = time.time_ns(), None
        link: Link | None = None
        try:
            with first.run(form, links, batch_calls=1 + len(rest)) as span:
                link = Link(span.get_span_context())
                yield
        except BaseException as error:
            failure = error
            raise
        finally:
            assert link is not None
            for one in rest:
                one._note_run(begun_at, link, failure)

    def _note_run(self, begun_at: int, link: Link, failure: BaseException | None) -> None:
        """Make a child of the run of a batch, which has ended; its beginning is in ns."""
        span = self._tracer.start_span(
            _PREDICT, context=self._context, links=(link,), start_time=begun_at
        )
        if failure is not None:
            _mark(span, failure)
        span.end()


class _TracedRunner:
    """See :meth:`PredictionSpan.runner`."""

    __slots__ = ("_runner", "_span")

    def __init__(self, runner: ModelRunner, span: PredictionSpan) -> None:
        self._runner = runner
        self._span = span

    def predict(self, call: Call) -> Answer:
        with self._span.run(call.form):
            return self._runner.predict(call)

    def stream(self, call: Call) -> Generator[Any, None, None]:
        with self._span.run(call.form):
            yield from self._runner.stream(call)


def _mark(span: Span, failure: BaseException) -> None:
    """Say what failed; whether that makes the span an error depends on whose fault it is."""
    if not isinstance(failure, ServingError):
        span.set_attribute("error.type", type(failure).__name__)
        span.set_status(Status(StatusCode.ERROR))
        return
    span.set_attribute("error.type", failure.kind.label)
    if failure.http_status >= 500 and failure.grpc_code in _SERVER_FAULTS:
        span.set_status(Status(StatusCode.ERROR, str(failure)))
