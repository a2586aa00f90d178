"""Models that stream: server-sent events over both transports, as a real client reads them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from harness import Answer, Daemon, wait_until

Save = Callable[..., Path]
WAIT_S = 30
INVOCATIONS = "/invocations"
BRIDGED = "/invocations?past=the+shortcut"
GENERATE, GENERATE_STREAM = "/v2/models/model/generate", "/v2/models/model/generate_stream"
PATHS = (INVOCATIONS, BRIDGED, GENERATE_STREAM)
ERROR_ID = re.compile(r"error id ([0-9a-f]{32})")
JSON = {"Content-Type": "application/json"}
SECRET = "the streaming model's own secret"


@pytest.fixture(scope="session")
def commanded_model(save_model: Save) -> Path:
    return save_model("commanded", lambda _, path: _models().save_commanded(path))


@pytest.fixture(scope="session")
def words_model(save_model: Save) -> Path:
    return save_model("words", lambda _, path: _models().save_words(path))


@pytest.fixture(scope="session")
def prompted_model(save_model: Save) -> Path:
    return save_model("prompted", lambda _, path: _models().save_prompted(path))


def _models() -> Any:
    import streaming_models

    return streaming_models


@pytest.fixture(scope="module")
def daemon(over_transport: None, commanded_model: Path) -> Iterator[Daemon]:
    env = {"THREADS": "2", "MAX_QUEUE": "0", "REQUEST_TIMEOUT_SEC": "5"}
    with Daemon(commanded_model, env=env) as running:
        yield running


@pytest.fixture(scope="module")
def words(over_transport: None, words_model: Path) -> Iterator[Daemon]:
    with Daemon(words_model) as running:
        yield running


@pytest.fixture(scope="module")
def prompted(over_transport: None, prompted_model: Path) -> Iterator[Daemon]:
    with Daemon(prompted_model) as running:
        yield running


class Stream:
    """A streamed answer, read as it comes."""

    def __init__(
        self,
        daemon: Daemon,
        command: dict[str, Any],
        headers: dict[str, str] | None = None,
        path: str = INVOCATIONS,
    ) -> None:
        self.connection = daemon.connection()
        body: Any = {"inputs": command, "stream": True}
        if not path.startswith(INVOCATIONS):
            body = {"text_input": json.dumps(command)}
        self.connection.request("POST", path, json.dumps(body), {**JSON, **(headers or {})})
        self.response = self.connection.getresponse()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def event(self) -> str:
        """Give the data of the next event, or nothing at the end."""
        line = self.response.readline()
        if not line:
            return ""
        assert line.startswith(b"data: "), line
        assert self.response.readline() == b"\n"
        return line[6:].decode().rstrip("\n")

    def events(self) -> list[str]:
        found = []
        while event := self.event():
            found.append(event)
        return found

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def post(daemon: Daemon, path: str, body: object, **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body)
    return daemon.http("POST", path, raw, {**JSON, **headers})


def events_of(answer: Answer) -> list[str]:
    assert answer.body.endswith(b"\n\n"), answer.body[-100:]
    return [
        event.removeprefix("data: ") for event in answer.text.removesuffix("\n\n").split("\n\n")
    ]


def is_idle(daemon: Daemon) -> bool:
    return not daemon.metric("pyfuncserver_requests_in_flight")


def read(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


# What is sent


def test_events_come_in_order_and_end_as_mlflows_do(daemon: Daemon) -> None:
    answer = post(daemon, INVOCATIONS, {"inputs": {"n": 5}, "stream": True})
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Request-Id"]
    assert answer.headers["Transfer-Encoding"] == "chunked"
    *parts, done = events_of(answer)
    assert [json.loads(part)["number"] for part in parts] == list(range(5))
    assert done == "[DONE]"


def test_events_of_generate_stream(daemon: Daemon) -> None:
    body = {"text_input": '{"n": 2, "size": 3}', "id": "mine"}
    answer = post(daemon, GENERATE_STREAM, body)
    assert answer.status == 200
    known = {"model_name": "model", "model_version": "1", "id": "mine"}
    assert [json.loads(event) for event in events_of(answer)] == [
        {**known, "text_output": "xxx"}
    ] * 2


@pytest.mark.parametrize("path", PATHS)
def test_first_event_comes_before_the_last_is_made(
    daemon: Daemon, tmp_path: Path, path: str
) -> None:
    go_on = tmp_path / "go_on"
    command = {"n": 2, "at": 1, "then": "wait", "signal": str(go_on)}
    with Stream(daemon, command, path=path) as stream:
        assert json.loads(stream.event())["number"] == 0
        go_on.touch()
        assert json.loads(stream.event())["number"] == 1
        stream.events()


def test_a_connection_serves_on_after_a_stream(daemon: Daemon) -> None:
    with contextlib.closing(daemon.connection()) as connection:
        for path in (INVOCATIONS, GENERATE_STREAM, INVOCATIONS):
            body = (
                {"text_input": "{}"} if path == GENERATE_STREAM else {"inputs": {}, "stream": True}
            )
            answer = daemon.http("POST", path, json.dumps(body), JSON, connection)
            assert (answer.status, len(events_of(answer))) == (200, 3 + (path == INVOCATIONS))
        assert daemon.http("GET", "/", connection=connection).body == b"Alive"


def test_a_stream_without_parts(daemon: Daemon) -> None:
    assert (
        post(daemon, INVOCATIONS, {"inputs": {"n": 0}, "stream": True}).text == "data: [DONE]\n\n"
    )
    answer = post(daemon, GENERATE_STREAM, {"text_input": '{"n": 0}'})
    assert (answer.status, answer.body) == (200, b"")


def test_large_parts_come_whole(daemon: Daemon) -> None:
    answer = post(daemon, INVOCATIONS, {"inputs": {"n": 20, "size": 300_000}, "stream": True})
    *parts, _ = events_of(answer)
    assert [len(json.loads(part)) for part in parts] == [300_000] * 20


def test_the_same_model_answers_as_a_whole(daemon: Daemon) -> None:
    for wish in ({}, {"stream": False}):
        answer = post(daemon, INVOCATIONS, {"inputs": "{}", **wish})
        assert (answer.status, answer.json()["predictions"]["whole"]) == (200, True)
        assert answer.headers["Content-Type"] == "application/json"
    answer = post(daemon, GENERATE, {"text_input": "{}", "id": "7"})
    assert answer.headers["Content-Type"] == "application/json"
    known = {"model_name": "model", "model_version": "1", "id": "7", "whole": True}
    assert known.items() <= answer.json().items()


def test_http_1_0_finds_the_end_by_the_connections(daemon: Daemon) -> None:
    for keep in (b"", b"Connection: keep-alive\r\n"):
        body = b'{"inputs": {"n": 2}, "stream": true}'
        head = b"POST /invocations HTTP/1.0\r\n%bContent-Type: application/json\r\n" % keep
        raw = exchange_bytes(daemon, head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        head, _, answer = raw.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert b"content-length" not in head.lower()
        assert answer.startswith(b'data: {"number":0')
        assert answer.endswith(b"data: [DONE]\n\n")


def exchange_bytes(daemon: Daemon, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", daemon.http_port), timeout=WAIT_S) as client:
        client.sendall(data)
        received = b""
        while part := client.recv(65536):
            received += part
        return received


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_other_methods(daemon: Daemon, method: str) -> None:
    for path in (GENERATE, GENERATE_STREAM):
        answer = daemon.http(method, path)
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")


def test_paths_with_a_version(daemon: Daemon) -> None:
    path = "/v2/models/model/versions/{}/generate_stream"
    assert post(daemon, path.format(1), {"text_input": "{}"}).status == 200
    answer = post(daemon, path.format(2), {"text_input": "{}"})
    assert answer.status == 404
    assert list(answer.json()) == ["error"]


# What is refused


BAD_TEXTS = {
    "not JSON": (b"{", "Unrecognized request format"),
    "a list": ([], "Expected a JSON object"),
    "no text": ({}, '"text_input" must be a string'),
    "a number": ({"text_input": 1}, '"text_input" must be a string'),
    "parameters": ({"text_input": "", "parameters": {"a": []}}, '"parameters" must be an object'),
    "id": ({"text_input": "", "id": 1}, '"id" must be a string'),
}


@pytest.mark.parametrize("path", [GENERATE, GENERATE_STREAM])
@pytest.mark.parametrize("name", BAD_TEXTS)
def test_bad_generate_requests(daemon: Daemon, path: str, name: str) -> None:
    body, message = BAD_TEXTS[name]
    answer = post(daemon, path, body)
    assert answer.status == 400
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]


def test_an_error_before_the_first_part_has_its_status(daemon: Daemon) -> None:
    command = {"at": 0, "then": "fail"}
    answer = post(daemon, INVOCATIONS, {"inputs": command, "stream": True})
    assert (answer.status, answer.headers["Content-Type"]) == (500, "application/json")
    assert answer.json()["error_code"] == "INTERNAL_ERROR"
    assert ERROR_ID.search(answer.json()["message"])
    answer = post(daemon, GENERATE_STREAM, {"text_input": json.dumps(command)})
    assert (answer.status, list(answer.json())) == (500, ["error"])
    assert SECRET not in answer.text


def test_an_error_midway_is_an_event_and_the_end(daemon: Daemon) -> None:
    before = daemon.metric("pyfuncserver_request_errors_total", kind="model_failed")
    command = {"n": 3, "at": 2, "then": "fail"}
    with Stream(daemon, command) as stream:
        assert stream.response.status == 200
        *parts, error, done = stream.events()
    assert [json.loads(part)["number"] for part in parts] == [0, 1]
    assert done == "[DONE]"
    told = json.loads(error)
    assert told["error_code"] == "INTERNAL_ERROR"
    assert told["error"] == told["message"]
    found = ERROR_ID.search(told["message"])
    assert found is not None
    assert f"error_id={found[1]}" in daemon.log()
    assert SECRET not in error
    with Stream(daemon, command, path=GENERATE_STREAM) as stream:
        *parts, error = stream.events()
    assert len(parts) == 2
    assert list(json.loads(error)) == ["error"]
    wait_until(lambda: is_idle(daemon), WAIT_S)
    after = daemon.metric("pyfuncserver_request_errors_total", kind="model_failed")
    assert after - before == 2


def test_several_inputs_are_refused(daemon: Daemon) -> None:
    answer = post(daemon, INVOCATIONS, {"inputs": ["{}", "{}"], "stream": True})
    assert answer.status == 400
    assert answer.json()["message"] == "A streamed answer is to one input, not to several"


def test_a_model_that_does_not_stream_says_so(over_transport: None, signed_model: Path) -> None:
    with Daemon(signed_model) as daemon:
        body = {"dataframe_records": [{"a": 1.0, "b": 2, "s": "x"}]}
        assert post(daemon, INVOCATIONS, body).status == 200
        answer = post(daemon, INVOCATIONS, {**body, "stream": True})
        assert (answer.status, answer.json()["error_code"]) == (501, "NOT_IMPLEMENTED")
        assert "does not stream" in answer.json()["message"]
        answer = post(daemon, GENERATE_STREAM, {"text_input": "hello"})
        assert (answer.status, list(answer.json())) == (400, ["error"])


# Flow control, and clients that go


@pytest.mark.parametrize("path", [INVOCATIONS, BRIDGED])
def test_a_client_that_does_not_read_stops_the_model(
    daemon: Daemon, tmp_path: Path, path: str
) -> None:
    notes = tmp_path / "notes"
    before = resident_kb(daemon)
    with slow_client(daemon, {"n": 4000, "size": 100_000, "notes": str(notes)}, path):
        wait_until(lambda: len(read(notes)) > 3, WAIT_S)
        made = stable_count(notes)
        assert made < 200  # of 400 MB, what the kernel's buffers hold
        assert resident_kb(daemon) - before < 40_000
        assert daemon.http("GET", "/").body == b"Alive"
    wait_until(lambda: read(notes)[-1] == "closed", WAIT_S)
    wait_until(lambda: is_idle(daemon), WAIT_S)
    assert len(read(notes)) < 400, "of 4,000"


def test_a_client_that_never_reads_is_given_up(daemon: Daemon, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with slow_client(daemon, {"n": 4000, "size": 100_000, "notes": str(notes)}):
        wait_until(lambda: "closed" in read(notes), WAIT_S)  # REQUEST_TIMEOUT_SEC
        wait_until(lambda: is_idle(daemon), WAIT_S)


@contextlib.contextmanager
def slow_client(
    daemon: Daemon, command: dict[str, Any], path: str = INVOCATIONS
) -> Iterator[socket.socket]:
    """Ask for a stream and read nothing of it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    with contextlib.closing(client):
        client.connect(("127.0.0.1", daemon.http_port))
        body = json.dumps({"inputs": command, "stream": True}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
        client.sendall(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        yield client


def stable_count(notes: Path) -> int:
    """Wait until nothing more is made for half a second."""
    seen: list[tuple[int, float]] = []

    def is_stable() -> bool:
        count = len(read(notes))
        if not seen or seen[-1][0] != count:
            seen.append((count, time.monotonic()))
        return time.monotonic() - seen[-1][1] > 0.5

    wait_until(is_stable, WAIT_S)
    return seen[-1][0]


def resident_kb(daemon: Daemon) -> int:
    (worker,) = daemon.worker_pids()
    status = Path(f"/proc/{worker}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_goes_closes_the_generator(
    daemon: Daemon, tmp_path: Path, how: str, path: str
) -> None:
    notes = tmp_path / "notes"
    before = daemon.metric("pyfuncserver_request_errors_total", kind="client_gone")
    command = {"n": 100_000, "size": 2000, "notes": str(notes)}
    stream = Stream(daemon, command, path=path)
    stream.event()
    assert stream.connection.sock is not None
    if how == "reset":
        linger = struct.pack("ii", 1, 0)
        stream.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    stream.close()
    wait_until(lambda: read(notes)[-1] == "closed", WAIT_S)
    wait_until(lambda: is_idle(daemon), WAIT_S)
    after = daemon.metric("pyfuncserver_request_errors_total", kind="client_gone")
    assert after - before == 1


def test_streams_keep_to_their_places(daemon: Daemon, tmp_path: Path) -> None:
    """Two streams hold both THREADS; probes are answered, and a third is refused (MAX_QUEUE)."""
    go_on = tmp_path / "go_on"
    command = {"n": 3, "at": 1, "then": "wait", "signal": str(go_on)}
    with Stream(daemon, command) as one, Stream(daemon, command, path=GENERATE_STREAM) as two:
        one.event(), two.event()
        assert daemon.http("GET", "/").body == b"Alive"
        assert daemon.http("GET", "/v1/models/model-1").json()["ready"] is True
        answer = post(daemon, INVOCATIONS, {"inputs": "{}"})
        assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
        answer = post(daemon, INVOCATIONS, {"inputs": {}, "stream": True})
        assert answer.status == 429
        go_on.touch()
        assert len(one.events()) == 3
        assert len(two.events()) == 2
    wait_until(lambda: is_idle(daemon), WAIT_S)
    assert post(daemon, INVOCATIONS, {"inputs": "{}"}).status == 200


def test_predictions_go_on_beside_a_stream(daemon: Daemon, tmp_path: Path) -> None:
    """Also where they are so short that the loop runs them: a stream never does."""
    go_on = tmp_path / "go_on"
    command = {"n": 3, "at": 1, "then": "wait", "signal": str(go_on)}
    with contextlib.closing(daemon.connection()) as connection:

        def predict() -> str:
            raw = json.dumps({"inputs": "{}"})
            answer = daemon.http("POST", INVOCATIONS, raw, JSON, connection)
            assert answer.status == 200
            return str(answer.json()["predictions"]["thread"])

        for _ in range(150):
            predict()
        threads = set()
        with Stream(daemon, command) as stream:
            threads.add(json.loads(stream.event())["thread"])
            for _ in range(50):
                predict()
            go_on.touch()
            threads |= {json.loads(event)["thread"] for event in stream.events()[:-1]}
    assert len(threads) == 1
    assert threads.pop().startswith("predict-")


def test_a_stream_is_counted_once_to_its_end(daemon: Daemon, tmp_path: Path) -> None:
    names = {
        "answered": ("pyfuncserver_requests_total", {"code": "200"}),
        "count": ("pyfuncserver_request_duration_seconds_count", {}),
        "sum": ("pyfuncserver_request_duration_seconds_sum", {}),
        "parts": ("pyfuncserver_stream_parts_total", {}),
    }

    def figures() -> dict[str, float]:
        wait_until(lambda: is_idle(daemon), WAIT_S)
        return {
            key: daemon.metric(name, dialect="scoring", **labels)
            for key, (name, labels) in names.items()
        }

    before = figures()
    command = {"n": 4, "at": 3, "then": "sleep", "seconds": "0.3"}
    post(daemon, INVOCATIONS, {"inputs": command, "stream": True})
    after = figures()
    assert {key: after[key] - before[key] for key in ("answered", "count", "parts")} == {
        "answered": 1,
        "count": 1,
        "parts": 4,
    }
    assert after["sum"] - before["sum"] >= 0.3


# Deadlines and limits


@pytest.mark.parametrize(("at", "status"), [(0, 504), (2, 200)])
@pytest.mark.parametrize("path", PATHS)
def test_a_deadline_is_for_the_whole_stream(
    daemon: Daemon, tmp_path: Path, path: str, at: int, status: int
) -> None:
    notes = tmp_path / "notes"
    go_on = tmp_path / "go_on"
    command = {"at": at, "then": "wait", "signal": str(go_on), "notes": str(notes)}
    # Long enough for two parts also where the machine has other things to do.
    timeout_s = "1.5" if at else "0.4"
    with Stream(daemon, command, {"X-Request-Timeout": timeout_s}, path) as stream:
        assert stream.response.status == status
        body = stream.response.read().decode()
    go_on.touch()
    assert "deadline passed" in body
    assert body.count('"number') + body.count("number\\") == at
    wait_until(lambda: is_idle(daemon), WAIT_S)
    wait_until(lambda: read(notes)[-1:] == ["closed"], WAIT_S)


def test_a_deadline_while_the_client_does_not_read(daemon: Daemon, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    body = {"inputs": {"n": 10_000, "size": 50_000, "notes": str(notes)}, "stream": True}
    with contextlib.closing(daemon.connection()) as connection:
        headers = {**JSON, "X-Request-Timeout": "0.5"}
        connection.request("POST", INVOCATIONS, json.dumps(body), headers)
        wait_until(lambda: read(notes)[-1:] == ["closed"], WAIT_S)
        text = connection.getresponse().read().decode()
    *_, error, done = text.removesuffix("\n\n").split("\n\n")
    assert "DEADLINE_EXCEEDED" in error
    assert done == "data: [DONE]"


def test_the_time_limit_is_for_each_part(over_transport: None, commanded_model: Path) -> None:
    """Also a client that is slow to read does not make a prediction that hangs."""
    env = {"PREDICT_TIMEOUT_SEC": "1.2", "DRAIN_TIMEOUT_SEC": "2"}
    with Daemon(commanded_model, env=env) as daemon:
        command = {"n": 20, "at": 3, "then": "sleep", "seconds": "0.3", "size": 400_000}
        with Stream(daemon, command) as stream:
            wait_until(lambda: daemon.metric("pyfuncserver_stream_parts_total") > 4, WAIT_S)
            time.sleep(1.6)  # longer than the limit; a slow client is what is tested
            assert len(stream.events()) == 21
        assert "hangs" not in daemon.log()
        command = {"n": 3, "at": 1, "then": "sleep", "seconds": "60"}
        with Stream(daemon, command) as stream:
            part, error, done = stream.events()
        assert json.loads(part)["number"] == 0
        assert json.loads(error)["error_code"] == "DEADLINE_EXCEEDED"
        assert "PREDICT_TIMEOUT_SEC" in error
        assert done == "[DONE]"
        command = {**command, "at": 0}
        answer = post(daemon, INVOCATIONS, {"inputs": command, "stream": True})
        assert answer.status == 504


# The end of the daemon


def test_a_stream_ends_within_the_drain(
    over_transport: None, commanded_model: Path, tmp_path: Path
) -> None:
    go_on = tmp_path / "go_on"
    command = {"n": 3, "at": 1, "then": "wait", "signal": str(go_on)}
    with Daemon(commanded_model) as daemon, Stream(daemon, command) as stream:
        stream.event()
        daemon.terminate()
        wait_until(lambda: is_refused(daemon), WAIT_S)
        go_on.touch()
        assert stream.events()[-1] == "[DONE]"
        assert daemon.wait() == 0
        assert "cut off" not in daemon.log()


def is_refused(daemon: Daemon) -> bool:
    try:
        socket.create_connection(("127.0.0.1", daemon.http_port), timeout=0.2).close()
    except OSError:
        return True
    return False


def test_a_stream_longer_than_the_drain_is_cut_with_an_event(
    over_transport: None, commanded_model: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    command = {"n": 10**6, "size": 10, "notes": str(notes)}
    with Daemon(commanded_model, env={"DRAIN_TIMEOUT_SEC": "2"}) as daemon:
        with Stream(daemon, command) as stream:
            stream.event()
            daemon.terminate()
            *_, error, done = stream.events()
            assert json.loads(error)["error_code"] == "TEMPORARILY_UNAVAILABLE"
            assert done == "[DONE]"
            assert daemon.wait() == 0
        assert any("cut off" in line for line in daemon.log_lines())
        assert read(notes)[-1] == "closed"
        assert not daemon.processes()


# Models whose `predict` gives an iterator, and those with a signature


def test_an_iterator_is_streamed_or_given_as_a_list(words: Daemon) -> None:
    body = {"inputs": {"prompt": ["one two three"]}, "params": {"mark": "!"}}
    assert post(words, INVOCATIONS, body).json() == {"predictions": ["one! ", "two! ", "three! "]}
    assert words.predict(body).json() == {"predictions": ["one! ", "two! ", "three! "]}
    *parts, done = events_of(post(words, INVOCATIONS, {**body, "stream": True}))
    assert [json.loads(part) for part in parts] == ["one! ", "two! ", "three! "]
    assert done == "[DONE]"


def test_an_iterator_of_texts_is_one_text_for_generate(words: Daemon) -> None:
    body = {"text_input": "one two", "parameters": {"mark": "?"}}
    known = {"model_name": "model", "model_version": "1"}
    assert post(words, GENERATE, body).json() == {**known, "text_output": "one? two? "}
    events = [json.loads(event) for event in events_of(post(words, GENERATE_STREAM, body))]
    assert events == [{**known, "text_output": "one? "}, {**known, "text_output": "two? "}]


def test_batching_leaves_streams_alone(over_transport: None, words_model: Path) -> None:
    env = {"BATCH_MAX_SIZE": "8", "PREDICT_TIMEOUT_SEC": "5"}
    with Daemon(words_model, env=env) as daemon, ThreadPoolExecutor(8) as pool:

        def ask(number: int) -> None:
            body = {"inputs": {"prompt": [f"a{number} b{number}"]}, "stream": number % 2 == 0}
            answer = post(daemon, INVOCATIONS, body)
            assert answer.status == 200
            expected = [f"a{number} ", f"b{number} "]
            if number % 2:
                assert answer.json() == {"predictions": expected}
            else:
                assert [json.loads(event) for event in events_of(answer)[:-1]] == expected

        list(pool.map(ask, range(40)))


def test_a_signature_names_where_the_text_goes(prompted: Daemon) -> None:
    known = {"model_name": "model", "model_version": "1"}
    body = {"text_input": "hi", "parameters": {"mark": "!"}, "count": 2}
    events = [json.loads(event) for event in events_of(post(prompted, GENERATE_STREAM, body))]
    assert events == [
        {"text_output": "hi!", "number": 0, **known},
        {"text_output": "hi!", "number": 1, **known},
    ]
    assert post(prompted, GENERATE, body).json() == {**known, "text_output": "HI"}
    answer = post(prompted, GENERATE_STREAM, {"text_input": "hi"})
    assert answer.status == 400
    assert "count" in answer.json()["error"]
    answer = post(prompted, GENERATE_STREAM, {**body, "count": "many"})
    assert answer.status == 400
    assert "many" not in answer.text


def test_a_frame_of_one_row_is_streamed_to(prompted: Daemon) -> None:
    row = {"prompt": "hi", "count": 1}
    for body in (
        {"dataframe_records": [row]},
        {"dataframe_split": {"columns": list(row), "data": [list(row.values())]}},
        {"instances": [row]},
    ):
        *parts, _ = events_of(post(prompted, INVOCATIONS, {**body, "stream": True}))
        assert [json.loads(part)["number"] for part in parts] == [0]
    answer = post(prompted, INVOCATIONS, {"dataframe_records": [row, row], "stream": True})
    assert answer.status == 400


def test_pipelined_requests_behind_a_stream(daemon: Daemon) -> None:
    body = b'{"inputs": {"n": 2}, "stream": true}'
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    one = head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    raw = exchange_bytes(daemon, one + one + last)
    assert raw.count(b"data: [DONE]") == 2
    assert raw.endswith(b"Alive")


def test_over_tls(over_transport: None, commanded_model: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    env = {"TLS_CERT": str(pair.cert), "TLS_KEY": str(pair.key)}
    notes, go_on = tmp_path / "notes", tmp_path / "go_on"
    command: dict[str, Any] = {"notes": str(notes), "signal": str(go_on), "then": "wait"}

    def ask(command: dict[str, Any]) -> HTTPSConnection:
        context = authority.client_context()
        connection = HTTPSConnection("localhost", daemon.http_port, timeout=WAIT_S, context=context)
        body = json.dumps({"inputs": command, "stream": True})
        connection.request("POST", INVOCATIONS, body, JSON)
        return connection

    with Daemon(commanded_model, env=env) as daemon:
        with contextlib.closing(ask({**command, "n": 2, "at": 1})) as connection:
            response = connection.getresponse()
            assert b'"number":0' in response.readline()
            go_on.touch()
            assert b'"number":1' in response.read()
        notes.unlink()
        with contextlib.closing(ask({**command, "n": 1000, "size": 100_000})) as connection:
            made = stable_count(notes)
            assert 0 < made < 400
        wait_until(lambda: read(notes)[-1] == "closed", WAIT_S)
        assert "The client has gone" in daemon.log()


AGENT_SERVER = """
import asyncio, json, sys, types, warnings
warnings.simplefilter("ignore")
sys.modules.setdefault("httpx", types.ModuleType("httpx"))  # it is for a proxy that is not used
try:
    from mlflow.genai.agent_server import AgentServer, stream
except ImportError:
    sys.exit("there is none")
import mlflow
mlflow.tracing.disable()

@stream()
def parts(command):
    for number in range(command["n"]):
        if number == command.get("at"):
            raise RuntimeError("it fails")
        yield {"number": number, "text": "\\u00e9", "one": 1.0, "nothing": None}

async def ask(app, body):
    sent, requests = [], [{"type": "http.request", "body": body}]

    async def receive():
        return requests.pop() if requests else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": []}
    await app({**scope, "query_string": b"", "root_path": "", "scheme": "http"}, receive, send)
    kind = dict(sent[0]["headers"])[b"content-type"].decode()
    text = b"".join(message["body"] for message in sent[1:]).decode()
    print(json.dumps([sent[0]["status"], kind, text]))

server = AgentServer()
for line in sys.stdin:
    asyncio.run(ask(server.app, line.encode()))
"""


def test_events_are_those_of_mlflows_own_agent_server(
    over_transport: None, save_model: Save, tmp_path: Path
) -> None:
    """MLflow's scoring server has no streams; its AgentServer has them, at the same path."""
    inputs = [{"n": 3}, {"n": 0}, {"n": 3, "at": 2}]
    lines = "\n".join(json.dumps({**each, "stream": True}) for each in inputs)
    done = run_script(AGENT_SERVER, tmp_path, lines)
    if "there is none" in done.stderr:
        pytest.skip("this MLflow has no AgentServer")
    expected = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(expected) == len(inputs), done.stderr
    path = save_model("agent", lambda _, path: _models().save_agent(path))
    with Daemon(path) as daemon:
        for each, (status, kind, text) in zip(inputs, expected, strict=True):
            answer = post(daemon, INVOCATIONS, {"inputs": each, "stream": True})
            assert (answer.status, answer.headers["Content-Type"]) == (status, kind)
            ours, theirs = (parsed(events) for events in (answer.text, text))
            if "at" in each:
                assert "it fails" in theirs[-2].pop("error")  # it tells its clients what we log
                assert ERROR_ID.search(ours[-2].pop("error"))
                assert ours[-2].keys() == {"error_code", "message"}
                ours[-2].clear()
            assert ours == theirs


def run_script(script: str, directory: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python where MLflow's own warnings are no errors."""
    variables = {"MLFLOW_TRACKING_URI": f"sqlite:///{directory}/mlflow.db"}
    return subprocess.run(
        [sys.executable, "-c", script], input=given, capture_output=True, text=True, timeout=60,
        check=False, cwd=directory,
        env={**os.environ, **variables},
    )  # fmt: skip


def parsed(text: str) -> list[Any]:
    assert text.endswith("\n\n")
    data = [event.removeprefix("data: ") for event in text.removesuffix("\n\n").split("\n\n")]
    return [event if event == "[DONE]" else json.loads(event) for event in data]


MLFLOWS_CLIENT = """
import json, sys
import mlflow.deployments.databricks as databricks
import requests
url = sys.stdin.read()
databricks.http_request = lambda **options: requests.post(url, json=options["json"], stream=True)
databricks.get_databricks_host_creds = lambda uri: None
client = databricks.DatabricksDeploymentClient("databricks")
for inputs in ({"n": 3}, {"n": 2, "at": 1, "then": "fail"}):
    print(json.dumps(list(client.predict_stream(endpoint="e", inputs={"inputs": inputs}))))
"""


def test_mlflows_own_client_reads_the_events(daemon: Daemon, tmp_path: Path) -> None:
    """The one that MLflow has for endpoints that stream; only the URL is not Databricks'."""
    url = f"http://127.0.0.1:{daemon.http_port}/invocations"
    done = run_script(MLFLOWS_CLIENT, tmp_path, url)
    assert done.returncode == 0, done.stderr
    whole, failed = (json.loads(line) for line in done.stdout.splitlines())
    assert [part["number"] for part in whole] == [0, 1, 2]
    assert failed[0]["number"] == 0
    assert failed[1]["error_code"] == "INTERNAL_ERROR"
