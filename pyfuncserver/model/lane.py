"""A lane: so many jobs at a time, so many more that wait, and no more.

Whoever cannot be served soon is told at once; whoever takes too long is given up, with the thread
that he has, so that the others go on.

>>> lane = Lane(1, 1000)
>>> lane.use_loop(asyncio.get_running_loop())
>>> if not lane.run_on_loop(job):  # on the loop's thread
...     lane.submit(job)
"""

from __future__ import annotations

import logging
import math
import threading
import time
from asyncio import AbstractEventLoop
from asyncio.events import _get_running_loop, _set_running_loop
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Protocol

from pyfuncserver.errors import Overloaded
from pyfuncserver.metrics.meters import LOOP, THREAD, Where
from pyfuncserver.model.pace import Pace

log = logging.getLogger(__name__)

RETRY_S = 1.0
TURN_S = 0.005
"""So long the loop runs what has waited for threads, before others have their turn."""


class Job(Protocol):
    """What a lane runs; an object is one job. None of these raises."""

    needs_thread: bool
    """It has shown while it ran that it may last, since it streams; it says nothing of others."""

    def run(self, where: Where) -> None:
        """Do the work, on the thread that the lane has for it.

        On the loop, what needs a thread is left; then this is called again, on a thread.
        """

    def finish(self) -> None:
        """Tell of it, on the same thread, when the job's place is free for the next."""

    def time_out(self) -> None:
        """Take note that the work takes longer than the limit; it still runs."""


class Lane:
    """Runs at most ``width`` jobs at a time and lets ``depth`` more wait, first come first served.

    Its threads are made when they are needed, and are daemons: a job that never ends keeps no
    process alive. A lane of width 1 runs every job on one and the same thread, for models that
    belong to a thread, until one times out.

    With a loop (:meth:`use_loop`), jobs that have proved short run on the loop's thread instead, by
    :meth:`run_on_loop`, never more of both than ``width``. Others have come before them who wait
    for a thread; those the loop runs first.

    A job that runs longer than ``limit_s`` (0 for no limit) is told so, its thread is written off
    and replaced, and ``when_stuck`` is called, on the lane's watchdog thread. Thread-safe.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        limit_s: float = 0,
        when_stuck: Callable[[], None] = lambda: None,
    ) -> None:
        self.limit_s = limit_s
        self.started = 0
        """How many jobs have begun so far."""
        self._width = width
        self._depth = depth
        self._when_stuck = when_stuck
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._waiting: OrderedDict[Job, None] = OrderedDict()
        self._running: dict[Job, float] = {}
        """When each began; the oldest is the first."""
        self._threads = 0
        self._idle = 0
        self._numbers = count()
        self._alarm = threading.Condition(self._lock)
        self._has_watchdog = False
        self._is_unwatched = True
        self._loop: AbstractEventLoop | None = None
        self._loop_is_called = False
        self._pace = Pace()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def is_for_loop(self) -> bool:
        """Tell whether jobs have proved short, so that the loop runs them."""
        return self._pace.is_short

    def use_loop(self, loop: AbstractEventLoop) -> None:
        """Let this loop run what is short. Call it once, before the first job, without a limit."""
        assert not self.limit_s, "nobody would answer for a job that hangs on the loop"
        self._loop = loop

    def submit(self, job: Job) -> None:
        """Let a job run on one of the lane's threads, soon or when it is its turn.

        Raises: Overloaded where as many wait as may.
        """
        with self._lock:
            if self.running + self.waiting >= self._width + self._depth:
                raise Overloaded(self._depth)
            self._waiting[job] = None
            self._find_thread()

    def run_here(self, job: Job) -> bool:
        """Run a job to its end on this thread; False where it has to be submitted.

        It has to where others are before it, where there is a time limit, since then somebody has
        to answer for it, and where the lane's one thread is the model's.
        """
        if self.limit_s or self._width == 1:
            return False
        with self._lock:
            if self._waiting or self.running >= self._width:
                return False
            self._start(job)
        try:
            job.run(THREAD)
        finally:
            with self._lock:
                del self._running[job]
                self._find_thread()
        job.finish()
        return True

    def run_on_loop(self, job: Job) -> bool:
        """Run a job to its end on this thread, the loop's; False where it has to be submitted.

        It has to where jobs are not short, and where others are before it.
        """
        if not self._pace.is_short:
            return False
        with self._lock:
            if self._waiting or len(self._running) >= self._width:
                return False
            began = self._start(job)
        self._run_on_loop(job, began)
        return True

    def forget(self, job: Job) -> bool:
        """Take out a job that waits, so that its place is free at once; False if it does not."""
        with self._lock:
            if job not in self._waiting:
                return False
            del self._waiting[job]
            return True

    def restart(self, job: Job) -> None:
        """Count the time of a job that runs from now on; it has only waited so far."""
        with self._lock:
            if self._running.pop(job, None) is not None:
                self._running[job] = time.monotonic()

    def _start(self, job: Job) -> float:
        self._running[job] = began = time.monotonic()
        self.started += 1
        return began

    def _run_on_loop(self, job: Job, began: float) -> None:
        # The model must not notice where it runs: it may have a loop of its own.
        loop = _get_running_loop()
        _set_running_loop(None)
        try:
            job.run(LOOP)
        finally:
            _set_running_loop(loop)
            with self._lock:
                if not job.needs_thread:
                    del self._running[job]
                self._pace.note_on_loop(time.monotonic() - began)
                if self._waiting:
                    self._find_thread()
        if job.needs_thread:
            self._set_apart(job)
        else:
            job.finish()

    def _set_apart(self, job: Job) -> None:
        """Run a job on a thread of its own, in the place that it has; the loop calls it."""
        name = f"predict-{next(self._numbers)}"
        try:
            threading.Thread(target=self._serve_one, args=(job,), name=name, daemon=True).start()
        except RuntimeError as error:
            log.error("no thread for a prediction, which is tried again: %s", error)
            assert self._loop is not None
            self._loop.call_later(RETRY_S, self._set_apart, job)

    def _serve_one(self, job: Job) -> None:
        try:
            job.run(THREAD)
        except BaseException:
            log.exception("a job raised what it should have answered")
        with self._lock:
            del self._running[job]
            self._find_thread()
        try:
            job.finish()
        except BaseException:
            log.exception("a job raised when it should have told of its end")

    def _catch_up(self) -> None:
        """Run what waits since before jobs were short; called by the loop."""
        until = time.monotonic() + TURN_S
        while time.monotonic() < until and (taken := self._take_for_loop()):
            self._run_on_loop(*taken)
        with self._lock:
            self._loop_is_called = False
            self._find_thread()

    def _take_for_loop(self) -> tuple[Job, float] | None:
        with self._lock:
            if not self._may_begin() or not self._pace.is_short:
                return None
            job, _ = self._waiting.popitem(last=False)
            return job, self._start(job)

    def _may_begin(self) -> int:
        """Give how many of those that wait may begin."""
        return max(0, min(self.waiting, self._width - self.running))

    def _find_thread(self) -> None:
        """Wake threads, or make some, where jobs can begin for which there are none."""
        may_begin = self._may_begin()
        if may_begin and self._pace.is_short and self._call_loop():
            return
        while may_begin > self._idle and self._threads < self._width and self._make_thread():
            pass
        if may_begin:
            self._work.notify(may_begin)

    def _call_loop(self) -> bool:
        """Let the loop catch up; False where it has ended."""
        assert self._loop is not None
        try:
            if not self._loop_is_called:
                self._loop.call_soon_threadsafe(self._catch_up)
                self._loop_is_called = True
        except RuntimeError as error:
            log.debug("the loop takes nothing any more, so threads do: %s", error)
            self._pace = Pace()
            self._loop = None
            return False
        return True

    def _make_thread(self) -> bool:
        """Make one; False where there can be none."""
        name = f"predict-{next(self._numbers)}"
        try:
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        except RuntimeError as error:  # the next job, or the end of one, brings the next attempt
            log.error("no thread for a prediction, %d wait: %s", self.waiting, error)
            return False
        self._threads += 1
        self._idle += 1
        return True

    def _serve(self) -> None:
        """Run jobs, one after the other, until this thread is written off."""
        is_ours = True
        while is_ours:
            job = self._take()
            try:
                job.run(THREAD)
            except BaseException:
                log.exception("a job raised what it should have answered")
            is_ours = self._give_back(job)
            try:
                job.finish()
            except BaseException:
                log.exception("a job raised when it should have told of its end")
            if is_ours:
                self._rest()

    def _take(self) -> Job:
        with self._lock:
            while self._pace.is_short or not self._may_begin():
                self._work.wait()
            self._idle -= 1
            job, _ = self._waiting.popitem(last=False)
            self._start(job)
            if self.limit_s:
                self._set_alarm()
            return job

    def _give_back(self, job: Job) -> bool:
        """Free the job's place; False where the watchdog has taken it already."""
        with self._lock:
            began = self._running.pop(job, None)
            if began is None:
                return False
            if self._loop is not None and not job.needs_thread:
                self._pace.note_on_thread(time.monotonic() - began)
                if self._pace.is_short:
                    self._find_thread()
            return True

    def _rest(self) -> None:
        with self._lock:
            self._idle += 1

    def _set_alarm(self) -> None:
        """Have the watchdog look at what runs, unless it will do so of its own accord."""
        if not self._has_watchdog:
            try:
                threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
            except RuntimeError as error:  # the next job brings the next attempt
                log.error("no thread to watch predictions, which have no limit so long: %s", error)
                return
            self._has_watchdog = True
        if self._is_unwatched:
            self._alarm.notify()

    def _watch(self) -> None:
        while True:
            job = self._take_overdue()
            for tell in (job.time_out, self._when_stuck):
                try:
                    tell()
                except BaseException:
                    log.exception("the end of a job's time could not be told")

    def _take_overdue(self) -> Job:
        """Wait for a job that runs too long; take its place and its thread out of the lane."""
        with self._lock:
            while True:
                job, began = next(iter(self._running.items()), (None, math.inf))
                left_s = began + self.limit_s - time.monotonic()
                if job is not None and left_s <= 0:
                    del self._running[job]
                    self._threads -= 1
                    self._find_thread()
                    return job
                self._is_unwatched = job is None
                self._alarm.wait(None if job is None else left_s)
