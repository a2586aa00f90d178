from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from pyfuncserver.errors import NotReady
from pyfuncserver.protocol.rpc.controls import ERRAND_THREADS, ControlCalls
from pyfuncserver.protocol.rpc.gate import Gate
from pyfuncserver.protocol.servicer import Patience, Servicer

WAIT_S = 30


class Served:
    """A service whose errand waits until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.patience: list[Patience] = []
        self.servicer = Servicer(
            "test.Service",
            FileDescriptorSet(),
            {},
            {"Upper": bytes.upper, "Refuse": self.refuse, "Fail": self.fail},
            {"Wait": self.wait},
            frozenset({"Upper", "Wait"}),
        )

    def refuse(self, _: bytes) -> bytes:
        raise NotReady("not yet")

    def fail(self, _: bytes) -> bytes:
        raise KeyError("our own fault")

    def wait(self, body: bytes, patience: Patience) -> bytes:
        self.patience.append(patience)
        assert self.let_go.wait(WAIT_S)
        return body + body


@pytest.fixture
def served() -> Served:
    return Served()


Call = Callable[..., Any]


@pytest.fixture
def call(served: Served) -> Iterator[Call]:
    """Give `call(name, body, token=None, timeout=WAIT_S)`, which makes a future."""
    gate, control = Gate(), ThreadPoolExecutor(1)
    calls = ControlCalls([served.servicer], gate, control, lambda token: token == "open")
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((calls,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

            def ask(name: str, body: bytes, token: str = "open", timeout: float = WAIT_S) -> Any:
                method = channel.unary_unary(f"/test.Service/{name}")
                return method.future(body, metadata=[("authorization", token)], timeout=timeout)

            yield ask
            served.let_go.set()
        server.stop(0).wait(WAIT_S)


def test_no_control_waits_for_an_errand(served: Served, call: Call) -> None:
    errands = [call("Wait", b"x") for _ in range(ERRAND_THREADS + 1)]
    assert call("Upper", b"a").result() == b"A"
    assert not any(errand.done() for errand in errands)
    served.let_go.set()
    assert [errand.result() for errand in errands] == [b"xx"] * len(errands)


def test_an_errand_knows_how_long_its_client_waits(served: Served, call: Call) -> None:
    began = time.monotonic()
    with pytest.raises(grpc.RpcError):
        call("Wait", b"x", timeout=1.5).result()
    (patience,) = served.patience
    assert began < patience.deadline < began + 30, "no deadline is far away"
    ended = time.monotonic() + WAIT_S
    while patience.is_wanted():
        assert time.monotonic() < ended
        time.sleep(0.01)
    assert Patience().is_wanted()
    assert Patience().deadline > time.monotonic() + 1e9


@pytest.mark.parametrize("name", ["Upper", "Wait"])
def test_what_is_guarded_needs_a_token(served: Served, call: Call, name: str) -> None:
    refused = call(name, b"x", token="wrong").exception()
    assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
    assert not served.patience


def test_refusals_and_faults(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    refused = call("Refuse", b"", token="wrong").exception()
    assert (refused.code(), refused.details()) == (grpc.StatusCode.UNAVAILABLE, "not yet")
    failed = call("Fail", b"").exception()
    assert failed.code() is grpc.StatusCode.INTERNAL
    assert "our own fault" not in failed.details()
    error_id = failed.details().rpartition(" ")[2].rstrip(")")
    assert error_id in caplog.text
