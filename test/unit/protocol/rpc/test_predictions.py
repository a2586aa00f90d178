from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
import pytest
from harness import wait_until

from pyfuncserver.codec import upi
from pyfuncserver.config import Config
from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.model.call import Answer, Call, Complete
from pyfuncserver.model.lane import Lane
from pyfuncserver.model.service import InferenceService, Stand
from pyfuncserver.protocol.rpc import arrival
from pyfuncserver.protocol.rpc.calls import CallPool
from pyfuncserver.protocol.rpc.gate import Gate
from pyfuncserver.protocol.rpc.predictions import PredictionCalls
from pyfuncserver.protocol.servicer import Method
from pyfuncserver.protocol.upi.dialect import Upi

METHOD = f"/{upi.SERVICE}/{upi.METHOD}"
WAIT_S = 30


class Runner:
    """Keeps what it was handed."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def predict(self, call: Call) -> Answer:
        self.calls.append(call)
        return Complete(upi.messages().PredictValuesResponse())


Serve = Callable[..., grpc.Channel]


@pytest.fixture
def runner() -> Runner:
    return Runner()


@pytest.fixture(params=["as they arrive", "a thread each"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[CallPool]:
    """Give the calls of one server, also as where grpcio is not as it is known."""
    assert arrival.IS_KNOWN
    monkeypatch.setattr(arrival, "IS_KNOWN", request.param == "as they arrive")
    with CallPool(1) as pool:
        yield pool


@pytest.fixture
def serve(clean_environ: Mapping[str, str], runner: Runner, calls: CallPool) -> Iterator[Serve]:
    """Give `serve(authorize)`, which makes a channel to a server."""
    ends: list[Any] = []

    def start(
        authorize: Callable[[str | None], bool] | None = None,
        calls: CallPool = calls,
        width: int = 1,
        queue: int = 0,
    ) -> grpc.Channel:
        config = Config(MODEL_DIR="m", MAX_QUEUE=str(queue), GRPC_CONCURRENCY=str(width))
        service = InferenceService({"model-1": Stand(runner, Lane(width, queue))}, Instruments())
        server = grpc.server(calls)
        methods = {METHOD: Method(Upi(), lambda _: "model-1")}
        served = PredictionCalls(service, methods, config, Gate(), calls, authorize)
        server.add_generic_rpc_handlers((served,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        ends.extend([channel.close, lambda: server.stop(0).wait(WAIT_S)])
        return channel

    yield start
    for end in ends:
        end()


def ask(channel: grpc.Channel, *metadata: tuple[str, str]) -> Any:
    return channel.unary_unary(METHOD)(b"", metadata=metadata, timeout=WAIT_S)


def refusal(call: Any) -> tuple[grpc.StatusCode, str, str]:
    """Give a refusal's code, text and request id."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), error.details(), dict(error.trailing_metadata())["x-request-id"]


def test_headers_reach_the_model(serve: Serve, runner: Runner) -> None:
    ask(serve(), ("foo", "bar"), ("authorization", "Bearer theirs"))
    assert runner.calls[0].headers()["foo"] == "bar"
    assert runner.calls[0].headers()["authorization"] == "Bearer theirs"


def test_token_is_asked_for_and_kept_from_the_model(serve: Serve, runner: Runner) -> None:
    channel = serve(lambda token: token == "Bearer good")
    unauthenticated = (grpc.StatusCode.UNAUTHENTICATED, "A valid bearer token is required.", "id")
    assert refusal(lambda: ask(channel, ("x-request-id", "id"))) == unauthenticated
    bad = ("authorization", "Bearer bad")
    assert refusal(lambda: ask(channel, ("x-request-id", "id"), bad)) == unauthenticated
    assert not runner.calls
    ask(channel, ("foo", "bar"), ("authorization", "Bearer good"))
    assert "authorization" not in runner.calls[0].headers()
    assert runner.calls[0].headers()["foo"] == "bar"


def test_refusal_waits_for_no_message(serve: Serve) -> None:
    channel = serve(lambda token: False)
    never = threading.Event()
    calls = [channel.stream_unary(METHOD).future(_wait(never), timeout=WAIT_S) for _ in range(3)]
    assert [call.code() for call in calls] == [grpc.StatusCode.UNAUTHENTICATED] * 3
    never.set()


def test_call_that_finds_all_threads_taken_is_refused(serve: Serve, calls: CallPool) -> None:
    channel = serve()
    never = threading.Event()
    holder = channel.stream_unary(METHOD).future(_wait(never), timeout=WAIT_S)
    wait_until(lambda: calls.is_full, WAIT_S)
    code, text, _ = refusal(lambda: ask(channel))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "MAX_QUEUE" in text
    holder.cancel()
    never.set()
    wait_until(lambda: not calls.is_full, WAIT_S)
    ask(channel)


def _wait(ended: threading.Event) -> Iterator[bytes]:
    ended.wait(WAIT_S)
    yield from ()


def test_call_without_a_message_is_refused(serve: Serve, runner: Runner) -> None:
    call = serve().stream_unary(METHOD).future(iter(()), timeout=WAIT_S)
    assert (call.code(), call.details()) == (
        grpc.StatusCode.UNIMPLEMENTED,
        "a call needs a message",
    )
    assert not runner.calls


def test_several_calls_at_a_time(serve: Serve, runner: Runner) -> None:
    channel = serve(calls=CallPool(100), width=2, queue=100)
    calls = [channel.unary_unary(METHOD).future(b"", timeout=WAIT_S) for _ in range(50)]
    assert {call.code() for call in calls} == {grpc.StatusCode.OK}
    assert len(runner.calls) == 50


def test_gate_holds_answers_until_it_opens() -> None:
    gate, sent = Gate(), list[int]()
    gate.pass_through(lambda: sent.append(1))
    gate.close()
    gate.pass_through(lambda: sent.append(2))
    gate.pass_through(lambda: sent.append(3))
    assert sent == [1]
    gate.open()
    assert sent == [1, 2, 3]
    gate.wait()


def test_server_of_another_make_is_not_known() -> None:
    class Other:
        """A grpcio that has renamed its parts."""

    assert not arrival._is_known(Other)
    assert arrival.arrival_of((int, 1)) is None
