from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyfuncserver.errors import InvalidInput, ServingError
from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.model.call import Answer, Call, Complete, Form, Reply, Request
from pyfuncserver.model.service import InferenceService
from pyfuncserver.utils import logs

SECRET = "our own secret"


class Lines:
    """A dialect whose bodies are words."""

    name = "lines"

    def decode(self, request: Request) -> Call:
        if request.body == b"bad":
            raise InvalidInput("a bad line")
        return Call(Form.JSON, request.body.decode(), request.headers)

    def encode(self, answer: Answer) -> Reply:
        return Reply(str(answer.value).encode(), 200)

    def error(self, error: Exception) -> Reply:
        assert isinstance(error, ServingError)
        return Reply(str(error).encode(), error.http_status)


class Runner:
    def __init__(self, answer: Callable[[Call], Any]) -> None:
        self.answer = answer

    def predict(self, call: Call) -> Answer:
        return Complete(self.answer(call))


@pytest.fixture
def instruments() -> Instruments:
    return Instruments()


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Format what is logged where it is logged, since a request's id is known only there."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(logs.EventFormatter().format(record))

    handler = Collector()
    logger = logging.getLogger("pyfuncserver")
    caplog.set_level(logging.INFO, "pyfuncserver")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def value(metric: Any, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in metric.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def ask(
    instruments: Instruments, body: bytes, answer: Callable[[Call], Any] = str, model: str = "m-1"
) -> Reply:
    service = InferenceService({"m-1": Runner(answer)}, instruments)
    return service.handle(Lines(), Request(model, body, "id-1", {}))


def fail(call: Call) -> None:
    raise RuntimeError(SECRET)


CASES = {
    "answered": (b"good", str, "m-1", 200, ""),
    "bad input": (b"bad", str, "m-1", 400, "invalid_input"),
    "unknown model": (b"good", str, "other", 404, "unknown_model"),
    "internal": (b"good", fail, "m-1", 500, "internal"),
}


@pytest.mark.parametrize(("body", "answer", "model", "status", "kind"), CASES.values(), ids=CASES)
def test_request_is_counted(
    instruments: Instruments, body: bytes, answer: Any, model: str, status: int, kind: str
) -> None:
    reply = ask(instruments, body, answer, model)
    assert reply.status == status
    counted = value(
        instruments.requests, "pyfuncserver_requests_total", dialect="lines", code=str(status)
    )
    assert counted == 1
    assert value(instruments.requests, "pyfuncserver_requests_total") == 1
    errors = value(instruments.errors, "pyfuncserver_request_errors_total")
    assert errors == (1 if kind else 0)
    if kind:
        assert value(instruments.errors, "pyfuncserver_request_errors_total", kind=kind) == 1
    assert value(instruments.duration, "pyfuncserver_request_duration_seconds_count") == 1
    assert value(instruments.in_flight, "pyfuncserver_requests_in_flight") == 0


def test_request_is_in_flight_while_the_model_runs(instruments: Instruments) -> None:
    seen: list[float] = []

    def answer(call: Call) -> None:
        seen.append(value(instruments.in_flight, "pyfuncserver_requests_in_flight"))

    ask(instruments, b"good", answer)
    assert seen == [1]


def test_requests_of_several_threads_are_all_counted(instruments: Instruments) -> None:
    together = threading.Barrier(8, timeout=10)

    def answer(call: Call) -> str:
        together.wait()
        return "ok"

    service = InferenceService({"m-1": Runner(answer)}, instruments)
    request = Request("m-1", b"x", "id", {})
    threads = [threading.Thread(target=service.handle, args=(Lines(), request)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert value(instruments.requests, "pyfuncserver_requests_total", code="200") == 8
    assert value(instruments.in_flight, "pyfuncserver_requests_in_flight") == 0


def test_unknown_model_is_named(instruments: Instruments) -> None:
    reply = ask(instruments, b"x", model="other")
    assert reply.body == b"Model with full name other does not exist."


def test_internal_error_is_told_by_an_id_and_logged_once(
    instruments: Instruments, records: list[str]
) -> None:
    reply = ask(instruments, b"x", fail)
    assert SECRET.encode() not in reply.body
    error_id = reply.body.decode().rpartition("error id ")[2].rstrip(")")
    assert error_id
    tracebacks = [line for line in records if SECRET in line]
    assert len(tracebacks) == 1
    assert error_id in tracebacks[0]


@pytest.mark.parametrize(("body", "answer", "model", "status", "kind"), CASES.values(), ids=CASES)
def test_every_line_of_a_request_has_its_id(
    instruments: Instruments,
    records: list[str],
    body: bytes,
    answer: Any,
    model: str,
    status: int,
    kind: str,
) -> None:
    ask(instruments, body, answer, model)
    assert records
    assert all("request_id=id-1 " in line for line in records)
    assert f"lines {model} status={status} in " in records[-1]


def test_model_logs_under_the_requests_id(instruments: Instruments, records: list[str]) -> None:
    log = logging.getLogger("pyfuncserver.somebodys_model")
    ask(instruments, b"x", lambda _: log.info("from the model"))
    line = next(line for line in records if "from the model" in line)
    assert "request_id=id-1" in line


def test_models_are_listed(instruments: Instruments) -> None:
    assert list(InferenceService({"m-1": Runner(str)}, instruments).models) == ["m-1"]
