"""Answers in parts, from the service's side: no transport, no real model."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from harness import wait_until

from pyfuncserver.errors import InvalidInput, ModelFailed, ServingError
from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.model.call import Answer, Call, Form, Predictions, Reply, Request
from pyfuncserver.model.lane import Lane
from pyfuncserver.model.pipe import MOST_PARTS, Pipe
from pyfuncserver.model.service import InferenceService, Stand

WAIT_S = 30


class LineParts:
    content_type = "text/lines"
    headers = (("X-Kind", "lines"),)

    def part(self, value: Any) -> bytes:
        if value == "unwritable":
            raise ModelFailed("that cannot be written", "id")
        return f"{value};".encode()

    def end(self) -> bytes:
        return b"end"

    def error(self, error: ServingError) -> bytes:
        return f"!{error}".encode()


class Lines:
    name = "lines"

    def decode(self, request: Request) -> Call:
        if request.body == b"bad":
            raise InvalidInput("a bad line")
        parts = None if request.body == b"whole" else LineParts()
        return Call(Form.JSON, request.body.decode(), parts=parts)

    def encode(self, answer: Answer) -> Reply:
        return Reply(str(answer.value).encode(), 200)

    def error(self, error: ServingError) -> Reply:
        return Reply(str(error).encode(), error.http_status)


class Scene:
    """A model that gives what it is told to, a lane, and what was delivered."""

    def __init__(self, lane: Lane | None = None) -> None:
        self.instruments = Instruments()
        self.lane = lane or Lane(1, 1)
        self.service = InferenceService({"m": Stand(self, self.lane)}, self.instruments)
        self.replies: list[Reply] = []
        self.made: list[Any] = []
        self.notes: list[str] = []
        self.before: Callable[[int], None] = lambda _: None
        self.values: list[Any] = ["a", "b", "c"]

    def predict(self, call: Call) -> Answer:
        return Predictions("whole", call)

    def stream(self, call: Call) -> Generator[Any, None, None]:
        try:
            for number, value in enumerate(self.values):
                self.before(number)
                self.made.append(value)
                yield value
            self.notes.append("ended")
        except GeneratorExit:
            self.notes.append("closed")
            raise

    def submit(self, body: bytes = b"stream", deadline: float = math.inf) -> Any:
        request = Request("m", body, "id", deadline=deadline)
        return self.service.submit(Lines(), request, self.replies.append)

    @property
    def reply(self) -> Reply:
        wait_until(lambda: self.replies, WAIT_S)
        (reply,) = self.replies
        return reply

    @property
    def pipe(self) -> Pipe:
        stream = self.reply.stream
        assert stream is not None
        return stream

    def rest(self) -> bytes:
        found = bytearray()

        def is_over() -> bool:
            data, is_last = self.pipe.take()
            found.extend(data)
            return is_last

        wait_until(is_over, WAIT_S)
        return bytes(found)

    def value(self, name: str, **labels: str) -> float:
        ours = self.instruments
        metrics = (ours.requests, ours.errors, ours.duration, ours.in_flight, ours.parts)
        return sum(
            sample.value
            for metric in metrics
            for family in metric.collect()
            for sample in family.samples
            if sample.name == f"pyfuncserver_{name}" and labels.items() <= sample.labels.items()
        )


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def hold(gate: threading.Event, at: int) -> Callable[[int], None]:
    def before(number: int) -> None:
        if number == at:
            assert gate.wait(WAIT_S)

    return before


def fail_at(at: int) -> Callable[[int], None]:
    def before(number: int) -> None:
        if number == at:
            raise ModelFailed("it fails", "id")

    return before


def test_parts_and_the_end() -> None:
    scene = Scene()
    scene.submit()
    assert scene.rest() == b"a;b;c;end"
    reply = scene.reply
    assert (reply.status, reply.content_type) == (200, "text/lines")
    assert reply.headers == LineParts.headers
    assert scene.notes == ["ended"]
    assert scene.value("requests_total", code="200") == 1
    assert scene.value("request_errors_total") == 0
    assert scene.value("stream_parts_total") == 3
    assert scene.value("request_duration_seconds_count") == 1
    assert scene.value("requests_in_flight") == 0


def test_no_parts_but_the_end() -> None:
    scene = Scene()
    scene.values = []
    scene.submit()
    assert scene.rest() == b"end"


def test_it_is_in_flight_and_has_its_place_until_its_end(gate: threading.Event) -> None:
    scene = Scene(Lane(1, 0))
    scene.before = hold(gate, 1)
    scene.submit()
    wait_until(lambda: scene.pipe.take()[0] == b"a;", WAIT_S)
    assert scene.value("requests_in_flight") == 1
    assert scene.value("requests_total") == 0
    assert scene.lane.running == 1
    refused: list[Reply] = []
    scene.service.submit(Lines(), Request("m", b"whole", "id"), refused.append)
    assert [reply.status for reply in refused] == [429]
    gate.set()
    assert scene.rest() == b"b;c;end"
    assert scene.lane.running == 0, "its place is free when its end is told"


def test_what_fails_before_the_first_part_has_a_status() -> None:
    for body, before, status in ((b"bad", None, 400), (b"stream", fail_at(0), 500)):
        scene = Scene()
        if before is not None:
            scene.before = before
        scene.submit(body)
        assert (scene.reply.status, scene.reply.stream) == (status, None)
        assert scene.value("requests_total", code=str(status)) == 1


def test_a_first_part_that_cannot_be_written_has_a_status() -> None:
    scene = Scene()
    scene.values = ["unwritable"]
    scene.submit()
    assert scene.reply.status == 500
    assert scene.notes == ["closed"]


def test_what_fails_midway_is_the_last_part_and_counted() -> None:
    scene = Scene()
    scene.before = fail_at(2)
    scene.submit()
    assert scene.rest() == b"a;b;!it fails (error id id)"
    assert scene.value("requests_total", code="200") == 1
    assert scene.value("request_errors_total", kind="model_failed") == 1


def test_an_error_that_is_no_ours_is_internal() -> None:
    scene = Scene()

    def before(number: int) -> None:
        if number:
            raise MemoryError

    scene.before = before
    scene.submit()
    assert scene.rest().startswith(b"a;!Internal server error (error id ")


def test_nobody_pulls_ahead_of_a_client_that_does_not_read() -> None:
    scene = Scene()
    scene.values = list(range(1000))
    exchange = scene.submit()
    wait_until(lambda: len(scene.made) == MOST_PARTS, WAIT_S)
    time.sleep(0.05)  # to see that nothing happens
    assert len(scene.made) == MOST_PARTS
    scene.pipe.take()
    wait_until(lambda: len(scene.made) == 2 * MOST_PARTS, WAIT_S)
    exchange.abandon()
    wait_until(lambda: scene.notes == ["closed"], WAIT_S)
    assert len(scene.made) == 2 * MOST_PARTS, "not one more was asked for"


@pytest.mark.parametrize(("end", "kind"), [("abandon", "client_gone"), ("expire", "deadline")])
def test_who_is_given_up_midway_is_closed_and_counted_once(
    gate: threading.Event, end: str, kind: str
) -> None:
    scene = Scene()
    scene.before = hold(gate, 1)
    exchange = scene.submit()
    wait_until(lambda: scene.pipe.take()[0] == b"a;", WAIT_S)
    getattr(exchange, end)()
    getattr(exchange, end)()
    data, is_last = scene.pipe.take()
    assert is_last
    assert data.startswith(b"!")
    assert scene.value("request_errors_total", kind=kind) == 1
    assert scene.value("requests_in_flight") == 0
    assert scene.lane.running == 1, "the model has it still"
    gate.set()
    wait_until(lambda: scene.notes == ["closed"], WAIT_S)
    wait_until(lambda: scene.lane.running == 0, WAIT_S)
    assert scene.value("requests_total") == 1
    assert len(scene.replies) == 1


def test_who_has_gone_before_the_first_part_is_closed(gate: threading.Event) -> None:
    scene = Scene()
    scene.before = hold(gate, 0)
    exchange = scene.submit()
    wait_until(lambda: scene.lane.running, WAIT_S)
    exchange.abandon()
    gate.set()
    wait_until(lambda: scene.notes == ["closed"], WAIT_S)
    assert scene.reply.status == 499


def test_a_deadline_is_seen_with_the_next_part() -> None:
    scene = Scene()
    deadline = time.monotonic() + 1.5
    scene.before = lambda number: time.sleep(1.6) if number == 2 else None
    scene.submit(deadline=deadline)
    assert scene.rest() == b"a;b;!The request's deadline passed before it was answered"
    assert scene.notes == ["closed"]


def test_the_limit_is_for_each_part_and_not_for_the_client() -> None:
    stuck: list[bool] = []
    scene = Scene(Lane(1, 1, 1.0, lambda: stuck.append(True)))
    scene.values = list(range(MOST_PARTS + 4))
    scene.before = lambda _: time.sleep(0.04)
    scene.submit()
    wait_until(lambda: len(scene.made) == MOST_PARTS, WAIT_S)
    time.sleep(1.2)  # longer than the limit: the client does not read
    assert scene.rest().endswith(b";end")
    assert not stuck


def test_a_part_that_takes_too_long_ends_it(gate: threading.Event) -> None:
    stuck: list[bool] = []
    scene = Scene(Lane(1, 1, 1.0, lambda: stuck.append(True)))
    scene.before = hold(gate, 1)
    scene.submit()
    assert scene.rest() == b"a;!The prediction took longer than 1 s (PREDICT_TIMEOUT_SEC)"
    wait_until(lambda: stuck, WAIT_S)
    assert scene.value("request_errors_total", kind="timeout") == 1


def test_streams_are_cut_at_the_end_of_a_drain(gate: threading.Event) -> None:
    scene = Scene()
    scene.before = hold(gate, 1)
    scene.submit()
    wait_until(lambda: scene.pipe.take()[0] == b"a;", WAIT_S)
    assert scene.service.cut_streams() == 1
    assert scene.rest() == b"!The server stops; the answer ends here, incomplete"
    assert scene.service.cut_streams() == 0
    assert scene.value("request_errors_total", kind="not_ready") == 1


class Nobody:
    """A loop that is called by none of these tests."""


def test_a_stream_never_runs_on_the_loop() -> None:
    lane = Lane(2, 0)
    lane.use_loop(Nobody())  # type: ignore[arg-type]
    lane._pace.is_short = True
    scene = Scene(lane)
    threads: list[threading.Thread] = []
    scene.before = lambda _: threads.append(threading.current_thread())
    scene.submit()
    assert scene.rest() == b"a;b;c;end"
    assert threading.current_thread() not in threads
    assert scene.value("request_duration_seconds_count") == 1
    assert lane.is_for_loop
    scene.replies.clear()
    scene.submit(b"whole")
    assert scene.reply.body == b"whole"


def test_many_streams_and_clients_that_go_at_any_time() -> None:
    scene = Scene(Lane(4, 1000))
    scene.values = list(range(20))
    count = 300
    ends: list[Callable[[], bool]] = []

    def one(number: int) -> None:
        replies: list[Reply] = []
        exchange = scene.service.submit(Lines(), Request("m", b"s", "id"), replies.append)
        if number % 3 == 0:
            threading.Timer(number / 10_000, exchange.abandon).start()

        def is_over() -> bool:
            if not replies:
                return False
            (reply,) = replies
            return reply.stream is None or reply.stream.take()[1]

        ends.append(is_over)

    for number in range(count):
        one(number)
    wait_until(lambda: all([end() for end in ends]), WAIT_S)  # noqa: C419  each has to take
    wait_until(lambda: scene.lane.running == 0, WAIT_S)
    assert scene.value("requests_total") == count
    assert scene.value("requests_in_flight") == 0
    assert scene.service.cut_streams() == 0
