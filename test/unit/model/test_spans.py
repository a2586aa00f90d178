"""Spans of predictions that an InferenceService answers, as OpenTelemetry's SDK has them."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Generator, Iterator
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from harness import wait_until
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from pyfuncserver.errors import (
    InvalidInput,
    ModelAborted,
    ModelStatus,
    Overloaded,
    ServingError,
    Unauthenticated,
)
from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.model.assembly import Assembly
from pyfuncserver.model.batch import Batcher, Ticket
from pyfuncserver.model.batch_size import FixedSize
from pyfuncserver.model.batching import BatchingLane
from pyfuncserver.model.call import Answer, Call, Complete, Form, Predictions, Reply, Request
from pyfuncserver.model.lane import Lane
from pyfuncserver.model.plain import Prepared
from pyfuncserver.model.service import InferenceService, Stand
from pyfuncserver.model.spans import Spans
from pyfuncserver.protocol.rest.v1 import V1

WAIT_S = 30
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0{}"


class Words:
    """A dialect whose bodies are words, and whose statuses are ``status``'s."""

    name = "words"
    parts: Any = None

    def __init__(self, is_grpc: bool = False) -> None:
        self._is_grpc = is_grpc

    def decode(self, request: Request) -> Call:
        return Call(Form.JSON, request.body.decode(), request.headers, parts=self.parts)

    def encode(self, answer: Answer) -> Reply:
        return Reply(str(answer.value).encode(), "OK" if self._is_grpc else 200)

    def error(self, error: ServingError) -> Reply:
        return Reply(b"", error.grpc_code if self._is_grpc else error.http_status)


class Parts:
    content_type = "text/plain"
    headers = ()

    def part(self, value: Any) -> bytes:
        return str(value).encode()

    def end(self) -> bytes:
        return b"."

    def error(self, error: ServingError) -> bytes:
        return str(error).encode()


class Runner:
    def __init__(self, answer: Callable[[Call], Any]) -> None:
        self._answer = answer

    def predict(self, call: Call) -> Answer:
        return Complete(self._answer(call))

    def stream(self, call: Call) -> Generator[Any, None, None]:
        yield from self._answer(call)


class Traced:
    """A service, and the spans of what it has answered."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=ParentBased(ALWAYS_ON), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.spans = Spans(provider.get_tracer("test"))
        self.tracer = provider.get_tracer("the model's")

    def service(self, answer: Callable[[Call], Any], lane: Any = None) -> InferenceService:
        lane = lane or Lane(2, 10)
        return InferenceService({"m": Stand(Runner(answer), lane)}, Instruments(), spans=self.spans)

    def ended(self) -> dict[str, ReadableSpan]:
        """Give the spans that have ended, by name; each name once."""
        spans = self._exporter.get_finished_spans()
        found = {span.name: span for span in spans}
        assert len(found) == len(spans)
        return found

    def all(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def traced() -> Traced:
    return Traced()


def request(
    body: str = "x", model: str = "m", headers: dict[str, str] | None = None, **more: Any
) -> Request:
    return Request(model, body.encode(), "an-id", lambda: headers or {}, **more)


def raising(error: BaseException) -> Callable[[Call], Any]:
    def answer(_: Call) -> Any:
        raise error

    return answer


def test_a_prediction(traced: Traced) -> None:
    seen: list[Any] = []
    service = traced.service(lambda _: seen.append(trace.get_current_span()))
    service.handle(Words(), request())
    assert trace.get_current_span() is trace.INVALID_SPAN
    spans = traced.ended()
    server, run = spans["words predict"], spans["model.predict"]
    assert (server.kind, run.kind) == (SpanKind.SERVER, SpanKind.INTERNAL)
    assert server.parent is None
    assert run.parent == server.get_span_context() == server.context
    assert seen[0].get_span_context() == run.context, "the model sees its run"
    assert dict(server.attributes or {}) == {
        "pyfuncserver.dialect": "words",
        "pyfuncserver.model": "m",
        "pyfuncserver.request_id": "an-id",
        "http.response.status_code": 200,
    }
    assert server.status.status_code is run.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("name", ["traceparent", "Traceparent"])
def test_its_clients_context(traced: Traced, name: str) -> None:
    seen: list[Any] = []
    headers = {name: PARENT.format(1), "Baggage": "user=7"}
    service = traced.service(lambda _: seen.append(baggage.get_all()))
    service.handle(Words(), request(headers=headers))
    server = traced.ended()["words predict"]
    assert server.parent is not None
    assert server.parent.is_remote
    assert f"{server.parent.span_id:x}" == "b7ad6b7169203331"
    assert seen == [{"user": "7"}]


def test_a_client_that_is_not_sampled(traced: Traced) -> None:
    headers = {"traceparent": PARENT.format(0)}
    assert traced.service(lambda _: 1).handle(Words(), request(headers=headers)).body == b"1"
    assert traced.ended() == {}


@pytest.mark.parametrize(
    ("is_grpc", "failure", "status", "kind", "is_error"),
    [
        (False, InvalidInput("bad"), 400, "invalid_input", False),
        (True, InvalidInput("bad"), "INVALID_ARGUMENT", "invalid_input", False),
        (False, ModelStatus(418, "tea"), 418, "model_status", False),
        (False, ModelStatus(502, "behind"), 502, "model_status", True),
        (True, ModelAborted("NOT_FOUND"), "NOT_FOUND", "model_aborted", False),
        (True, ModelAborted("INTERNAL"), "INTERNAL", "model_aborted", True),
        (False, RuntimeError("ours"), 500, "internal", True),
        (True, RuntimeError("ours"), "INTERNAL", "internal", True),
    ],
)
def test_a_failure(
    traced: Traced,
    is_grpc: bool,
    failure: BaseException,
    status: int | str,
    kind: str,
    is_error: bool,
) -> None:
    traced.service(raising(failure)).handle(Words(is_grpc), request())
    spans = traced.ended()
    server, run = spans["words predict"], spans["model.predict"]
    name = "rpc.response.status_code" if is_grpc else "http.response.status_code"
    assert server.attributes is not None
    assert run.attributes is not None
    assert (server.attributes[name], server.attributes["error.type"]) == (status, kind)
    assert (server.status.status_code is StatusCode.ERROR) is is_error
    if isinstance(failure, ServingError):
        assert run.attributes["error.type"] == kind
        assert run.status.status_code is server.status.status_code
    else:
        assert run.attributes["error.type"] == "RuntimeError"
    assert "ours" not in f"{server.to_json()}{run.to_json()}", "that is for the log"
    assert not server.events


def test_what_does_not_come_to_the_model(traced: Traced) -> None:
    service = traced.service(lambda _: 1)
    headers = {"traceparent": PARENT.format(1)}
    service.handle(Words(), request(model="another"))
    service.handle(Words(), request(deadline=0.0))
    service.refuse(Words(), request(headers=headers), Unauthenticated())
    kinds = [(span.attributes or {})["error.type"] for span in traced.all("words predict")]
    assert kinds == ["unknown_model", "deadline", "unauthenticated"]
    assert traced.all("words predict")[-1].parent is not None
    assert traced.all("model.predict") == []


def test_one_that_waits_is_turned_away(traced: Traced) -> None:
    may_end, running = threading.Event(), threading.Event()
    replies: SimpleQueue[Reply] = SimpleQueue()

    def answer(_: Call) -> Any:
        running.set()
        return may_end.wait(WAIT_S)

    service = traced.service(answer, Lane(1, 0))
    service.submit(Words(), request(), replies.put)
    assert running.wait(WAIT_S)
    service.handle(Words(), request())
    (turned_away,) = traced.all("words predict")
    assert turned_away.attributes is not None
    assert turned_away.attributes["error.type"] == Overloaded.kind.label
    may_end.set()
    replies.get(timeout=WAIT_S)
    assert len(traced.all("words predict")) == 2


# Streams


def drained(traced: Traced, answer: Callable[[Call], Any]) -> bytes:
    """Have it answered part by part, and read that to the end."""
    replies: SimpleQueue[Reply] = SimpleQueue()
    words, found = Words(), bytearray()
    words.parts = Parts()
    traced.service(answer).submit(words, request(), replies.put)
    pipe = replies.get(timeout=WAIT_S).stream
    assert pipe is not None

    def is_over() -> bool:
        data, is_last = pipe.take()
        found.extend(data)
        return is_last

    wait_until(is_over, WAIT_S)
    return bytes(found)


def test_a_stream(traced: Traced) -> None:
    ends: list[bool] = []

    def answer(_: Call) -> Iterator[int]:
        with traced.tracer.start_as_current_span("inside"):
            yield 1
        ends.append("words predict" in traced.ended())
        yield 2

    assert drained(traced, answer) == b"12."
    spans = traced.ended()
    assert ends == [False], "it ends with the stream"
    assert spans["model.predict"].parent == spans["words predict"].context
    assert spans["inside"].parent == spans["model.predict"].context


def test_a_stream_that_fails_midway(traced: Traced) -> None:
    def answer(_: Call) -> Iterator[int]:
        yield 1
        raise ModelStatus(503, "no more")

    assert drained(traced, answer) == b"1no more"
    for span in traced.ended().values():
        assert span.status.status_code is StatusCode.ERROR


# Batches


class Rows:
    """A model that can be batched: gives back its rows; fails where one is negative."""

    input_schema = None

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer

    def prepare(self, call: Call) -> Prepared:
        return Prepared(np.asarray(call.payload["instances"]), None)

    def invoke(self, prepared: Prepared) -> Any:
        with self._tracer.start_as_current_span("inside"):
            if (prepared.data < 0).any():
                raise ValueError("negative")
            return prepared.data

    def predict(self, call: Call) -> Answer:
        return Predictions(self.invoke(self.prepare(call)), call)


def batched(traced: Traced, *rows: list[float], sampled: str = "") -> list[Reply]:
    """Have these go to the model together; ``sampled`` says 0 or 1 of each client."""
    instruments, size = Instruments(), FixedSize(len(rows))
    model: Any = Rows(traced.tracer)
    assembly: Assembly[Ticket] = Assembly(size, 60)
    lane = BatchingLane(Lane(1, 1), 1, 100, Batcher(model, size), assembly, instruments)
    service = InferenceService({"m": Stand(model, lane)}, instruments, spans=traced.spans)
    replies: list[SimpleQueue[Reply]] = [SimpleQueue() for _ in rows]
    for number, (row, queue) in enumerate(zip(rows, replies, strict=True)):
        context = {"traceparent": PARENT.format(sampled[number])} if sampled else {}
        body = json.dumps({"instances": [row]})
        service.submit(V1(), request(body, headers=context, deadline=math.inf), queue.put)
    return [queue.get(timeout=WAIT_S) for queue in replies]


def test_calls_that_run_together(traced: Traced) -> None:
    assert [reply.status for reply in batched(traced, [1.0], [2.0], [3.0])] == [200] * 3
    servers = {span.context.span_id: span for span in traced.all("v1 predict")}
    runs = traced.all("model.predict")
    assert {run.parent.span_id for run in runs if run.parent} == servers.keys()
    (real,) = (run for run in runs if "pyfuncserver.batch_calls" in (run.attributes or {}))
    others = [run for run in runs if run is not real]
    assert (real.attributes or {})["pyfuncserver.batch_calls"] == 3
    assert len(real.links) == 2
    for other in others:
        assert [link.context for link in other.links] == [real.context]
    (inside,) = traced.all("inside")
    assert inside.parent == real.context


def test_a_batch_that_fails_is_run_again(traced: Traced) -> None:
    statuses = sorted(int(reply.status) for reply in batched(traced, [1.0], [-2.0]))
    assert statuses == [200, 500]
    runs = traced.all("model.predict")
    assert len(runs) == 4, "together, which is a span in both traces; then each alone"
    failed = [run for run in runs if run.status.status_code is StatusCode.ERROR]
    assert len(failed) == 3
    kinds = [str((run.attributes or {})["error.type"]) for run in failed]
    assert sorted(kinds) == ["ValueError", "ValueError", "model_failed"]


def test_the_run_of_a_batch_is_in_a_trace_that_is_recorded(traced: Traced) -> None:
    batched(traced, [1.0], [2.0], [3.0], sampled="010")
    (server,), (run,) = traced.all("v1 predict"), traced.all("model.predict")
    assert run.parent == server.context
    (inside,) = traced.all("inside")
    assert inside.parent == run.context


def test_batches_of_what_is_not_sampled(traced: Traced) -> None:
    assert [reply.status for reply in batched(traced, [1.0], [2.0], sampled="00")] == [200] * 2
    assert traced.ended() == {}
