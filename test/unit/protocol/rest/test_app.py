from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tornado.web
from tornado import testing
from tornado.httpclient import HTTPResponse
from tornado.httputil import HTTPHeaders

from pyfuncserver.errors import InvalidInput, ModelStatus
from pyfuncserver.metrics import exposition
from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.model.call import Answer, Call, Complete
from pyfuncserver.model.catalogue import Catalogue
from pyfuncserver.model.identity import Identity
from pyfuncserver.model.lane import Lane
from pyfuncserver.model.service import InferenceService, Stand
from pyfuncserver.protocol.rest.app import application
from pyfuncserver.protocol.rest.handler import Surroundings
from pyfuncserver.scoreboard import Scoreboard, State

PREDICT = "/v1/models/iris-1:predict"


class Runner:
    """Answers by `do`."""

    def __init__(self) -> None:
        self.do: Callable[[Call], Any] = lambda call: {"echo": call.payload}

    def predict(self, call: Call) -> Answer:
        return Complete(self.do(call))


IRIS = Identity("iris", "1", "iris-1")


class Server(testing.AsyncHTTPTestCase):
    """Tornado's own test server, used as an object: pytest's fixtures hold it."""

    with_service = True

    def runTest(self) -> None:
        """Exist, as unittest asks."""

    def get_app(self) -> tornado.web.Application:
        self.board = Scoreboard(1)
        self.board.set_slot(0, 1, State.READY, 1)
        self.board.beat(0)
        self.board.beat(0)
        self.runner = Runner()
        self.slow_work = ThreadPoolExecutor(1)
        service = InferenceService({"iris-1": Stand(self.runner, Lane(1, 1))}, Instruments())
        around = Surroundings(Catalogue.of(IRIS), self.board, self.slow_work)
        if self.with_service:
            around = Surroundings(Catalogue.of(IRIS), self.board, self.slow_work, service)
        return application(around)

    def ask(self, path: str, body: Any = None, **options: Any) -> HTTPResponse:
        if body is not None:
            options.setdefault("method", "POST")
            options["body"] = body if isinstance(body, bytes) else json.dumps(body)
        return self.fetch(path, **options)


@contextlib.contextmanager
def serving(with_service: bool) -> Iterator[Server]:
    server = Server()
    server.with_service = with_service
    server.setUp()
    yield server
    server.tearDown()
    server.slow_work.shutdown()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(with_service=True) as found:
        yield found


def error(answer: HTTPResponse) -> tuple[int, str]:
    """Give status and reason of an error, when status line, header and body agree."""
    body = json.loads(answer.body)
    assert set(body) == {"status_code", "reason"}
    assert body["status_code"] == answer.code
    assert answer.headers["Content-Type"] == "application/json; charset=UTF-8"
    return answer.code, body["reason"]


def test_alive(server: Server) -> None:
    answer = server.ask("/")
    assert (answer.code, answer.body) == (200, b"Alive")


def test_models(server: Server) -> None:
    assert json.loads(server.ask("/v1/models").body) == {"models": ["iris-1"]}


def test_readiness(server: Server) -> None:
    answer = server.ask("/v1/models/iris-1")
    assert answer.code == 200
    assert json.loads(answer.body) == {"name": "iris-1", "ready": True}
    server.board.set_slot(0, 1, State.STARTING, 1)
    assert error(server.ask("/v1/models/iris-1"))[0] == 503


def test_draining_process_is_not_ready_and_closes_connections(server: Server) -> None:
    server.board.set_draining()
    answer = server.ask("/v1/models/iris-1")
    assert error(answer)[0] == 503
    assert answer.headers["Connection"] == "close"
    assert server.ask(PREDICT, {"a": 1}).code == 200, "what still comes is answered"


@pytest.mark.parametrize("path", ["/v1/models/other", "/v1/models/other:predict"])
def test_unknown_model(server: Server, path: str) -> None:
    body = {"a": 1} if path.endswith("predict") else None
    expected = (404, "Model with full name other does not exist.")
    assert error(server.ask(path, body)) == expected


@pytest.mark.parametrize(
    "path", ["/no", "/v1", "/v1/models/a%20b", "/v1/models/iris-1:explain", "/%ff", "//"]
)
def test_unknown_path(server: Server, path: str) -> None:
    assert error(server.ask(path))[0] == 404


@pytest.mark.parametrize(
    ("path", "method"), [(PREDICT, "GET"), ("/", "DELETE"), ("/v1/models", "DELETE")]
)
def test_method_that_a_path_has_not(server: Server, path: str, method: str) -> None:
    assert error(server.ask(path, method=method))[0] == 405


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "no type", ""])
def test_prediction_of_any_content_type(server: Server, content_type: str) -> None:
    answer = server.ask(PREDICT, {"a": [1]}, headers={"Content-Type": content_type})
    assert answer.code == 200
    assert answer.headers["Content-Type"] == "application/json; charset=UTF-8"
    assert json.loads(answer.body) == {"echo": {"a": [1]}}
    assert "Etag" not in answer.headers


def test_body_that_is_not_json(server: Server) -> None:
    status, reason = error(server.ask(PREDICT, b"{"))
    assert status == 400
    assert reason.startswith("Unrecognized request format: ")


def test_headers_reach_the_model(server: Server) -> None:
    seen: list[Mapping[str, str]] = []
    server.runner.do = lambda call: seen.append(call.headers())
    headers = HTTPHeaders({"foo": "first", "x-request-id": "id-1"})
    headers.add("FOO", "last")
    server.ask(PREDICT, {}, headers=headers)
    assert type(seen[0]) is dict
    assert seen[0]["Foo"] == "last"
    assert seen[0]["X-Request-Id"] == "id-1"


@pytest.mark.parametrize("path", ["/", "/v1/models/iris-1", "/v1/models/other", "/no"])
def test_request_id_is_echoed(server: Server, path: str) -> None:
    assert server.ask(path, headers={"X-Request-Id": "id-1"}).headers["X-Request-Id"] == "id-1"
    assert server.ask(path).headers["X-Request-Id"] != ""


def test_request_id_of_an_error(server: Server) -> None:
    headers = {"X-Request-Id": "id-1"}
    assert server.ask(PREDICT, b"{", headers=headers).headers["X-Request-Id"] == "id-1"
    assert server.ask(PREDICT, headers=headers).headers["X-Request-Id"] == "id-1", "a 405"


def raising(error_: Exception) -> Callable[[Call], Any]:
    def do(call: Call) -> Any:
        raise error_

    return do


@pytest.mark.parametrize("reason", ["no such user", "Ungültig", "two\nlines", "<b>", "x" * 3000])
def test_status_and_reason_of_the_model(server: Server, reason: str) -> None:
    server.runner.do = raising(ModelStatus(422, reason))
    answer = server.ask(PREDICT, {})
    assert error(answer) == (422, reason)
    if reason == "no such user":
        assert answer.reason == reason


def test_status_that_has_no_name(server: Server) -> None:
    server.runner.do = raising(ModelStatus(499, "gone"))
    assert error(server.ask(PREDICT, {})) == (499, "gone")


def test_invalid_input(server: Server) -> None:
    server.runner.do = raising(InvalidInput("column 'a' is missing"))
    assert error(server.ask(PREDICT, {})) == (400, "column 'a' is missing")


def test_fault_of_ours_is_told_by_an_id_and_logged_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def render(*_: object) -> None:
        raise RuntimeError("our secret")

    monkeypatch.setattr(exposition, "render", render)
    status, reason = error(server.ask("/metrics"))
    assert status == 500
    assert "secret" not in reason
    # Tornado's own access log is turned off by logs.configure, which is not called here.
    ours = [record for record in caplog.records if record.name.startswith("pyfuncserver")]
    (record,) = (record for record in ours if record.levelno >= logging.ERROR)
    assert record.getMessage().rpartition("error_id=")[2] in reason


def test_metrics_are_what_accept_asks_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "render", lambda board, accept: (b"x 1\n", accept))
    answer = server.ask("/metrics", headers={"Accept": "text/special"})
    assert answer.body == b"x 1\n"
    assert answer.headers["Content-Type"] == "text/special"


def test_probes_answer_while_a_prediction_runs(server: Server) -> None:
    may_end = threading.Event()

    def wait(call: Call) -> str:
        return "ended" if may_end.wait(10) else "late"

    server.runner.do = wait

    async def both() -> tuple[bytes, bytes]:
        client = server.http_client
        slow = client.fetch(server.get_url(PREDICT), method="POST", body="{}")
        alive = await client.fetch(server.get_url("/"))
        may_end.set()
        return alive.body, (await slow).body

    assert server.io_loop.run_sync(both, timeout=10) == (b"Alive", b'"ended"')


def test_without_a_service_there_are_probes_only() -> None:
    with serving(with_service=False) as server:
        assert server.ask("/").code == 200
        assert server.ask("/v1/models/iris-1").code == 200
        assert error(server.ask(PREDICT, {}))[0] == 404


@contextlib.contextmanager
def held(server: Server) -> Iterator[threading.Event]:
    """Hold whatever the model is asked from now on, until the event is set or the block ends."""
    may_end = threading.Event()
    server.runner.do = lambda call: may_end.wait(10) and "ended"
    yield may_end
    may_end.set()


@pytest.mark.parametrize(
    "seconds", ["0", "-1", "0.0", "1e3", "nan", "inf", "", "1 s", "1,2", "9" * 999]
)
def test_timeout_that_is_none(server: Server, seconds: str) -> None:
    seen: list[Call] = []
    server.runner.do = seen.append
    status, reason = error(server.ask(PREDICT, {}, headers={"X-Request-Timeout": seconds}))
    assert status == 400
    assert reason.startswith("X-Request-Timeout is not a positive number of seconds: ")
    assert len(reason) < 120
    assert not seen


@pytest.mark.parametrize("seconds", ["30", "30.", "30.5", ".9", "9" * 30])
def test_timeout_that_does_not_pass(server: Server, seconds: str) -> None:
    assert server.ask(PREDICT, {}, headers={"X-Request-Timeout": seconds}).code == 200


def test_timeout_that_passes_while_the_prediction_runs(server: Server) -> None:
    with held(server):
        started = time.monotonic()
        answer = server.ask(PREDICT, {}, headers={"X-Request-Timeout": "0.1"})
        assert error(answer) == (504, "The request's deadline passed before it was answered")
        assert time.monotonic() - started < 5


def test_timeout_that_passes_while_the_prediction_waits(server: Server) -> None:
    seen: list[Any] = []
    began, may_end = threading.Event(), threading.Event()

    def hold(call: Call) -> str:
        seen.append(call.payload)
        began.set()
        return "ended" if may_end.wait(10) else "late"

    async def two() -> tuple[int, bytes]:
        first = fetch(server, "first")
        assert await asyncio.to_thread(began.wait, 10)
        waiting = await fetch(server, "second", **{"X-Request-Timeout": "0.1"})
        may_end.set()
        return waiting.code, (await first).body

    server.runner.do = hold
    assert server.io_loop.run_sync(two, timeout=10) == (504, b'"ended"')
    assert server.ask(PREDICT, "third").code == 200
    assert seen == ["first", "third"]


def test_one_too_many_is_told_when_to_try_again(server: Server) -> None:
    async def three() -> HTTPResponse:
        asked = [fetch(server, name) for name in ("first", "second", "third")]
        done, accepted = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        may_end.set()
        assert [(await answer).code for answer in accepted] == [200, 200]
        return done.pop().result()

    with held(server) as may_end:
        refused = server.io_loop.run_sync(three, timeout=10)
    status, reason = error(refused)
    assert status == 429
    assert reason.startswith("1 predictions wait already (MAX_QUEUE)")
    assert refused.headers["Retry-After"] == "1"


def fetch(server: Server, body: str, **headers: str) -> Any:
    return server.http_client.fetch(
        server.get_url(PREDICT),
        method="POST",
        body=json.dumps(body),
        headers=headers,
        raise_error=False,
    )
