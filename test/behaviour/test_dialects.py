"""One table of cases, run over every dialect: the same meaning, each in its own shape."""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from behaviour import dialects
from behaviour.dialects import (
    ANSWER,
    CLIENTS,
    COLUMNS,
    COUNT,
    FAIL,
    GATE,
    HOLD,
    MISSING,
    NONSENSE,
    REFUSE,
    Call,
    Client,
    HttpClient,
    Outcome,
    Row,
)
from harness import Daemon, wait_until

Save = Callable[..., Path]

WAIT_S = 30
MAX_BODY_SIZE = 20_000
BOTH = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1"}
STATUS = {
    "ok": (200, "OK"),
    "invalid_input": (400, "INVALID_ARGUMENT"),
    "unknown_model": (404, "NOT_FOUND"),
    "too_large": (413, "RESOURCE_EXHAUSTED"),
    "model_status": (422, "INVALID_ARGUMENT"),
    "overloaded": (429, "RESOURCE_EXHAUSTED"),
    "model_failed": (500, "INTERNAL"),
    "unsupported": (501, "UNIMPLEMENTED"),
    "deadline": (504, "DEADLINE_EXCEEDED"),
}
"""By the kind that the metrics name: HTTP's status and gRPC's."""
FAILURES = re.compile(
    r'^pyfuncserver_request_errors_total{dialect="(\w+)",kind="(\w+)",model="[^"]*"} ([0-9.]+)$',
    re.MULTILINE,
)
"""What the exposition counts; read here without the parser, which takes a third of the time."""


@pytest.fixture(scope="session")
def acting_rows_model(save_model: Save) -> Path:
    def save(_: Any, path: Path) -> Path:
        from behaviour import dialect_models  # where warnings are no errors

        return dialect_models.save_acting(path)

    return save_model("acting_rows", save)


@dataclass
class Scene:
    """A daemon, a client of one dialect, and what the metrics say of it."""

    daemon: Daemon
    client: Client
    gates: Path
    numbers: Iterator[int]

    @property
    def soon_s(self) -> float:
        """A deadline that passes soon, and not before the server knows of the call.

        Over gRPC the client counts it, too; over HTTP the server does, from when it has the head.
        """
        return 0.25 if self.client.wire == "http" else 1.0

    def metric(self, name: str, **labels: str) -> float:
        return self.daemon.metric(f"pyfuncserver_{name}", dialect=self.client.dialect, **labels)

    def failures(self) -> dict[str, float]:
        """Count the dialect's failures, by their kind."""
        found = dict.fromkeys((*STATUS, "client_gone"), 0.0)
        for dialect, kind, count in FAILURES.findall(self.daemon.http("GET", "/metrics").text):
            if dialect == self.client.dialect:
                found[kind] += float(count)  # those of a model that is not there are apart
        return found

    def expect(self, kind: str, act: Callable[[], Outcome | None]) -> Outcome | None:
        """Have it fail, or not, as that kind: by its status, and by what is counted.

        What is answered before a body was read is counted apart, as it is no prediction yet.
        """
        before = self.failures()
        outcome = act()
        is_over_http = self.client.wire == "http"
        if outcome is not None:
            assert outcome.status == STATUS[kind][0 if is_over_http else 1], outcome.text
            assert "Traceback" not in outcome.text
            assert dialects.SECRET not in outcome.text
        if kind != "ok" and not (kind == "too_large" and is_over_http):
            before[kind] += 1
        wait_until(lambda: self.failures() == before, WAIT_S, f"{kind} is what is counted")
        return outcome

    def hold(self) -> tuple[Call, Callable[[], None]]:
        """Have the one prediction run that may run; give it, and what ends it."""
        gate = self.gates / str(next(self.numbers))
        call = self.client.start(self.client.body([(HOLD, int(gate.name))]))
        self.wait_for(in_flight=1, waiting=0)
        return call, gate.touch

    def wait_for(self, **states: float) -> None:
        def is_so() -> bool:
            return all(self.metric(f"requests_{name}") == n for name, n in states.items())

        wait_until(is_so, WAIT_S, str(states))

    def start_waiting(self) -> Call:
        """Send what has to wait, and return when it does."""
        call = self.client.start(self.client.body([(COUNT, 1)]))
        self.wait_for(in_flight=2, waiting=1)
        return call

    def calls(self) -> float:
        """How often the model was handed COUNT."""
        return self.daemon.metric("model_calls_total")


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gates")


@pytest.fixture(scope="module")
def daemon(over_transport: None, acting_rows_model: Path, gates: Path) -> Iterator[Daemon]:
    """One prediction runs at a time, one may wait."""
    env = {
        **BOTH,
        "THREADS": "1",
        "GRPC_CONCURRENCY": "1",
        "MAX_QUEUE": "1",
        "MAX_BODY_SIZE": str(MAX_BODY_SIZE),
        GATE: str(gates),
    }
    with Daemon(acting_rows_model, env=env) as running:
        yield running


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count()


@pytest.fixture(scope="module")
def clients(daemon: Daemon) -> Iterator[dict[str, Client]]:
    made = {name: make(daemon) for name, make in CLIENTS.items()}
    yield made
    for client in made.values():
        client.close()


@pytest.fixture(params=CLIENTS)
def scene(
    request: pytest.FixtureRequest,
    daemon: Daemon,
    clients: dict[str, Client],
    gates: Path,
    numbers: Iterator[int],
) -> Scene:
    return Scene(daemon, clients[request.param], gates, numbers)


@dataclass(frozen=True)
class Case:
    kind: str
    rows: Sequence[Row] = ()
    columns: Sequence[str] = COLUMNS
    says: str = ""
    """What the text holds."""
    values: Sequence[float | None] = ()
    spoil: Callable[[Client, bytes], bytes] = lambda _, body: body


MINE = "mine"
"""What a client sends, and no answer repeats."""
CASES = {
    "an answer": Case("ok", [(ANSWER, 1.5)], values=[3]),
    "many rows": Case("ok", [(ANSWER, x) for x in range(99)], values=range(0, 198, 2)),
    "columns in another order": Case("ok", [(1.5, ANSWER)], ("x", "do"), values=[3]),
    "a column too many": Case("ok", [(ANSWER, 1.5, 2)], (*COLUMNS, "y"), values=[3]),
    "a number is missing": Case("ok", [(MISSING, 1)], values=[None]),
    "no request": Case("invalid_input", spoil=lambda client, _: client.malformed),
    "nothing": Case("invalid_input", spoil=lambda *_: b""),
    "text for numbers": Case("invalid_input", [(MINE, MINE)]),
    "a column is missing": Case("invalid_input", [(ANSWER,)], ("do",), "missing inputs ['x']"),
    "the model raises": Case("model_failed", [(FAIL, 1)], says="The model failed"),
    "the model answers nonsense": Case("model_failed", [(NONSENSE, 1)], says="The model's answer"),
    "the model says how": Case("model_status", [(REFUSE, 1)], says=dialects.REFUSED),
}


@pytest.mark.parametrize("name", CASES)
def test_case(scene: Scene, name: str) -> None:
    case = CASES[name]
    body = case.spoil(scene.client, scene.client.body(case.rows, case.columns))
    outcome = scene.expect(case.kind, lambda: scene.client.start(body, request_id=MINE).outcome())
    assert outcome is not None
    assert outcome.values == list(case.values)
    assert case.says in outcome.text
    assert (case.kind == "ok") == (not outcome.text)
    assert MINE not in outcome.text
    assert outcome.request_id == MINE
    if case.kind == "model_failed":
        error_id = outcome.text.partition("(error id ")[2].rstrip(")")
        assert len(error_id) == 32
        assert f"error_id={error_id}" in scene.daemon.log()


@pytest.mark.parametrize("scene", [n for n in CLIENTS if CLIENTS[n].names_model], indirect=True)
def test_another_model(scene: Scene) -> None:
    outcome = scene.expect("unknown_model", scene.client.ask_another)
    assert outcome is not None
    assert outcome.text == "Model with full name other does not exist."


def test_more_bytes_than_may_be(scene: Scene) -> None:
    def size_of(number: int) -> int:
        return len(scene.client.body([(ANSWER, 1)] * number))

    number = next(n for n in itertools.count(100, 50) if size_of(n) > MAX_BODY_SIZE)
    refused = scene.daemon.metric("pyfuncserver_http_refusals_total", code="413")
    outcome = scene.expect("too_large", lambda: scene.client.ask(*[(ANSWER, 1)] * number))
    assert outcome is not None
    assert outcome.text.endswith(f"exceeds the limit of {MAX_BODY_SIZE} bytes (MAX_BODY_SIZE)")
    counted = scene.daemon.metric("pyfuncserver_http_refusals_total", code="413")
    assert counted == refused + (scene.client.wire == "http")


@pytest.mark.parametrize(
    "scene", [n for n in CLIENTS if issubclass(CLIENTS[n], HttpClient)], indirect=True
)
def test_what_http_refuses_has_the_shape_of_its_path(scene: Scene) -> None:
    """It is answered before any handler is asked."""
    client = scene.client
    assert isinstance(client, HttpClient)

    def said(status: int, body: bytes, headers: dict[str, str]) -> str:
        answer = scene.daemon.http("POST", client.path, body, headers)
        assert answer.status == status
        return client.refusal(status, answer.headers["Content-Type"], answer.body)

    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (MAX_BODY_SIZE + 1, bytes(MAX_BODY_SIZE + 1))
    assert "MAX_BODY_SIZE" in said(413, chunk, {"Transfer-Encoding": "chunked"})
    assert "chunk" in said(400, b"no chunk\r\n", {"Transfer-Encoding": "chunked"})
    assert "Malformed" in said(400, b"", {"Transfer-Encoding": "gzip"})
    assert "MAX_HEADER_SIZE" in said(431, b"", {"X-Long": "x" * 100_000})


def test_one_more_than_may_wait(scene: Scene) -> None:
    running, end = scene.hold()
    waiting = scene.start_waiting()
    outcome = scene.expect("overloaded", lambda: scene.client.ask((ANSWER, 1)))
    assert outcome is not None
    assert "1 predictions wait already (MAX_QUEUE)" in outcome.text
    assert outcome.retry_after == ("1" if scene.client.wire == "http" else None)
    end()
    assert running.outcome().values
    assert waiting.outcome().values == scene.client.ask((ANSWER, 1)).values == [2]


def test_a_deadline_that_passes_while_it_waits(scene: Scene) -> None:
    calls = scene.calls()
    running, end = scene.hold()
    outcome = scene.expect("deadline", lambda: scene.client.ask((COUNT, 1), timeout_s=scene.soon_s))
    assert outcome is not None
    assert "deadline" in outcome.text.lower()
    end()
    assert running.outcome().values
    assert scene.calls() == calls, "the model was not asked"


def test_a_deadline_that_passes_while_it_runs(scene: Scene) -> None:
    number = next(scene.numbers)
    outcome = scene.expect(
        "deadline", lambda: scene.client.ask((HOLD, number), timeout_s=scene.soon_s)
    )
    assert outcome is not None
    assert "deadline" in outcome.text.lower()
    (scene.gates / str(number)).touch()
    assert scene.client.ask((ANSWER, 1)).values == [2]


def test_a_client_that_goes_while_its_request_waits(scene: Scene) -> None:
    calls = scene.calls()
    running, end = scene.hold()
    waiting = scene.start_waiting()
    scene.expect("client_gone", waiting.hang_up)
    scene.wait_for(in_flight=1, waiting=0)
    end()
    assert running.outcome().values
    assert scene.client.ask((ANSWER, 1)).values == [2]
    assert scene.calls() == calls, "the model was not asked"


def test_not_ready_any_more(over_transport: None, acting_rows_model: Path) -> None:
    """Before it drains all dialects say so, and all still answer."""
    with Daemon(acting_rows_model, env={**BOTH, "DRAIN_DELAY_SEC": "60"}) as daemon:
        clients = [make(daemon) for make in CLIENTS.values()]
        assert all(client.is_ready() for client in clients)
        daemon.terminate()
        wait_until(lambda: not any(client.is_ready() for client in clients), WAIT_S, "they say so")
        assert [client.ask((ANSWER, 1)).values for client in clients] == [[2]] * len(clients)
        for client in clients:
            client.close()
        daemon.terminate()  # which ends the delay, too
        assert daemon.wait() == 128 + signal.SIGTERM


def test_a_model_that_takes_only_json(over_transport: None, legacy_model: Path) -> None:
    with Daemon(legacy_model, env=BOTH) as daemon:
        for name in CLIENTS.keys() - {"v1"}:
            client = CLIENTS[name](daemon)
            outcome = client.ask((ANSWER, 1))
            client.close()
            assert outcome.status == STATUS["unsupported"][0 if client.wire == "http" else 1], name
            assert outcome.text.startswith("A legacy model does not answer "), name
        assert daemon.predict([1]).json()["echo"] == [1]
