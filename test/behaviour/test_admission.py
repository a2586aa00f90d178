"""What is let in, what is refused, and what is cut off: a real daemon, over both protocols."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from harness import Daemon, wait_until

from pyfuncserver.codec import upi

METHOD = f"/{upi.SERVICE}/{upi.METHOD}"
WAIT_S = 30
BOTH = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1"}


@dataclass(frozen=True)
class Outcome:
    """What a client saw, in words that both protocols share."""

    status: str
    text: str


class Call(Protocol):
    """A request that was sent."""

    def outcome(self) -> Outcome: ...

    def hang_up(self) -> None: ...


class Client(Protocol):
    """Sends the Controlled model's commands over one protocol."""

    dialect: str
    soon_s: float
    """A deadline that passes soon, and not before the server knows of the call."""

    def send(self, command: str, timeout_s: float | None = None, **numbers: float) -> Call: ...


class HttpCall:
    STATUS = {200: "ok", 429: "overloaded", 504: "deadline"}

    def __init__(self, daemon: Daemon, body: Any, headers: dict[str, str]) -> None:
        self.connection = daemon.connection()
        self.connection.request("POST", daemon.predict_path, json.dumps(body), headers)

    def outcome(self) -> Outcome:
        with contextlib.closing(self.connection):
            response = self.connection.getresponse()
            status = self.STATUS[response.status]
            assert (response.headers["Retry-After"] is not None) == (status == "overloaded")
            return Outcome(status, response.read().decode())

    def hang_up(self) -> None:
        self.connection.close()


class HttpClient:
    dialect = "v1"
    soon_s = 0.3

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    def send(self, command: str, timeout_s: float | None = None, **numbers: float) -> HttpCall:
        headers = {} if timeout_s is None else {"X-Request-Timeout": str(timeout_s)}
        return HttpCall(self.daemon, {"do": command, **numbers}, headers)


class UpiCall:
    STATUS = {
        grpc.StatusCode.OK: "ok",
        grpc.StatusCode.RESOURCE_EXHAUSTED: "overloaded",
        grpc.StatusCode.DEADLINE_EXCEEDED: "deadline",
    }

    def __init__(self, future: Any) -> None:
        self.future = future

    def outcome(self) -> Outcome:
        return Outcome(self.STATUS[self.future.code()], self.future.details() or "")

    def hang_up(self) -> None:
        self.future.cancel()


class UpiClient:
    dialect = "upi"
    soon_s = 1.0
    """It is counted by the client, and the server has to have the call before."""

    def __init__(self, daemon: Daemon) -> None:
        self.call = daemon.channel().unary_unary(METHOD)

    def send(self, command: str, timeout_s: float | None = None, **numbers: float) -> UpiCall:
        message = upi.messages().PredictValuesRequest(target_name=command)
        for key, value in numbers.items():
            message.prediction_context.add(name=key, type=1, double_value=value)
        return UpiCall(self.call.future(message.SerializeToString(), timeout=timeout_s))


CLIENTS = {"HTTP_JSON": HttpClient, "UPI_V1": UpiClient}


@dataclass
class Scene:
    """A daemon, a client of one protocol, and what the metrics say of it."""

    daemon: Daemon
    client: Client

    def send_running(self, command: str, **numbers: float) -> Call:
        """Send what runs at once, and return when it does."""
        expected = self.metric("requests_in_flight") + 1
        call = self.client.send(command, **numbers)
        self.wait_for(in_flight=expected, waiting=0)
        return call

    def hold(self) -> tuple[Call, Callable[[], None]]:
        """Send what runs at once, and return when it does; give it, and what lets it end."""
        gate = self.daemon.gate()
        return self.send_running("hold", gate=gate.number), gate.open

    def send_waiting(self, command: str, timeout_s: float | None = None) -> Call:
        """Send what has to wait, and return when it does."""
        expected = self.metric("requests_waiting") + 1
        call = self.client.send(command, timeout_s)
        self.wait_for(waiting=expected)
        return call

    def wait_for(self, **states: float) -> None:
        def is_so() -> bool:
            return all(self.metric(f"requests_{name}") == n for name, n in states.items())

        wait_until(is_so, WAIT_S, str(states))

    def metric(self, name: str, **labels: str) -> float:
        return self.daemon.metric(f"pyfuncserver_{name}", dialect=self.client.dialect, **labels)

    def errors(self, kind: str) -> float:
        return self.metric("request_errors_total", kind=kind)

    def calls(self) -> float:
        """How often the model was handed the command ``count``."""
        return self.daemon.metric("model_calls_total")


@pytest.fixture(scope="module")
def narrow(over_transport: None, controlled_model: Path) -> Iterator[Daemon]:
    env = {**BOTH, "THREADS": "1", "GRPC_CONCURRENCY": "1", "MAX_QUEUE": "2"}
    with Daemon(controlled_model, env=env) as running:
        yield running


@pytest.fixture(params=CLIENTS)
def scene(request: pytest.FixtureRequest, narrow: Daemon) -> Scene:
    """One prediction runs at a time, two may wait."""
    return Scene(narrow, CLIENTS[request.param](narrow))


def test_one_more_than_may_wait_is_refused_at_once(scene: Scene) -> None:
    refused, answered = scene.errors("overloaded"), scene.calls()
    running, end = scene.hold()
    accepted = [scene.send_waiting("count"), scene.send_waiting("count")]
    outcome = scene.client.send("count").outcome()
    assert outcome.status == "overloaded"
    assert "2 predictions wait already (MAX_QUEUE)" in outcome.text
    assert scene.metric("requests_in_flight") == 3, "it did not wait for the others"
    time.sleep(0.3)  # so that the others wait for longer than most do
    end()
    assert [call.outcome().status for call in (running, *accepted)] == ["ok"] * 3
    assert scene.errors("overloaded") == refused + 1
    assert scene.calls() == answered + 2
    assert scene.metric("requests_waiting") == 0
    assert scene.metric("request_wait_seconds_bucket", le="0.25") < scene.metric(
        "request_wait_seconds_count"
    )


def test_waiting_one_whose_client_goes_is_not_handed_over_and_frees_its_place(
    scene: Scene,
) -> None:
    gone, calls = scene.errors("client_gone"), scene.calls()
    running, end = scene.hold()
    waiting = [scene.send_waiting("count"), scene.send_waiting("count")]
    for call in waiting:
        call.hang_up()
    scene.wait_for(in_flight=1, waiting=0)
    assert scene.errors("client_gone") == gone + 2
    accepted = [scene.send_waiting("pid"), scene.send_waiting("pid")]
    end()
    assert [call.outcome().status for call in (running, *accepted)] == ["ok"] * 3
    assert scene.calls() == calls


def test_waiting_one_whose_deadline_passes_is_not_handed_over(scene: Scene) -> None:
    passed, calls = scene.errors("deadline"), scene.calls()
    running, end = scene.hold()
    started = time.monotonic()
    hasty = scene.client.send("count", timeout_s=scene.client.soon_s)
    assert hasty.outcome().status == "deadline"
    assert time.monotonic() - started > 0.25
    scene.wait_for(in_flight=1, waiting=0)
    assert scene.errors("deadline") == passed + 1
    end()
    assert running.outcome().status == "ok"
    assert scene.client.send("pid", timeout_s=30).outcome().status == "ok"
    assert scene.calls() == calls


def test_deadline_that_passes_while_it_runs_is_told_at_once(scene: Scene) -> None:
    passed = scene.errors("deadline")
    gate = scene.daemon.gate()
    held = scene.client.send("hold", timeout_s=scene.client.soon_s, gate=gate.number)
    assert held.outcome().status == "deadline"
    wait_until(lambda: scene.errors("deadline") == passed + 1, WAIT_S)
    gate.open()
    assert scene.client.send("pid").outcome().status == "ok"


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "1e3", "nan"])
def test_timeout_that_is_none_is_refused(narrow: Daemon, seconds: str) -> None:
    answer = narrow.predict({"do": "pid"}, {"X-Request-Timeout": seconds})
    assert answer.status == 400
    assert answer.json()["reason"].startswith("X-Request-Timeout is not a positive number")


@pytest.fixture(scope="module")
def strict(over_transport: None, controlled_model: Path) -> Iterator[Daemon]:
    env = {**BOTH, "THREADS": "2", "GRPC_CONCURRENCY": "2", "MAX_QUEUE": "0"}
    with Daemon(controlled_model, env=env) as running:
        yield running


@pytest.fixture(params=CLIENTS)
def strict_scene(request: pytest.FixtureRequest, strict: Daemon) -> Scene:
    """Two predictions run at a time, none may wait."""
    return Scene(strict, CLIENTS[request.param](strict))


def test_as_many_run_at_a_time_as_may(strict_scene: Scene) -> None:
    scene = strict_scene
    (first, end_first), (second, end_second) = scene.hold(), scene.hold()
    assert scene.client.send("pid").outcome().status == "overloaded"
    end_first(), end_second()
    assert [first.outcome().status, second.outcome().status] == ["ok", "ok"]


def test_one_client_a_place_is_never_refused(strict_scene: Scene) -> None:
    """A place is free before the answer is out that lets its client send again."""
    refused = strict_scene.errors("overloaded")
    for _ in range(200):
        calls = [strict_scene.client.send("pid"), strict_scene.client.send("pid")]
        assert [call.outcome().status for call in calls] == ["ok", "ok"]
    assert strict_scene.errors("overloaded") == refused


def test_calls_whose_message_never_comes_do_not_hold_up_the_others_for_ever(
    strict: Daemon,
) -> None:
    scene = Scene(strict, UpiClient(strict))
    never = threading.Event()
    with strict.channel() as channel:
        # Four threads are there: for two predictions, and two more whose answers are going out.
        open_calls = [channel.stream_unary(METHOD).future(wait(never)) for _ in range(5)]
        wait_until(lambda: any(call.done() for call in open_calls), WAIT_S)
        (refused,) = [call for call in open_calls if call.done()]
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert scene.client.send("pid").outcome().status == "overloaded"
        assert strict.http("GET", "/").status == 200
        for call in open_calls:
            call.cancel()
        never.set()
        wait_until(lambda: scene.client.send("pid").outcome().status == "ok", WAIT_S)


def test_calls_whose_message_never_comes_make_room_in_time(controlled_model: Path) -> None:
    env = {
        "CARAML_PROTOCOL": "UPI_V1",
        "GRPC_CONCURRENCY": "2",
        "MAX_QUEUE": "2",
        "REQUEST_TIMEOUT_SEC": "4",
    }
    never = threading.Event()
    with Daemon(controlled_model, env=env) as daemon, daemon.channel() as channel:
        client = UpiClient(daemon)
        # Six may be open, so one of seven is refused; none of another client comes before.
        open_calls = [channel.stream_unary(METHOD).future(wait(never)) for _ in range(7)]
        wait_until(lambda: any(call.done() for call in open_calls), WAIT_S)
        assert client.send("pid").outcome().status == "overloaded"
        wait_until(lambda: client.send("pid").outcome().status == "ok", WAIT_S)
        wait_until(lambda: all(call.done() for call in open_calls), WAIT_S)
        codes = Counter(call.code() for call in open_calls)
        assert codes == {grpc.StatusCode.CANCELLED: 6, grpc.StatusCode.RESOURCE_EXHAUSTED: 1}
        never.set()


def wait(ended: threading.Event, *requests: Any) -> Iterator[Any]:
    """Send these requests, and keep the stream open until the event is set."""
    yield from requests
    ended.wait(WAIT_S)


@pytest.mark.parametrize("protocol", CLIENTS)
def test_prediction_that_takes_too_long_is_cut_off(controlled_model: Path, protocol: str) -> None:
    env = {**BOTH, "GRPC_CONCURRENCY": "1", "PREDICT_TIMEOUT_SEC": "2"}
    with Daemon(controlled_model, env=env) as daemon:
        scene = Scene(daemon, CLIENTS[protocol](daemon))
        hanging = scene.send_running("sleep", seconds=60)
        time.sleep(1)  # so that there is time for those that wait when the limit has passed
        waiting = [scene.client.send("pid") for _ in range(5)]
        outcome = hanging.outcome()
        assert outcome.status == "deadline"
        assert "The prediction took longer than 2 s (PREDICT_TIMEOUT_SEC)" in outcome.text
        assert [call.outcome().status for call in waiting] == ["ok"] * 5
        assert scene.errors("timeout") == 1
        assert scene.metric("request_duration_seconds_bucket", le="1.0") == 5
        assert scene.metric("request_duration_seconds_count") == 6
        assert scene.client.send("pid").outcome().status == "ok"


def ask_upi(daemon: Daemon, name: str, **options: Any) -> Any:
    message = upi.messages().PredictValuesRequest(target_name=name)
    return daemon.upi(message, **options)


def refusal(daemon: Daemon, name: str, **options: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        ask_upi(daemon, name, **options)
    return caught.value.code(), caught.value.details()


def test_grpc_messages_that_are_too_large_name_the_setting(controlled_model: Path) -> None:
    env = {
        **BOTH,
        "MAX_BODY_SIZE": "1000",
        "MAX_HEADER_SIZE": "2000",
        "GRPC_OPTIONS": '{"grpc.max_send_message_length": 900}',
    }
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    with Daemon(controlled_model, env=env) as daemon:
        code, text = refusal(daemon, "x" * 1500)
        assert (code, text) == (
            exhausted,
            "The message exceeds the limit of 1000 bytes (MAX_BODY_SIZE)",
        )
        assert refusal(daemon, "x" * 5000)[0] is exhausted
        message = upi.messages().PredictValuesRequest(target_name="echo")
        message.prediction_context.add(name="x" * 950)
        with pytest.raises(grpc.RpcError) as caught:
            daemon.upi(message)
        assert caught.value.code() is exhausted
        assert caught.value.details() == (
            "The answer exceeds the limit of 900 bytes "
            "(grpc.max_send_message_length in GRPC_OPTIONS)"
        )
        assert refusal(daemon, "pid", metadata=[("x-long", "x" * 3000)])[0] is exhausted
        ask_upi(daemon, "pid", metadata=[("x-long", "x" * 500)])
        assert daemon.metric("pyfuncserver_request_errors_total", kind="too_large") == 2


def test_streams_that_stay_open_do_not_hold_up_the_end(controlled_model: Path) -> None:
    # Longer than it is waited for: what held the end up would be found.
    env = {**BOTH, "DRAIN_TIMEOUT_SEC": "120"}
    with Daemon(controlled_model, env=env) as daemon, daemon.channel() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        ended = threading.Event()
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        services = stub.ServerReflectionInfo(wait(ended, question))
        assert next(services).list_services_response.service
        daemon.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert daemon.wait() == 0
        ended.set()
        assert not any("cut off" in line for line in daemon.log_lines())
