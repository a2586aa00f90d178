"""CONTRACTS, section 2, to the letter: what a KServe V1 client of Merlin's server relies on."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Daemon


@pytest.fixture(scope="module")
def daemon(over_transport: None, controlled_model: Path) -> Iterator[Daemon]:
    env = {"CARAML_MODEL_NAME": "my.model", "CARAML_MODEL_VERSION": "3-b"}
    with Daemon(controlled_model, env=env) as running:
        yield running


def test_alive(daemon: Daemon) -> None:
    answer = daemon.http("GET", "/")
    assert (answer.status, answer.body) == (200, b"Alive")


@pytest.mark.parametrize("path", ["/", "/metrics", "/v1/models", "/v1/models/my.model-3-b"])
def test_head_is_get_without_a_body(daemon: Daemon, path: str) -> None:
    answer = daemon.http("HEAD", path)
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 0
    assert daemon.http("HEAD", daemon.predict_path).status == 405


def test_models(daemon: Daemon) -> None:
    assert daemon.http("GET", "/v1/models").json() == {"models": ["my.model-3-b"]}


def test_readiness(daemon: Daemon) -> None:
    answer = daemon.http("GET", "/v1/models/my.model-3-b")
    assert (answer.status, answer.json()) == (200, {"name": "my.model-3-b", "ready": True})


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/v1/models/nobody"),
    ("POST", "/v1/models/nobody:predict"),
])  # fmt: skip
def test_an_unknown_model(daemon: Daemon, method: str, path: str) -> None:
    answer = daemon.http(method, path, b"{}" if method == "POST" else None)
    reason = "Model with full name nobody does not exist."
    assert (answer.status, answer.json()) == (404, {"status_code": 404, "reason": reason})


@pytest.mark.parametrize("path", ["/v1/models/a b", "/v9", "/v1/models/x/y", "/v1/models/%0d%0a"])
def test_an_unknown_path(daemon: Daemon, path: str) -> None:
    answer = daemon.http("GET", path.replace(" ", "%20"))
    assert answer.status == 404
    assert answer.json()["status_code"] == 404


def test_a_wrong_method(daemon: Daemon) -> None:
    answer = daemon.http("GET", daemon.predict_path)
    assert (answer.status, answer.json()["status_code"]) == (405, 405)


BAD_BODIES = {
    "empty": b"",
    "torn": b'{"a": ',
    "bare NaN": b'{"a": NaN}',
    "invalid UTF-8": b'{"a": "\xff"}',
    "two values": b"{} {}",
    "nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_is_not_json(daemon: Daemon, name: str) -> None:
    answer = daemon.predict(BAD_BODIES[name])
    assert answer.status == 400
    assert answer.json()["status_code"] == 400
    assert answer.json()["reason"].startswith("Unrecognized request format: ")


def test_the_models_own_status_and_reason(daemon: Daemon) -> None:
    answer = daemon.predict({"do": "http_error"})
    assert (answer.status, answer.reason) == (422, "no such user")
    assert answer.json() == {"status_code": 422, "reason": "no such user"}


def test_a_reason_that_no_status_line_holds(daemon: Daemon) -> None:
    answer = daemon.predict({"do": "odd_reason"})
    assert answer.status == 409
    assert answer.json() == {"status_code": 409, "reason": "nein: größer\r\nX-Evil: 1"}
    assert answer.headers["X-Evil"] is None


def test_headers_reach_the_model_in_title_case_and_the_last_duplicate_wins(
    daemon: Daemon,
) -> None:
    body = json.dumps({"do": "headers"}).encode()
    connection = daemon.connection()
    connection.putrequest("POST", daemon.predict_path)
    for name, value in (("foo", "1"), ("FOO", "2"), ("x-request-id", "r"), ("x_y-z", "u")):
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    headers = json.loads(connection.getresponse().read())["headers"]
    connection.close()
    assert headers["Foo"] == "2"
    assert headers["X-Request-Id"] == "r"
    assert {name for name in headers if name.lower() == "foo"} == {"Foo"}


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_the_content_type_is_not_looked_at(daemon: Daemon, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    assert daemon.predict({"do": "echo"}, headers).json() == {"echo": {"do": "echo"}}


def test_answers_become_valid_json(daemon: Daemon) -> None:
    answer = daemon.predict({"do": "types"})
    assert answer.headers["Content-Type"] == "application/json; charset=UTF-8"
    assert answer.json() == {
        "float32": 1.5,
        "int64": 7,
        "bool": True,
        "array": [[0, 1, 2], [3, 4, 5]],
        "array_with_nan": [1.0, None, None],
        "frame": [{"n": 1, "s": "x", "f": 0.5}, {"n": 2, "s": None, "f": None}],
        "series": [1.5, 2.5],
        "date": "2024-02-29",
        "datetime": "2024-02-29T12:30:15+00:00",
        "timestamp": "2024-02-29T12:30:15+00:00",
        "datetime64": "2024-02-29T12:30:15",
        "nan": None,
        "infinity": None,
        "minus_infinity": None,
        "nat": None,
        "na": None,
        "bytes": {"b64": "AP8="},
        "tuple": [1, 2],
        "none": None,
    }


def test_pipelined_requests_are_answered_in_order(daemon: Daemon) -> None:
    requests = b"".join(
        b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
        % (daemon.predict_path.encode(), len(body), body)
        for body in (b'{"do": "echo", "n": %d}' % n for n in range(5))
    )
    with (
        socket.create_connection(("127.0.0.1", daemon.http_port), timeout=30) as client,
        client.makefile("rb") as stream,
    ):
        client.sendall(requests)
        for number in range(5):
            assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
            headers = http.client.parse_headers(stream)
            body = json.loads(stream.read(int(headers["Content-Length"])))
            assert body == {"echo": {"do": "echo", "n": number}}


def test_a_client_that_goes_leaves_the_server_well(daemon: Daemon) -> None:
    for _ in range(3):
        connection = daemon.connection()
        connection.request("POST", daemon.predict_path, b'{"do": "sleep", "seconds": 0.3}')
        connection.close()
    assert daemon.predict({"do": "pid"}).status == 200
    assert not [line for line in daemon.log_lines() if " ERROR " in line and "StreamClosed" in line]


def test_a_large_body_comes_back_whole(daemon: Daemon) -> None:
    text = "x" * 5_000_000
    assert daemon.predict({"do": "echo", "text": text}).json()["echo"]["text"] == text


def test_a_compressed_body_is_unpacked(daemon: Daemon) -> None:
    body = gzip.compress(json.dumps({"do": "echo", "pad": "x" * 10_000}).encode())
    answer = daemon.http("POST", daemon.predict_path, body, {"Content-Encoding": "gzip"})
    assert answer.status == 200
    assert len(answer.body) > 10_000


def test_a_body_in_a_coding_that_is_not_read_or_not_right(daemon: Daemon) -> None:
    unknown = daemon.http("POST", daemon.predict_path, b"{}", {"Content-Encoding": "br"})
    assert (unknown.status, unknown.headers["Accept-Encoding"]) == (415, "gzip, deflate")
    assert unknown.json()["status_code"] == 415
    wrong = daemon.http("POST", daemon.predict_path, b"{}", {"Content-Encoding": "gzip"})
    assert wrong.json() == {
        "status_code": 400,
        "reason": "The body is not gzip, as its Content-Encoding says",
    }


def test_a_body_that_is_too_large_when_it_is_unpacked(daemon: Daemon) -> None:
    body = gzip.compress(bytes(110_000_000))
    answer = daemon.http("POST", daemon.predict_path, body, {"Content-Encoding": "gzip"})
    assert answer.status == 413
    assert "MAX_BODY_SIZE" in answer.json()["reason"]
