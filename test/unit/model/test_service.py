from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import pytest
from harness import wait_until

from pyfuncserver.errors import InvalidInput, ServingError, TooLarge
from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.model.call import Answer, Call, Complete, Form, Reply, Request
from pyfuncserver.model.lane import Lane
from pyfuncserver.model.service import InferenceService, Stand
from pyfuncserver.utils import logs

SECRET = "our own secret"


class Lines:
    """A dialect whose bodies are words."""

    name = "lines"

    def decode(self, request: Request) -> Call:
        if request.body == b"bad":
            raise InvalidInput("a bad line")
        return Call(Form.JSON, request.body.decode(), request.headers)

    def encode(self, answer: Answer) -> Reply:
        return Reply(str(answer.value).encode(), 200)

    def error(self, error: Exception) -> Reply:
        assert isinstance(error, ServingError)
        return Reply(str(error).encode(), error.http_status)


class Runner:
    def __init__(self, answer: Callable[[Call], Any]) -> None:
        self.answer = answer

    def predict(self, call: Call) -> Answer:
        return Complete(self.answer(call))


@pytest.fixture
def instruments() -> Instruments:
    return Instruments()


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Format what is logged where it is logged, since a request's id is known only there."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(logs.EventFormatter().format(record))

    handler = Collector()
    logger = logging.getLogger("pyfuncserver")
    caplog.set_level(logging.INFO, "pyfuncserver")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def value(metric: Any, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in metric.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def ask(
    instruments: Instruments,
    body: bytes,
    answer: Callable[[Call], Any] = str,
    model: str = "m-1",
    logs_all: bool = True,
) -> Reply:
    service = InferenceService({"m-1": Stand(Runner(answer), Lane(1, 10))}, instruments, logs_all)
    return service.handle(Lines(), Request(model, body, "id-1", {}))


def fail(call: Call) -> None:
    raise RuntimeError(SECRET)


CASES = {
    "answered": (b"good", str, "m-1", 200, ""),
    "bad input": (b"bad", str, "m-1", 400, "invalid_input"),
    "unknown model": (b"good", str, "other", 404, "unknown_model"),
    "internal": (b"good", fail, "m-1", 500, "internal"),
}
each_case = pytest.mark.parametrize(
    ("body", "answer", "model", "status", "kind"), CASES.values(), ids=CASES
)


@each_case
def test_request_is_counted(
    instruments: Instruments, body: bytes, answer: Any, model: str, status: int, kind: str
) -> None:
    reply = ask(instruments, body, answer, model)
    assert reply.status == status
    counted = value(
        instruments.requests, "pyfuncserver_requests_total", dialect="lines", code=str(status)
    )
    assert counted == 1
    assert value(instruments.requests, "pyfuncserver_requests_total") == 1
    errors = value(instruments.errors, "pyfuncserver_request_errors_total")
    assert errors == (1 if kind else 0)
    if kind:
        assert value(instruments.errors, "pyfuncserver_request_errors_total", kind=kind) == 1
    begun = value(instruments.duration, "pyfuncserver_request_duration_seconds_count")
    assert begun == (0 if kind == "unknown_model" else 1)
    assert value(instruments.in_flight, "pyfuncserver_requests_in_flight") == 0
    assert value(instruments.predictions, "pyfuncserver_predictions_total", where="thread") == begun


def test_request_is_in_flight_while_the_model_runs(instruments: Instruments) -> None:
    seen: list[float] = []

    def answer(call: Call) -> None:
        seen.append(value(instruments.in_flight, "pyfuncserver_requests_in_flight"))

    ask(instruments, b"good", answer)
    assert seen == [1]


def test_requests_of_several_threads_are_all_counted(instruments: Instruments) -> None:
    together = threading.Barrier(8, timeout=10)

    def answer(call: Call) -> str:
        together.wait()
        return "ok"

    service = InferenceService({"m-1": Stand(Runner(answer), Lane(8, 0))}, instruments)
    request = Request("m-1", b"x", "id", {})
    threads = [threading.Thread(target=service.handle, args=(Lines(), request)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert value(instruments.requests, "pyfuncserver_requests_total", code="200") == 8
    assert value(instruments.in_flight, "pyfuncserver_requests_in_flight") == 0


def test_unknown_model_is_named(instruments: Instruments) -> None:
    reply = ask(instruments, b"x", model="other")
    assert reply.body == b"Model with full name other does not exist."


def test_internal_error_is_told_by_an_id_and_logged_once(
    instruments: Instruments, records: list[str]
) -> None:
    reply = ask(instruments, b"x", fail)
    assert SECRET.encode() not in reply.body
    error_id = reply.body.decode().rpartition("error id ")[2].rstrip(")")
    assert error_id
    tracebacks = [line for line in records if SECRET in line]
    assert len(tracebacks) == 1
    assert error_id in tracebacks[0]


@each_case
def test_every_line_of_a_request_has_its_id(
    instruments: Instruments,
    records: list[str],
    body: bytes,
    answer: Any,
    model: str,
    status: int,
    kind: str,
) -> None:
    ask(instruments, body, answer, model)
    assert records
    assert all("request_id=id-1 " in line for line in records)
    assert f"lines {model} status={status} in " in records[-1]


@each_case
def test_only_failures_are_logged_unless_all_are_asked_for(
    instruments: Instruments,
    records: list[str],
    body: bytes,
    answer: Any,
    model: str,
    status: int,
    kind: str,
) -> None:
    ask(instruments, body, answer, model, logs_all=False)
    assert sum(f"status={status}" in line for line in records) == (1 if kind else 0)


def test_model_logs_under_the_requests_id(instruments: Instruments, records: list[str]) -> None:
    log = logging.getLogger("pyfuncserver.somebodys_model")
    ask(instruments, b"x", lambda _: log.info("from the model"))
    line = next(line for line in records if "from the model" in line)
    assert "request_id=id-1" in line


def test_fault_that_is_no_exception_is_answered(instruments: Instruments) -> None:
    def leave(call: Call) -> None:
        raise SystemExit

    assert ask(instruments, b"x", leave).status == 500


WAIT_S = 30


class Desk:
    """A service with a lane, a model that waits to be let go, and the replies that were delivered.

    A request whose body is a name is held until that name is let go, or answered at once.
    """

    def __init__(self, instruments: Instruments, lane: Lane) -> None:
        self.instruments = instruments
        self.lane = lane
        self.service = InferenceService({"m-1": Stand(Runner(self._answer), lane)}, instruments)
        self.handed: list[str] = []
        self.replies: dict[str, list[Reply]] = {}
        self.gates: dict[str, threading.Event] = {}

    def submit(self, name: str, **options: Any) -> Any:
        self.gates[name] = threading.Event()
        delivered = self.replies.setdefault(name, [])
        return self.service.submit(Lines(), request(name, **options), delivered.append)

    def submit_running(self, name: str, **options: Any) -> Any:
        exchange = self.submit(name, **options)
        wait_until(lambda: name in self.handed, WAIT_S)
        return exchange

    def let_go(self, name: str) -> None:
        self.gates[name].set()

    def reply(self, name: str) -> Reply:
        wait_until(lambda: self.replies[name], WAIT_S)
        (reply,) = self.replies[name]
        return reply

    def value(self, name: str, **labels: str) -> float:
        ours = self.instruments
        all_of_them = (
            ours.requests, ours.errors, ours.duration, ours.in_flight, ours.waiting, ours.wait
        )  # fmt: skip
        return sum(value(metric, f"pyfuncserver_{name}", **labels) for metric in all_of_them)

    def _answer(self, call: Call) -> Any:
        self.handed.append(call.payload)
        gate = self.gates.get(call.payload)
        assert gate is None or gate.wait(WAIT_S)
        return call.payload


def request(name: str, **options: Any) -> Request:
    return Request("m-1", name.encode(), f"id-{name}", {}, **options)


@pytest.fixture
def desk(instruments: Instruments) -> Iterator[Desk]:
    found = Desk(instruments, Lane(1, 1))
    yield found
    for name in found.gates:
        found.let_go(name)


def test_waiting_and_running_are_told_apart(desk: Desk) -> None:
    desk.submit_running("first")
    desk.submit("second")
    assert desk.value("requests_in_flight") == 2
    assert desk.value("requests_waiting") == 1
    assert desk.lane.started == 1
    desk.let_go("second")
    desk.let_go("first")
    assert (desk.reply("first").body, desk.reply("second").body) == (b"first", b"second")
    assert desk.value("requests_in_flight") == 0
    assert desk.value("requests_waiting") == 0
    assert desk.value("request_wait_seconds_count") == 2
    assert desk.value("request_duration_seconds_count") == 2
    assert desk.lane.started == 2


def test_one_more_than_may_wait_is_refused_at_once(desk: Desk) -> None:
    desk.submit_running("first")
    desk.submit("second")
    desk.submit("third")
    reply = desk.reply("third")
    assert (reply.status, reply.retry_after_s) == (429, 1)
    assert desk.value("request_errors_total", kind="overloaded") == 1
    assert desk.value("request_wait_seconds_count") == 1, "of the first; the third never waited"
    assert desk.value("requests_waiting") == 1
    assert desk.value("request_duration_seconds_count") == 0


def test_unknown_model_takes_no_place(desk: Desk) -> None:
    desk.submit_running("first")
    desk.submit("second")
    replies: list[Reply] = []
    desk.service.submit(Lines(), Request("other", b"", "id"), replies.append)
    assert [reply.status for reply in replies] == [404]


@pytest.mark.parametrize(("end", "kind"), [("abandon", "client_gone"), ("expire", "deadline")])
def test_one_that_is_given_up_while_it_waits_is_never_handed_over(
    desk: Desk, end: str, kind: str
) -> None:
    desk.submit_running("first")
    second = desk.submit("second")
    getattr(second, end)()
    getattr(second, end)()
    assert desk.value("request_errors_total", kind=kind) == 1
    assert desk.reply("second").status == {"client_gone": 499, "deadline": 504}[kind]
    assert desk.value("requests_waiting") == 0
    desk.submit("third")
    desk.let_go("third")
    desk.let_go("first")
    assert desk.reply("third").status == 200, "the place was free at once"
    assert desk.handed == ["first", "third"]
    assert desk.value("request_wait_seconds_count") == 3
    assert desk.value("requests_total") == 3


@pytest.mark.parametrize(("end", "status"), [("abandon", 499), ("expire", 504)])
def test_one_that_is_given_up_while_it_runs_is_settled_at_once(
    desk: Desk, records: list[str], end: str, status: int
) -> None:
    first = desk.submit_running("first")
    getattr(first, end)()
    assert desk.reply("first").status == status
    assert desk.value("requests_in_flight") == 0
    assert desk.value("request_duration_seconds_count") == 1
    desk.submit("second")
    assert desk.handed == ["first"], "its thread is not written off"
    desk.let_go("second")
    desk.let_go("first")
    assert desk.reply("second").status == 200
    assert desk.reply("first").status == status
    assert sum("was answered too late" in line for line in records) == 1
    assert desk.value("requests_total") == 2


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"deadline": 0.0}, "deadline"),
        ({"is_wanted": lambda: False}, "client_gone"),
        ({"is_wanted": lambda: False, "deadline": 0.0}, "deadline"),
    ],
)
@pytest.mark.parametrize("width", [1, 2])
def test_one_that_is_not_wanted_is_never_handed_over(
    instruments: Instruments, options: dict[str, Any], kind: str, width: int
) -> None:
    desk = Desk(instruments, Lane(width, 1))
    reply = desk.service.handle(Lines(), request("x", **options))
    assert reply.status == {"client_gone": 499, "deadline": 504}[kind]
    assert desk.handed == []
    assert desk.value("request_errors_total", kind=kind) == 1
    assert desk.value("request_duration_seconds_count") == 0


@pytest.mark.parametrize(
    ("left_s", "kind"), [(0.01, "deadline"), (60, "client_gone"), (math.inf, "client_gone")]
)
def test_client_that_goes_at_its_deadline_goes_because_of_it(
    desk: Desk, left_s: float, kind: str
) -> None:
    desk.submit_running("first")
    desk.submit("second", deadline=time.monotonic() + left_s).abandon()
    assert desk.value("request_errors_total", kind=kind) == 1


@pytest.mark.parametrize("width", [1, 2])
def test_answer_after_the_deadline_is_none(instruments: Instruments, width: int) -> None:
    def take_too_long(call: Call) -> str:
        time.sleep(0.06)
        return "late"

    service = InferenceService({"m-1": Stand(Runner(take_too_long), Lane(width, 0))}, instruments)
    reply = service.handle(Lines(), request("x", deadline=time.monotonic() + 0.05))
    assert reply.status == 504


def test_prediction_that_takes_too_long_is_answered_for(
    instruments: Instruments, records: list[str]
) -> None:
    desk = Desk(instruments, Lane(1, 5, 1.0))
    desk.submit_running("first")
    time.sleep(0.5)  # who has waited for the whole limit is not handed over any more
    desk.submit("second")
    desk.let_go("second")
    assert desk.reply("first").status == 504
    assert b"longer than 1 s (PREDICT_TIMEOUT_SEC)" in desk.reply("first").body
    assert desk.reply("second").status == 200
    assert desk.value("request_errors_total", kind="timeout") == 1
    assert desk.value("request_duration_seconds_count") == 2
    desk.let_go("first")
    wait_until(lambda: any("was answered too late" in line for line in records), WAIT_S)
    assert desk.reply("first").status == 504
    assert desk.value("requests_total") == 2
    assert all(f"request_id=id-{line.split('id-')[1][:5]}" in line for line in records)


def test_who_has_waited_for_the_whole_limit_is_not_handed_over(
    instruments: Instruments,
) -> None:
    desk = Desk(instruments, Lane(1, 5, limit_s=60))
    desk.submit_running("first")
    desk.submit("second")
    desk.submit("third")._arrived_at -= 61
    for name in ("second", "third", "first"):
        desk.let_go(name)
    assert [desk.reply(name).status for name in ("first", "second", "third")] == [200, 200, 504]
    assert desk.handed == ["first", "second"]


@pytest.mark.parametrize(("width", "is_here"), [(1, False), (2, True)])
def test_answered_on_the_callers_thread_where_that_may_be(
    instruments: Instruments, width: int, is_here: bool
) -> None:
    threads: list[threading.Thread] = []
    runner = Runner(lambda call: threads.append(threading.current_thread()))
    service = InferenceService({"m-1": Stand(runner, Lane(width, 1))}, instruments)
    waited: list[Any] = []
    assert service.handle(Lines(), request("x"), waited.append).status == 200
    assert (threads[0] is threading.current_thread()) == is_here
    assert len(waited) == (0 if is_here else 1)


@pytest.mark.parametrize("limit_s", [0, 60])
def test_handle_waits_for_its_turn(instruments: Instruments, limit_s: float) -> None:
    desk = Desk(instruments, Lane(1, 1, limit_s))
    desk.submit_running("first")
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(desk.service.handle, Lines(), request("second"))
        wait_until(lambda: desk.value("requests_waiting") == 1, WAIT_S)
        assert not second.done()
        desk.let_go("first")
        assert second.result(WAIT_S).body == b"second"


def test_handle_gives_up_at_the_deadline(desk: Desk) -> None:
    desk.submit_running("first")
    started = time.monotonic()
    reply = desk.service.handle(Lines(), request("second", deadline=started + 0.1))
    assert reply.status == 504
    assert time.monotonic() - started < 5
    assert desk.value("requests_waiting") == 0


def test_what_a_transport_refuses_is_counted(desk: Desk, records: list[str]) -> None:
    reply = desk.service.refuse(Lines(), request("x"), TooLarge("The body", 5, "MAX_BODY_SIZE"))
    assert (reply.status, reply.body) == (
        413,
        b"The body exceeds the limit of 5 bytes (MAX_BODY_SIZE)",
    )
    assert desk.value("requests_total", code="413") == 1
    assert desk.value("request_errors_total", kind="too_large") == 1
    assert "request_id=id-x lines m-1 status=413" in records[-1].replace(
        " pyfuncserver.model.exchange", ""
    )


def test_every_request_is_settled_once_whoever_is_first(instruments: Instruments) -> None:
    """Let answers, ends of clients and deadlines race, and count."""
    desk = Desk(instruments, Lane(2, 1000))
    exchanges: SimpleQueue[Any] = SimpleQueue()

    def submit(number: int) -> None:
        name = f"n{number}"
        delivered = desk.replies.setdefault(name, [])
        exchanges.put(desk.service.submit(Lines(), request(name), delivered.append))

    def give_up() -> None:
        for number in range(400):
            exchange = exchanges.get(timeout=WAIT_S)
            (exchange.abandon if number % 2 else exchange.expire)()

    quitter = threading.Thread(target=give_up)
    quitter.start()
    for number in range(400):
        submit(number)
    quitter.join(WAIT_S)
    wait_until(lambda: desk.value("requests_in_flight") == 0, WAIT_S)
    assert all(len(desk.replies[f"n{number}"]) == 1 for number in range(400))
    assert desk.value("requests_total") == 400
    assert desk.value("requests_waiting") == 0
    assert desk.value("request_wait_seconds_count") == 400


class Nobody:
    """A loop that is called by none of these tests."""


def short_lane() -> Lane:
    lane = Lane(1, 0)
    lane.use_loop(Nobody())  # type: ignore[arg-type]
    lane._pace.is_short = True
    return lane


def test_what_is_short_is_answered_before_submit_returns(instruments: Instruments) -> None:
    desk = Desk(instruments, short_lane())
    here = threading.current_thread()
    threads: list[threading.Thread] = []
    desk.service.submit(
        Lines(), request("x"), lambda _: threads.append(threading.current_thread())
    ).abandon()
    assert threads == [here]
    assert desk.handed == ["x"]
    assert value(instruments.predictions, "pyfuncserver_predictions_total", where="loop") == 1
    assert desk.value("requests_total", code="200") == 1
    assert desk.value("request_errors_total") == 0, "it was settled when its client went"
    assert desk.value("request_wait_seconds_count") == 1
    assert desk.value("request_duration_seconds_count") == 1
    assert desk.value("requests_in_flight") == 0
    assert desk.value("requests_waiting") == 0


@each_case
def test_what_fails_on_the_loop_is_counted_and_logged(
    instruments: Instruments,
    records: list[str],
    body: bytes,
    answer: Any,
    model: str,
    status: int,
    kind: str,
) -> None:
    service = InferenceService({"m-1": Stand(Runner(answer), short_lane())}, instruments)
    replies: list[Reply] = []
    service.submit(Lines(), Request(model, body, "id-1"), replies.append)
    assert [reply.status for reply in replies] == [status]
    assert sum("request_id=id-1 " in line and f"status={status}" in line for line in records) == (
        1 if kind else 0
    )
    assert value(instruments.errors, "pyfuncserver_request_errors_total", kind=kind) == (
        1 if kind else 0
    )
