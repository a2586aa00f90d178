from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from harness import wait_until

from pyfuncserver.errors import InvalidInput, ModelStatus
from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.model.assembly import Assembly
from pyfuncserver.model.batch import Batcher, Ticket
from pyfuncserver.model.batch_size import FixedSize
from pyfuncserver.model.batching import BatchingLane
from pyfuncserver.model.call import Answer, Call, Predictions, Reply, Request
from pyfuncserver.model.exchange import Exchange
from pyfuncserver.model.lane import Lane
from pyfuncserver.model.plain import Prepared
from pyfuncserver.model.service import InferenceService, Stand
from pyfuncserver.protocol.rest.v1 import V1

WAIT_S = 30


class Model:
    """Doubles each number, and notes what it is handed; does so when it is let.

    A negative number fails, one above 1000 hangs; ``when_opened`` is called for each input.
    """

    input_schema = None

    def __init__(self) -> None:
        self.may_run = threading.Event()
        self.may_run.set()
        self.may_end = threading.Event()
        self.entered = threading.Semaphore(0)
        self.inputs: list[list[Any]] = []
        self.params: list[Any] = []
        self.threads: list[threading.Thread] = []
        self.when_opened: Callable[[Any], None] = lambda _: None
        self.make: Callable[[Any], Any] = lambda data: data * 2

    def prepare(self, call: Call) -> Prepared:
        rows = call.payload["instances"]
        self.when_opened(rows)
        if "bad" in rows:
            raise InvalidInput("bad")
        return Prepared(np.array(rows), call.payload.get("params"))

    def invoke(self, prepared: Prepared) -> Any:
        self.inputs.append(prepared.data.tolist())
        self.params.append(prepared.params)
        self.threads.append(threading.current_thread())
        self.entered.release()
        assert self.may_run.wait(WAIT_S)
        if (prepared.data < 0).any():
            raise ValueError("negative")
        if (prepared.data > 1000).any():
            assert self.may_end.wait(WAIT_S)
        return self.make(prepared.data)

    def predict(self, call: Call) -> Answer:
        raise AssertionError(f"{call} went past the batches")

    def hold(self) -> None:
        self.may_run.clear()
        while self.entered.acquire(blocking=False):
            pass

    def let_go(self) -> None:
        self.may_run.set()

    def wait_until_entered(self) -> None:
        assert self.entered.acquire(timeout=WAIT_S)


class Client:
    """Sends rows to the model through a lane that batches, and keeps the replies."""

    def __init__(
        self,
        model: Model,
        most: int = 64,
        delay_s: float = 0,
        *,
        width: int = 1,
        depth: int = 1000,
        limit_s: float = 0,
    ) -> None:
        self.stuck = 0
        lane = Lane(width, width, limit_s, self.note_stuck)
        size = FixedSize(most)
        assembly: Assembly[Ticket] = Assembly(size, delay_s)
        self.instruments = Instruments()
        self.lane = BatchingLane(
            lane, width, depth, Batcher(model, size), assembly, self.instruments
        )
        self.service = InferenceService({"m": Stand(model, self.lane)}, self.instruments)

    def note_stuck(self) -> None:
        self.stuck += 1

    def send(self, *rows: Any, deadline: float = float("inf"), **body: Any) -> Sent:
        raw = json.dumps({"instances": list(rows), **body}).encode()
        replies: SimpleQueue[Reply] = SimpleQueue()
        request = Request("m", raw, "id", deadline=deadline)
        return Sent(self.service.submit(V1(), request, replies.put), replies)

    def waiting(self) -> float:
        return self.instruments.waiting.labels("m", "v1")._value.get()

    def batches(self, why: str) -> float:
        return self.instruments.batches.labels(why)._value.get()


class Sent:
    def __init__(self, exchange: Exchange, replies: SimpleQueue[Reply]) -> None:
        self.exchange = exchange
        self.replies = replies

    def reply(self) -> Reply:
        reply = self.replies.get(timeout=WAIT_S)
        assert self.replies.empty(), "answered twice"
        return reply

    def rows(self) -> Any:
        reply = self.reply()
        assert reply.status == 200, reply.body
        return json.loads(reply.body)["predictions"]


@pytest.fixture
def model() -> Any:
    made = Model()
    yield made
    made.let_go()
    made.may_end.set()


def hold_one(client: Client, model: Model) -> Sent:
    """Have the model busy with a call of its own, so that what is sent now waits."""
    model.hold()
    first = client.send(0)
    model.wait_until_entered()
    return first


def test_what_waits_goes_together_and_each_has_its_own_rows(model: Model) -> None:
    client = Client(model)
    first = hold_one(client, model)
    sent = [client.send(1), client.send(2, 3), client.send(4)]
    model.let_go()
    assert [call.rows() for call in (first, *sent)] == [[0], [2], [4, 6], [8]]
    assert model.inputs == [[0], [1, 2, 3, 4]]
    assert client.batches("empty") == 2
    assert client.lane.started == 4
    assert client.waiting() == 0


def test_lone_call_is_not_kept_waiting(model: Model) -> None:
    client = Client(model)
    for number in range(50):
        assert client.send(number).rows() == [number * 2]
    assert model.inputs == [[number] for number in range(50)]


def test_batch_is_never_larger_than_it_may_be(model: Model) -> None:
    client = Client(model, most=4)
    first = hold_one(client, model)
    sent = [client.send(*range(number % 3 + 1)) for number in range(30)]
    model.let_go()
    for number, call in enumerate(sent):
        assert len(call.rows()) == number % 3 + 1
    first.rows()
    assert max(map(len, model.inputs)) == 4
    assert client.batches("full") >= 10


def test_call_of_more_rows_goes_whole(model: Model) -> None:
    client = Client(model, most=4)
    first = hold_one(client, model)
    sent = [client.send(1), client.send(*range(9)), client.send(2)]
    model.let_go()
    assert [len(call.rows()) for call in (first, *sent)] == [1, 1, 9, 1]
    assert sorted(map(len, model.inputs)) == [1, 2, 9]


def test_types_and_params_are_not_mixed(model: Model) -> None:
    client = Client(model)
    first = hold_one(client, model)
    sent = [
        client.send(1),
        client.send(1.5),
        client.send(2, params={"k": 1}),
        client.send(3),
        client.send([4, 5]),
        client.send(4, params={"k": 1}),
        client.send(5, params={"k": 2}),
    ]
    model.let_go()
    assert [call.rows() for call in (first, *sent)] == [
        [0], [2], [3.0], [4], [6], [[8, 10]], [8], [10],
    ]  # fmt: skip
    assert model.inputs[1:] == [[1, 3], [1.5], [2, 4], [[4, 5]], [5]]
    assert model.params[1:] == [None, None, {"k": 1}, None, {"k": 2}]
    assert client.batches("others") == 4


def test_bad_input_fails_alone_and_before_the_model(model: Model) -> None:
    client = Client(model)
    first = hold_one(client, model)
    sent = [client.send(1), client.send("bad"), client.send(2)]
    unreadable: SimpleQueue[Reply] = SimpleQueue()
    client.service.submit(V1(), Request("m", b"{", "id"), unreadable.put)
    model.let_go()
    assert first.rows() == [0]
    assert [sent[0].rows(), sent[2].rows()] == [[2], [4]]
    assert sent[1].reply().status == 400
    assert unreadable.get(timeout=WAIT_S).status == 400
    assert model.inputs == [[0], [1, 2]]


def test_batch_that_fails_is_run_one_by_one(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(model)
    first = hold_one(client, model)
    sent = [client.send(1), client.send(-2), client.send(3)]
    with caplog.at_level(logging.INFO):
        model.let_go()
        first.rows()
        assert [sent[0].rows(), sent[2].rows()] == [[2], [6]]
        assert sent[1].reply().status == 500
    assert model.inputs == [[0], [1, -2, 3], [1], [-2], [3]]
    assert "3 calls failed together and are run one by one: ValueError" in caplog.text
    assert client.instruments.batch_retries._value.get() == 1
    hold_one(client, model)
    again = [client.send(4), client.send(5)]
    model.let_go()
    assert [call.rows() for call in again] == [[8], [10]]
    assert model.inputs[-1] == [4, 5], "batches go on"


def test_model_may_choose_the_status_of_one(model: Model) -> None:
    def refuse(data: Any) -> Any:
        if (data == 7).any():
            raise ModelStatus(422, "no seven")
        return data

    model.make = refuse
    client = Client(model)
    first = hold_one(client, model)
    sent = [client.send(7), client.send(8)]
    model.let_go()
    assert first.rows() == [0]
    assert sent[0].reply().status == 422
    assert sent[1].rows() == [8]


@pytest.mark.parametrize("make", [lambda data: data[:-1], lambda data: float(data.sum())])
def test_answer_that_is_not_by_row_ends_batching(
    model: Model, make: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(model)
    for _ in range(2):
        first = hold_one(client, model)
        model.make = make
        sent = [client.send(1, 2), client.send(3, 4)]
        model.let_go()
        first.rows()
        for call, rows in zip(sent, ([1, 2], [3, 4]), strict=True):
            assert call.rows() == json.loads(json.dumps(make(np.array(rows)), default=list_of))
    assert model.inputs == [[0], [1, 2, 3, 4], [1, 2], [3, 4], [0], [1, 2], [3, 4]]
    assert caplog.text.count("batching is off from now on") == 1


def list_of(value: Any) -> Any:
    return value.tolist()


def test_one_more_than_may_wait_is_refused(model: Model) -> None:
    client = Client(model, depth=2)
    first = hold_one(client, model)
    accepted = [client.send(1), client.send(2)]
    refused = client.send(3)
    assert refused.reply().status == 429
    model.let_go()
    assert [call.rows() for call in (first, *accepted)] == [[0], [2], [4]]


def test_as_many_places_are_free_as_a_batch_has_taken(model: Model) -> None:
    client = Client(model, depth=2)
    hold_one(client, model)
    for _ in range(20):
        sent = [client.send(1), client.send(2)]
        model.let_go()
        assert [call.rows() for call in sent] == [[2], [4]]
        hold_one(client, model)


def test_waiting_one_that_goes_frees_its_place_and_is_not_handed_over(model: Model) -> None:
    client = Client(model, depth=2)
    first = hold_one(client, model)
    gone, stays = client.send(1), client.send(2)
    gone.exchange.abandon()
    assert gone.reply().status == 499
    assert client.waiting() == 1
    other = client.send(3)
    model.let_go()
    assert [call.rows() for call in (first, stays, other)] == [[0], [4], [6]]
    assert model.inputs == [[0], [2, 3]]


def test_one_that_goes_while_it_is_held_leaves_its_batch(model: Model) -> None:
    client = Client(model, delay_s=60, most=3)
    gone, stays = client.send(1), client.send(2)
    wait_until(lambda: client.lane._assembly.due_at < float("inf"), WAIT_S)
    gone.exchange.abandon()
    assert gone.reply().status == 499
    others = [client.send(3), client.send(4)]
    assert [call.rows() for call in (stays, *others)] == [[4], [6], [8]]
    assert model.inputs == [[2, 3, 4]]


def test_batch_of_nobody_is_not_run(model: Model) -> None:
    client = Client(model, delay_s=60)
    gone = client.send(1)
    gone.exchange.abandon()
    assert gone.reply().status == 499
    assert client.send(2, deadline=time.monotonic() + 3).rows() == [4]
    assert model.inputs == [[2]]


def test_waiting_one_whose_deadline_has_passed_is_not_handed_over(model: Model) -> None:
    client = Client(model)
    first = hold_one(client, model)
    late, well = client.send(1, deadline=time.monotonic()), client.send(2)
    model.let_go()
    assert late.reply().status == 504
    assert [first.rows(), well.rows()] == [[0], [4]]
    assert model.inputs == [[0], [2]]


def test_full_batch_is_not_held(model: Model) -> None:
    client = Client(model, most=3, delay_s=60)
    sent = [client.send(number) for number in range(3)]
    assert [call.rows() for call in sent] == [[0], [2], [4]]
    assert model.inputs == [[0, 1, 2]]
    assert client.batches("full") == 1


def test_batch_is_held_for_as_long_as_it_may(model: Model) -> None:
    client = Client(model, delay_s=1)
    started = time.monotonic()
    sent = [client.send(1), client.send(2)]
    assert [call.rows() for call in sent] == [[2], [4]]
    assert time.monotonic() - started >= 1
    assert model.inputs == [[1, 2]]
    assert client.batches("delay") == 1


def test_call_with_a_deadline_is_held_for_half_of_its_time(model: Model) -> None:
    client = Client(model, delay_s=60)
    started = time.monotonic()
    assert client.send(1, deadline=started + 3).rows() == [2]
    assert time.monotonic() - started >= 1.5


def test_each_of_a_batch_that_takes_too_long_is_told(model: Model) -> None:
    client = Client(model, delay_s=0.2, limit_s=2)
    hanging = [client.send(2000), client.send(1)]
    model.wait_until_entered()
    time.sleep(1)  # else they wait too long, too
    waiting = [client.send(2), client.send(3)]
    assert [call.reply().status for call in hanging] == [504, 504]
    assert [call.rows() for call in waiting] == [[4], [6]]
    assert client.stuck == 1
    assert client.send(4).rows() == [8]
    model.may_end.set()
    assert model.inputs == [[2000, 1], [2, 3], [4]]
    assert model.threads[0] is not model.threads[1]
    wait_until(lambda: not model.threads[0].is_alive(), WAIT_S)
    assert client.send(5).rows() == [10]


def test_time_that_a_call_was_held_is_not_the_models(model: Model) -> None:
    client = Client(model, delay_s=1.4, limit_s=2)
    model.hold()
    held = client.send(1)
    model.wait_until_entered()
    threading.Timer(0.8, model.let_go).start()
    assert held.rows() == [2]


def test_one_that_hangs_when_its_batch_is_run_again_is_told_alone(model: Model) -> None:
    client = Client(model, limit_s=1.5)
    first = hold_one(client, model)
    sent = [client.send(-1), client.send(2000), client.send(3)]
    model.let_go()
    assert first.rows() == [0]
    assert sent[0].reply().status == 500
    assert sent[1].reply().status == 504
    assert sent[2].reply().status in (200, 504), "it may have waited for as long as it might run"
    assert client.stuck == 1


def test_one_whose_opening_hangs_is_told_alone(model: Model) -> None:
    may_open = threading.Event()

    def when_opened(rows: Any) -> None:
        if rows == [7]:
            assert may_open.wait(WAIT_S)

    model.when_opened = when_opened
    client = Client(model, limit_s=1)
    stuck = client.send(7)
    assert stuck.reply().status == 504
    assert client.send(1).rows() == [2]
    may_open.set()
    assert client.send(2).rows() == [4]
    assert model.inputs == [[1], [2]]


def test_nobody_is_refused_or_lost_where_none_may_wait(model: Model) -> None:
    client = Client(model, depth=0)
    for number in range(300):
        sent = client.send(number)
        if number % 3 == 0:
            sent.exchange.abandon()
            assert sent.reply().status in (200, 499)
            wait_until(lambda: not client.lane._running and not client.lane._gathering, WAIT_S)
        else:
            assert sent.rows() == [2 * number]


def test_lane_of_width_one_keeps_to_one_thread(model: Model) -> None:
    client = Client(model, most=3)
    for _ in range(5):
        calls = [client.send(number) for number in range(10)]
        for call in calls:
            call.rows()
    assert len(set(model.threads)) == 1


def test_wider_lane_runs_as_many_batches_at_a_time(model: Model) -> None:
    client = Client(model, width=2, most=2)
    model.hold()
    sent = [client.send(1)]
    model.wait_until_entered()
    sent.append(client.send(2))
    model.wait_until_entered()
    sent += [client.send(number) for number in (3, 4, 5)]
    assert model.inputs == [[1], [2]]
    model.let_go()
    assert [call.rows() for call in sent] == [[2], [4], [6], [8], [10]]
    assert max(map(len, model.inputs)) == 2


@pytest.mark.parametrize(("width", "delay_s"), [(1, 0), (1, 0.001), (3, 0), (3, 0.001)])
def test_each_of_many_clients_has_its_own_answers(model: Model, width: int, delay_s: float) -> None:
    client = Client(model, most=16, width=width, delay_s=delay_s)
    wrong: list[Any] = []

    def ask(start: int) -> None:
        for number in range(start, start + 40):
            rows = [number] * (number % 5 + 1)
            params = {"params": {"k": 1}} if number % 3 == 0 else {}
            found = client.send(*rows, **params).rows()
            if found != [2 * number] * len(rows):
                wrong.append((rows, found))

    threads = [threading.Thread(target=ask, args=(100 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not wrong
    assert max(map(len, model.inputs)) <= 16
    assert client.lane.started == 8 * 40
    assert client.waiting() == 0
    assert sum(map(len, model.inputs)) == sum(n % 5 + 1 for s in range(8) for n in numbers(s))


def numbers(start: int) -> range:
    return range(100 * start, 100 * start + 40)


def test_thread_that_cannot_be_had_is_asked_for_again(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(model)
    begin = threading.Thread.start
    attempts: list[threading.Thread] = []

    def fail_once(thread: threading.Thread) -> None:
        attempts.append(thread)
        if len(attempts) == 1:
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", fail_once)
    sent = [client.send(1), client.send(2)]
    assert sorted(call.rows()[0] for call in sent) == [2, 4]


def test_answer_of_predictions_is_made_for_the_call(model: Model) -> None:
    """A dialect finds in it what its client has sent."""
    client = Client(model)
    seen: list[Answer] = []

    class Watching(V1):
        def encode(self, answer: Answer) -> Reply:
            seen.append(answer)
            return super().encode(answer)

    first = hold_one(client, model)
    replies: SimpleQueue[Reply] = SimpleQueue()
    dialect = Watching()
    dialect.name = "watching"
    for number in (1, 2):
        body = json.dumps({"instances": [number]}).encode()
        client.service.submit(dialect, Request("m", body, "id"), replies.put)
    model.let_go()
    first.rows()
    assert [replies.get(timeout=WAIT_S).status for _ in range(2)] == [200, 200]
    assert model.inputs[-1] == [1, 2]
    for answer, number in zip(seen, (1, 2), strict=True):
        assert isinstance(answer, Predictions)
        assert answer.call.payload == {"instances": [number]}
