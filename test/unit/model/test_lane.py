from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import wait_until

from pyfuncserver.errors import Overloaded
from pyfuncserver.metrics.meters import LOOP, THREAD, Where
from pyfuncserver.model.lane import Lane

WAIT_S = 30


class Work:
    """A job that runs until it is let go, and notes what becomes of it."""

    def __init__(self, name: str = "", notes: list[str] | None = None) -> None:
        self.name = name
        self.notes = [] if notes is None else notes
        self.thread: threading.Thread | None = None
        self.where: Where | None = None
        self.began = threading.Event()
        self.may_end = threading.Event()
        self.ended = threading.Event()
        self.timed_out = threading.Event()
        self.needs_thread = False

    def let_go(self) -> Work:
        self.may_end.set()
        return self

    def run(self, where: Where) -> None:
        self.thread = threading.current_thread()
        self.where = where
        self.notes.append(f"run {self.name}")
        self.began.set()
        assert self.may_end.wait(WAIT_S)

    def finish(self) -> None:
        self.notes.append(f"finish {self.name}")
        self.ended.set()

    def time_out(self) -> None:
        self.timed_out.set()


Start = Callable[..., Work]


@pytest.fixture
def start() -> Iterator[Start]:
    """Give `start(lane)`, which submits a job that ends at the latest with the test."""
    works: list[Work] = []

    def submit(lane: Lane, name: str = "", notes: list[str] | None = None) -> Work:
        works.append(Work(name, notes))
        lane.submit(works[-1])
        return works[-1]

    yield submit
    for work in works:
        work.let_go()


def test_as_many_run_as_the_lane_is_wide(start: Start) -> None:
    lane = Lane(2, 5)
    works = [start(lane) for _ in range(3)]
    assert works[0].began.wait(WAIT_S)
    assert works[1].began.wait(WAIT_S)
    assert (lane.running, lane.waiting) == (2, 1)
    works[0].let_go()
    assert works[2].began.wait(WAIT_S)
    assert (lane.running, lane.waiting) == (2, 0)


def test_one_more_than_may_wait_is_refused(start: Start) -> None:
    lane = Lane(1, 2)
    works = [start(lane) for _ in range(3)]
    with pytest.raises(Overloaded, match="2 predictions wait already"):
        start(lane)
    works[0].let_go()
    assert works[1].began.wait(WAIT_S)
    start(lane)


def test_nothing_waits_where_nothing_may(start: Start) -> None:
    lane = Lane(1, 0)
    work = start(lane)
    with pytest.raises(Overloaded):
        start(lane)
    work.let_go()
    assert work.ended.wait(WAIT_S)
    start(lane)


def test_a_place_is_free_when_the_end_of_a_job_is_told() -> None:
    """Else a client with its answer in hand would be refused by a lane where nothing may wait."""
    lane = Lane(1, 0)
    seen: list[int] = []

    class Looking(Work):
        def finish(self) -> None:
            seen.append(lane.running)
            super().finish()

    work = Looking()
    lane.submit(work.let_go())
    assert work.ended.wait(WAIT_S)
    wide = Lane(2, 0)
    lane = wide
    assert wide.run_here(Looking().let_go())
    assert seen == [0, 0]


def test_first_come_first_served(start: Start) -> None:
    notes: list[str] = []
    lane = Lane(1, 10)
    works = [start(lane, str(number), notes) for number in range(5)]
    for work in works:
        work.let_go()
    assert works[-1].ended.wait(WAIT_S)
    assert notes == [f"{step} {number}" for number in range(5) for step in ("run", "finish")]


def test_a_narrow_lane_keeps_one_thread(start: Start) -> None:
    lane = Lane(1, 10)
    works = [start(lane).let_go() for _ in range(5)]
    assert works[-1].ended.wait(WAIT_S)
    later = start(lane).let_go()
    assert later.ended.wait(WAIT_S)
    assert len({work.thread for work in (*works, later)}) == 1
    assert later.thread is not None
    assert later.thread.daemon
    assert later.thread.name == "predict-0"
    assert not lane.run_here(Work()), "the callers' threads are not its own"


def test_a_forgotten_job_never_runs_and_frees_its_place(start: Start) -> None:
    lane = Lane(1, 1)
    first, second = start(lane), start(lane)
    assert first.began.wait(WAIT_S)
    assert lane.forget(second)
    third = start(lane)
    assert not lane.forget(first), "it runs"
    first.let_go()
    third.let_go()
    assert third.ended.wait(WAIT_S)
    assert not second.began.is_set()
    assert not lane.forget(second)


def test_a_job_may_run_on_the_callers_thread(start: Start) -> None:
    lane = Lane(2, 1)
    other = start(lane)
    assert other.began.wait(WAIT_S)
    here = Work().let_go()
    assert lane.run_here(here)
    assert here.thread is threading.current_thread()
    assert here.ended.is_set()
    assert lane.running == 1


def test_a_caller_with_a_full_lane_has_to_wait_like_the_others(start: Start) -> None:
    lane = Lane(2, 1)
    running = [start(lane), start(lane)]
    assert not lane.run_here(Work())
    waiting = start(lane)
    running[0].let_go()
    assert waiting.began.wait(WAIT_S)


def test_a_job_that_waits_for_callers_begins_when_one_has_ended() -> None:
    lane = Lane(2, 1)
    callers = [Work(), Work()]
    threads = [threading.Thread(target=lane.run_here, args=(work,)) for work in callers]
    for thread in threads:
        thread.start()
    assert all(work.began.wait(WAIT_S) for work in callers)
    waiting = Work().let_go()
    lane.submit(waiting)
    assert not waiting.began.is_set()
    callers[0].let_go()
    assert waiting.ended.wait(WAIT_S)
    callers[1].let_go()
    for thread in threads:
        thread.join(WAIT_S)
    assert (lane.running, lane.waiting, lane.started) == (0, 0, 3)


def test_a_job_that_takes_too_long_is_given_up_with_its_thread(start: Start) -> None:
    stuck = threading.Semaphore(0)
    lane = Lane(1, 5, 1.0, stuck.release)
    hanging, waiting, later = start(lane), start(lane), start(lane)
    assert hanging.timed_out.wait(WAIT_S)
    assert stuck.acquire(timeout=WAIT_S)
    waiting.let_go()
    later.let_go()
    assert later.ended.wait(WAIT_S)
    assert waiting.thread is not hanging.thread
    assert later.thread is waiting.thread
    assert not waiting.timed_out.is_set()
    hanging.let_go()
    assert hanging.ended.wait(WAIT_S), "the job is told of its end, however late"
    assert hanging.thread is not None
    hanging.thread.join(WAIT_S)
    assert not hanging.thread.is_alive()
    assert lane.running == 0


def test_each_job_has_its_own_time(start: Start) -> None:
    stuck: list[int] = []
    lane = Lane(2, 0, 0.05, lambda: stuck.append(1))
    works = [start(lane), start(lane)]
    assert all(work.timed_out.wait(WAIT_S) for work in works)
    wait_until(lambda: len(stuck) == 2, WAIT_S)
    works += [start(lane), start(lane)]
    assert all(work.timed_out.wait(WAIT_S) for work in works)


def test_the_watchdog_takes_up_its_watch_after_a_pause(start: Start) -> None:
    lane = Lane(1, 0, 0.05)
    for _ in range(3):
        quick = start(lane).let_go()
        assert quick.ended.wait(WAIT_S)
        slow = start(lane)
        assert slow.timed_out.wait(WAIT_S)


@pytest.mark.parametrize(("limit_s", "watchdogs"), [(0, 0), (60, 1)])
def test_a_lane_has_a_watchdog_where_it_has_a_limit(
    start: Start, limit_s: float, watchdogs: int
) -> None:
    before = set(threading.enumerate())
    lane = Lane(2, 0, limit_s)
    works = [start(lane), start(lane)]
    assert all(work.began.wait(WAIT_S) for work in works)
    ours = [thread for thread in set(threading.enumerate()) - before if thread.name == "watchdog"]
    assert len(ours) == watchdogs
    assert all(thread.daemon for thread in ours)


def test_a_lane_outlives_what_a_job_raises(caplog: pytest.LogCaptureFixture) -> None:
    class Raising(Work):
        def run(self, where: Where) -> None:
            raise SystemExit

        def finish(self) -> None:
            raise RuntimeError("in finish")

    lane = Lane(1, 5)
    lane.submit(Raising())
    work = Work().let_go()
    lane.submit(work)
    assert work.ended.wait(WAIT_S)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.ERROR]
    assert lane.running == 0


def test_a_thread_that_cannot_be_made_is_made_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    lane = Lane(1, 5)
    first, second = Work().let_go(), Work().let_go()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        lane.submit(first)
    assert "can't start new thread" in caplog.text
    lane.submit(second)
    assert first.ended.wait(WAIT_S)
    assert second.ended.wait(WAIT_S)


def test_all_are_served_whatever_comes_at_once() -> None:
    lane = Lane(4, 1000)
    done = threading.Semaphore(0)
    most: list[int] = []

    class Short(Work):
        def run(self, where: Where) -> None:
            most.append(lane.running)

        def finish(self) -> None:
            done.release()

    def bring() -> None:
        for _ in range(100):
            work = Short()
            if not lane.run_here(work):
                lane.submit(work)

    threads = [threading.Thread(target=bring) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert all(done.acquire(timeout=WAIT_S) for _ in range(800))
    assert max(most) <= 4
    assert (lane.running, lane.waiting, lane.started) == (0, 0, 800)


class Loop:
    """Keeps what it is called for until it turns."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.has_ended = False

    def call_soon_threadsafe(self, call: Callable[[], None]) -> None:
        if self.has_ended:
            raise RuntimeError("Event loop is closed")
        self.calls.append(call)

    def turn(self) -> None:
        wait_until(lambda: self.calls, WAIT_S)
        self.calls.pop(0)()


def short_lane(loop: Any, width: int = 1, depth: int = 10) -> Lane:
    """Give a lane whose jobs have proved short."""
    lane = Lane(width, depth)
    lane.use_loop(loop)
    while not lane.is_for_loop:
        lane.submit(work := Work().let_go())
        assert work.ended.wait(WAIT_S)
        wait_until(lambda: lane.running == 0, WAIT_S)
    return lane


def test_jobs_run_on_the_loop_when_they_have_proved_short() -> None:
    lane = Lane(1, 10)
    lane.use_loop(Loop())  # type: ignore[arg-type]
    assert not lane.run_on_loop(Work())
    lane = short_lane(Loop())
    work = Work().let_go()
    assert lane.run_on_loop(work)
    assert work.thread is threading.current_thread()
    assert work.where is LOOP
    assert work.ended.is_set()
    assert (lane.running, lane.waiting) == (0, 0)


def test_without_a_loop_nothing_runs_on_one(start: Start) -> None:
    lane = Lane(1, 10)
    for _ in range(300):
        assert start(lane).let_go().ended.wait(WAIT_S)
    assert not lane.run_on_loop(Work())
    assert not lane.is_for_loop


def test_a_lane_with_a_limit_has_no_loop() -> None:
    with pytest.raises(AssertionError, match="nobody would answer"):
        Lane(1, 0, 60).use_loop(Loop())  # type: ignore[arg-type]


def test_a_long_job_sends_those_after_it_back_to_the_thread() -> None:
    lane = short_lane(Loop())
    long = Work()
    timer = threading.Timer(0.05, long.let_go)
    timer.start()
    assert lane.run_on_loop(long)
    timer.join()
    assert not lane.run_on_loop(Work())
    lane.submit(next_one := Work().let_go())
    assert next_one.ended.wait(WAIT_S)
    assert next_one.where is THREAD


def test_a_thread_and_the_loop_never_run_more_than_may(start: Start) -> None:
    lane = Lane(1, 10)
    lane.use_loop(loop := Loop())  # type: ignore[arg-type]
    running = start(lane)
    assert running.began.wait(WAIT_S)
    lane._pace.is_short = True
    assert not lane.run_on_loop(Work()), "one runs"
    waiting = [start(lane).let_go(), start(lane).let_go()]
    running.let_go()
    assert running.ended.wait(WAIT_S)
    assert not lane.run_on_loop(Work()), "others are before it"
    assert not any(work.began.is_set() for work in waiting), "they are the loop's now"
    loop.turn()
    assert [work.where for work in waiting] == [LOOP, LOOP]
    assert lane.run_on_loop(Work().let_go())
    assert loop.calls == []


class Lasting(Work):
    """Shows when it is run that it needs a thread."""

    def run(self, where: Where) -> None:
        self.needs_thread = True
        if where is THREAD:
            super().run(where)


def test_what_needs_a_thread_gets_one_and_keeps_its_place() -> None:
    lane = short_lane(Loop(), width=2)
    started = lane.started
    work = Lasting()
    assert lane.run_on_loop(work)
    assert work.began.wait(WAIT_S)
    assert work.where is THREAD
    assert work.thread is not threading.current_thread()
    assert not work.ended.is_set()
    assert (lane.running, lane.started) == (1, started + 1)
    assert lane.run_on_loop(Work().let_go()), "there is a place for one more, on the loop"
    other = Lasting()
    assert lane.run_on_loop(other)
    assert not lane.run_on_loop(Work()), "both places are taken"
    for one in (work, other):
        one.let_go()
        assert one.ended.wait(WAIT_S)
    assert lane.running == 0


def test_what_waits_goes_on_when_what_needed_a_thread_has_ended() -> None:
    lane = short_lane(loop := Loop())
    work, waiting = Lasting(), Work().let_go()
    assert lane.run_on_loop(work)
    lane.submit(waiting)
    assert not waiting.began.is_set()
    work.let_go()
    loop.turn()
    assert waiting.ended.wait(WAIT_S)
    assert waiting.where is LOOP


def test_what_lasts_says_nothing_of_the_others() -> None:
    lane = Lane(2, 10)
    lane.use_loop(Loop())  # type: ignore[arg-type]
    lane.submit(work := Lasting())
    assert work.began.wait(WAIT_S)
    while not lane.is_for_loop:
        lane.submit(short := Work().let_go())
        assert short.ended.wait(WAIT_S)
    threading.Timer(0.02, work.let_go).start()
    assert work.ended.wait(WAIT_S)
    assert lane.is_for_loop


def test_who_gets_no_thread_gets_one_later(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = short_lane(loop := Loop())
    later: list[Callable[[], None]] = []
    loop.call_later = lambda _, call, job: later.append(lambda: call(job))  # type: ignore[attr-defined]
    work = Lasting().let_go()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        assert lane.run_on_loop(work)
    assert not work.began.is_set()
    assert lane.running == 1
    (retry,) = later
    retry()
    assert work.ended.wait(WAIT_S)


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_first_come_first_served_whoever_serves() -> None:
    notes: list[str] = []
    lane = Lane(1, 1000)
    lane.use_loop(loop := Loop())  # type: ignore[arg-type]
    works = [Work(str(number), notes).let_go() for number in range(500)]
    for work in works:
        if not lane.run_on_loop(work):
            lane.submit(work)

    def all_have_ended() -> bool:
        while loop.calls:
            loop.turn()
        return works[-1].ended.is_set()

    wait_until(all_have_ended, WAIT_S)
    assert [note for note in notes if "run" in note] == [f"run {number}" for number in range(500)]
    assert {work.where for work in works} == {LOOP, THREAD}


def test_the_loop_leaves_what_waits_to_threads_when_a_job_is_long(start: Start) -> None:
    lane = Lane(2, 10)
    lane.use_loop(loop := Loop())  # type: ignore[arg-type]
    running = [start(lane), start(lane)]
    assert all(work.began.wait(WAIT_S) for work in running)
    waiting = [start(lane) for _ in range(3)]
    lane._pace.is_short = True
    running[0].let_go()
    threading.Timer(0.05, waiting[0].let_go).start()
    loop.turn()
    assert waiting[0].where is LOOP
    assert waiting[1].began.wait(WAIT_S)
    assert waiting[1].where is THREAD
    assert not waiting[2].began.is_set()
    running[1].let_go()
    assert waiting[2].began.wait(WAIT_S)


def test_when_the_loop_has_ended_threads_run_what_waits(start: Start) -> None:
    lane = Lane(1, 10)
    lane.use_loop(loop := Loop())  # type: ignore[arg-type]
    running, waiting = start(lane), start(lane).let_go()
    assert running.began.wait(WAIT_S)
    lane._pace.is_short = loop.has_ended = True
    running.let_go()
    assert waiting.ended.wait(WAIT_S)
    assert waiting.where is THREAD


def test_a_job_on_the_loop_may_have_a_loop_of_its_own() -> None:
    """A model that calls asyncio.run on a thread must be able to where the server's loop runs."""
    seen: list[str] = []

    async def inner() -> None:
        seen.append("inner")

    class Asynchronous(Work):
        def run(self, where: Where) -> None:
            asyncio.run(inner())

    async def serve() -> None:
        lane = short_lane(asyncio.get_running_loop())
        assert lane.run_on_loop(Asynchronous())
        assert asyncio.get_running_loop()

    asyncio.run(serve())
    assert seen == ["inner"]
