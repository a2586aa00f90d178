"""One table of cases, run over every protocol: the same meaning, each in its own words."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest
from harness import Daemon

from pyfuncserver.codec import upi


@dataclass(frozen=True)
class Outcome:
    """What a client saw, in words that both protocols share."""

    ok: bool
    status: str
    """The kind of answer: ``ok``, or what went wrong."""
    text: str
    request_id: str


HTTP_STATUS = {200: "ok", 400: "invalid", 404: "unknown", 422: "invalid", 500: "failed"}
GRPC_CODE = {
    grpc.StatusCode.OK: "ok",
    grpc.StatusCode.INVALID_ARGUMENT: "invalid",
    grpc.StatusCode.NOT_FOUND: "unknown",
    grpc.StatusCode.INTERNAL: "failed",
}


class Client(Protocol):
    """Sends the Controlled model's commands over one protocol."""

    def command(self, name: str, request_id: str = "", **numbers: float) -> Outcome: ...

    def garbage(self) -> Outcome: ...


class HttpClient:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    def command(self, name: str, request_id: str = "", **numbers: float) -> Outcome:
        return self._send({"do": name, **numbers}, request_id)

    def garbage(self) -> Outcome:
        return self._send(b"\xff\xfe{", "")

    def _send(self, body: object, request_id: str) -> Outcome:
        headers = {"X-Request-Id": request_id} if request_id else {}
        answer = self.daemon.predict(body, headers)
        given = answer.headers["X-Request-Id"]
        assert answer.headers["Content-Type"] == "application/json; charset=UTF-8"
        if answer.status == 200:
            return Outcome(True, "ok", answer.text, given)
        problem = answer.json()
        assert problem.keys() == {"status_code", "reason"}
        assert problem["status_code"] == answer.status
        return Outcome(False, HTTP_STATUS[answer.status], problem["reason"], given)


class UpiClient:
    def __init__(self, daemon: Daemon) -> None:
        self.channel = daemon.channel()
        self.call = self.channel.unary_unary(f"/{upi.SERVICE}/{upi.METHOD}")

    def command(self, name: str, request_id: str = "", **numbers: float) -> Outcome:
        request = upi.messages().PredictValuesRequest(target_name=name)
        for key, value in numbers.items():
            request.prediction_context.add(name=key, type=1, double_value=value)
        return self._send(request.SerializeToString(), request_id)

    def garbage(self) -> Outcome:
        return self._send(b"\xff\xff\xff", "")

    def _send(self, body: bytes, request_id: str) -> Outcome:
        metadata = [("x-request-id", request_id)] if request_id else []
        try:
            answer, call = self.call.with_call(body, metadata=metadata, timeout=30)
        except grpc.RpcError as error:
            failure: Any = error
            given = dict(failure.trailing_metadata())["x-request-id"]
            return Outcome(False, GRPC_CODE[failure.code()], failure.details(), given)
        response = upi.messages().PredictValuesResponse.FromString(answer)
        return Outcome(True, "ok", str(response), dict(call.trailing_metadata())["x-request-id"])


@pytest.fixture(scope="module")
def daemon(over_transport: None, controlled_model: Path) -> Iterator[Daemon]:
    env = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1", "ACCESS_LOG": "true"}
    with Daemon(controlled_model, env=env) as running:
        yield running


@pytest.fixture(scope="module", params=["HTTP_JSON", "UPI_V1"])
def client(request: pytest.FixtureRequest, daemon: Daemon) -> Client:
    return HttpClient(daemon) if request.param == "HTTP_JSON" else UpiClient(daemon)


CASES = {
    "echo": ("ok", "echo"),
    "pid": ("ok", "pid"),
    "raise": ("failed", "The model failed to answer (error id "),
    "http_error": ("invalid", "no such user"),
    "unjsonable": ("failed", "The model's answer is no"),
    "no such command": ("failed", "The model failed to answer (error id "),
    "system_exit": ("failed", "The model failed to answer (error id "),
}


@pytest.mark.parametrize("command", CASES)
def test_case(client: Client, command: str) -> None:
    status, text = CASES[command]
    outcome = client.command(command)
    assert outcome.status == status
    assert text.split(" no")[0] in outcome.text


def test_a_body_that_is_none(client: Client) -> None:
    assert client.garbage().status == "invalid"


def test_a_long_prediction(client: Client) -> None:
    started = time.monotonic()
    assert client.command("sleep", seconds=1.5).ok
    assert time.monotonic() - started >= 1.5


def test_the_request_id_is_taken_and_echoed_and_logged(client: Client, daemon: Daemon) -> None:
    given = f"id-of-{type(client).__name__}"
    assert client.command("pid", request_id=given).request_id == given
    assert any(f"request_id={given} " in line for line in daemon.log_lines())


def test_a_request_id_is_made_where_none_is_fit(client: Client, daemon: Daemon) -> None:
    first, second = client.command("pid").request_id, client.command("pid").request_id
    assert first != second
    assert client.command("pid", request_id="x" * 200).request_id != "x" * 200
    assert any(f"request_id={first} " in line for line in daemon.log_lines())


def test_a_models_failure_is_in_the_log_once_and_never_in_the_answer(
    client: Client, daemon: Daemon
) -> None:
    import models

    outcome = client.command("raise", request_id="the-failing-one")
    assert models.SECRET not in outcome.text
    assert "Traceback" not in outcome.text
    error_id = outcome.text.partition("(error id ")[2].rstrip(")")
    lines = daemon.log_lines()
    (start,) = [number for number, line in enumerate(lines) if f"error_id={error_id}" in line]
    assert "request_id=the-failing-one" in lines[start]
    assert models.SECRET in lines[start]
    block = []
    for line in lines[start + 1 :]:
        if not line.startswith("  | "):
            break
        block.append(line)
    assert sum("Traceback (most recent call last)" in line for line in block) == 1
    assert any("models.py" in line and "in fail" in line for line in block)


def test_the_models_own_abort_wins(daemon: Daemon) -> None:
    request = upi.messages().PredictValuesRequest(target_name="abort")
    with pytest.raises(grpc.RpcError) as refusal:
        daemon.upi(request)
    assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert refusal.value.details() == "model says no"
    count = daemon.metric("pyfuncserver_requests_total", dialect="upi", code="FAILED_PRECONDITION")
    assert count == 1


def test_an_unknown_method_is_unimplemented(daemon: Daemon) -> None:
    with daemon.channel() as channel, pytest.raises(grpc.RpcError) as refusal:
        channel.unary_unary(f"/{upi.SERVICE}/Nothing")(b"", timeout=30)
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
