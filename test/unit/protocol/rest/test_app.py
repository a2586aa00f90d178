from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tornado.web
from tornado.httpclient import HTTPResponse
from tornado.httputil import HTTPHeaders
from tornado.testing import AsyncHTTPTestCase

from pyfuncserver.errors import InvalidInput, ModelStatus
from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.model.call import Answer, Call, Complete
from pyfuncserver.model.service import InferenceService
from pyfuncserver.protocol.rest import app
from pyfuncserver.protocol.rest.app import Surroundings, application
from pyfuncserver.scoreboard import Scoreboard, State

PREDICT = "/v1/models/iris-1:predict"


class Runner:
    """Answers by `do`."""

    def __init__(self) -> None:
        self.do: Callable[[Call], Any] = lambda call: {"echo": call.payload}

    def predict(self, call: Call) -> Answer:
        return Complete(self.do(call))


class Server(AsyncHTTPTestCase):
    """Tornado's own test server, used as an object: pytest's fixtures hold it."""

    with_service = True

    def runTest(self) -> None:
        """Exist, as unittest asks."""

    def get_app(self) -> tornado.web.Application:
        self.board = Scoreboard(1)
        self.board.set_slot(0, 1, State.READY, 1)
        self.runner = Runner()
        self.pools = [ThreadPoolExecutor(1), ThreadPoolExecutor(1)]
        service = InferenceService({"iris-1": self.runner}, Instruments())
        around = Surroundings("iris-1", self.board, self.pools[0])
        if self.with_service:
            around = Surroundings("iris-1", self.board, *self.pools[:1], service, self.pools[1])
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
    for pool in server.pools:
        pool.shutdown()


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
    server.runner.do = lambda call: seen.append(call.headers)
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

    monkeypatch.setattr(app.exposition, "render", render)
    status, reason = error(server.ask("/metrics"))
    assert status == 500
    assert "secret" not in reason
    # Tornado's own access log is turned off by logs.configure, which is not called here.
    ours = [record for record in caplog.records if record.name.startswith("pyfuncserver")]
    (record,) = (record for record in ours if record.levelno >= logging.ERROR)
    assert record.getMessage().rpartition("error_id=")[2] in reason


def test_metrics_are_what_accept_asks_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.exposition, "render", lambda board, accept: (b"x 1\n", accept))
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
