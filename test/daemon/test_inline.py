"""Where predictions run: on the loop while short, else on a thread; and what that costs."""

from __future__ import annotations

import contextlib
import http.client
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, wait_until
from processes import is_alive

from pyfuncserver.codec import upi
from pyfuncserver.config import FIXED_THREAD
from pyfuncserver.model.pace import FIRST_PROOF

pytestmark = pytest.mark.alone
BOTH = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1"}
ATTEMPTS = 3
FEWEST = 200
SAFE_S = 0.05
"""What a probe may take at its 99th percentile."""


def ran(daemon: Daemon, where: str) -> float:
    return daemon.metric("pyfuncserver_predictions_total", where=where)


def ask(daemon: Daemon, times: int, body: Any) -> list[Any]:
    """Ask so often, over one connection."""
    with contextlib.closing(daemon.connection()) as connection:
        answers = [daemon.predict(body, connection=connection) for _ in range(times)]
    assert {answer.status for answer in answers} == {200}
    return [answer.json() for answer in answers]


def prove_short(daemon: Daemon) -> None:
    """Let predictions be short until they run on the loop, as the last of them has."""

    def is_proved() -> bool:
        ask(daemon, FIRST_PROOF, {"do": "pid"})
        return all_ran_on_loop(daemon, 1)

    wait_until(is_proved, 60)


def all_ran_on_loop(daemon: Daemon, times: int) -> bool:
    """Ask so often; tell whether the loop ran them all."""
    before = ran(daemon, "thread")
    ask(daemon, times, {"do": "pid"})
    return ran(daemon, "thread") == before


class Prober:
    """Probes a daemon all the time, and notes how long each probe took, in seconds."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._must_end = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._took: list[float] = []

    def _run(self) -> None:
        with contextlib.closing(self._daemon.connection()) as connection:
            while not self._must_end.wait(0.002):
                began = time.monotonic()
                assert self._daemon.http("GET", "/", connection=connection).status == 200
                self._took.append(time.monotonic() - began)

    def __enter__(self) -> Prober:
        self._running = self._pool.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._must_end.set()
        self._running.result(30)
        self._pool.shutdown()

    def percentile_99(self) -> float:
        """Give it, or infinity where hardly any was answered."""
        if len(self._took) < FEWEST:
            return math.inf
        return sorted(self._took)[int(len(self._took) * 0.99)]

    def longest(self) -> float:
        return max(self._took)


def are_safe_during(daemon: Daemon, work: Callable[[], None]) -> bool:
    """Tell whether probes are answered in time meanwhile; who else is on the machine may pass."""

    def percentile_99() -> float:
        with Prober(daemon) as prober:
            work()
        return prober.percentile_99()

    return any(percentile_99() < SAFE_S for _ in range(ATTEMPTS))


@pytest.fixture
def sleep(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Give `sleep(daemon, seconds)`, which has a prediction take so long, in the background."""
    with ThreadPoolExecutor(4) as pool:
        yield lambda daemon, seconds: pool.submit(
            daemon.predict, {"do": "sleep", "seconds": seconds}
        )


def test_what_is_short_runs_on_the_loop(controlled_model: Path) -> None:
    with Daemon(controlled_model) as daemon:
        ask(daemon, FIRST_PROOF - 1, {"do": "pid"})
        assert (ran(daemon, "loop"), ran(daemon, "thread")) == (0, FIRST_PROOF - 1)
        prove_short(daemon)
        # One that the machine holds up for a hundredth of a second seems long, and has to be
        # followed by another proof.
        wait_until(lambda: all_ran_on_loop(daemon, 200), 60)


@pytest.mark.parametrize("threads", ["1", "4"])
def test_probes_are_answered_during_long_predictions(
    controlled_model: Path, sleep: Callable[..., Any], threads: str
) -> None:
    with Daemon(controlled_model, env={"THREADS": threads}) as daemon:
        ask(daemon, 3, {"do": "sleep", "seconds": 0.01})

        def two_long_ones() -> None:
            answers = [sleep(daemon, 2), sleep(daemon, 2)]
            assert [answer.result(60).status for answer in answers] == [200, 200]

        assert are_safe_during(daemon, two_long_ones)
        assert ran(daemon, "loop") == 0


def test_a_model_that_is_long_now_and_then_holds_the_probes_up_once(
    controlled_model: Path, sleep: Callable[..., Any]
) -> None:
    with Daemon(controlled_model) as daemon:
        prove_short(daemon)
        with Prober(daemon) as prober:
            assert sleep(daemon, 1).result(30).status == 200
        assert prober.longest() > 0.5, "it ran on the loop"
        on_loop = ran(daemon, "loop")

        def long_ones_among_short_ones() -> None:
            for _ in range(3):
                answer = sleep(daemon, 1)
                ask(daemon, 2 * FIRST_PROOF, {"do": "pid"})
                assert answer.result(60).status == 200

        assert are_safe_during(daemon, long_ones_among_short_ones)
        assert ran(daemon, "loop") == on_loop


def test_a_short_model_that_hangs_is_killed_with_its_stack_in_the_log(
    controlled_model: Path, sleep: Callable[..., Any]
) -> None:
    env = {"HEARTBEAT_TIMEOUT_SEC": "3"}
    with Daemon(controlled_model, env=env) as daemon:
        (victim,) = {answer["pid"] for answer in ask(daemon, 1000, {"do": "pid"})}
        prove_short(daemon)
        hanging = sleep(daemon, 600)
        wait_until(lambda: "has not beaten" in daemon.log(), 30, "the supervisor's notice")
        # This one waits in the listening socket, which outlives the worker.
        (successor,) = {answer["pid"] for answer in ask(daemon, 1, {"do": "pid"})}
        assert successor != victim
        assert not is_alive(victim)
        with pytest.raises((http.client.HTTPException, OSError)):
            hanging.result(30)
        assert " in sleep" in daemon.log(), "the stack of what hangs"
        assert len(ask(daemon, 100, {"do": "pid"})) == 100
        assert daemon.metric("pyfuncserver_worker_restarts_total", reason="stuck") == 1


def test_with_a_time_limit_nothing_runs_on_the_loop(controlled_model: Path) -> None:
    with Daemon(controlled_model, env={"PREDICT_TIMEOUT_SEC": "60"}) as daemon:
        ask(daemon, 10 * FIRST_PROOF, {"do": "pid"})
        assert (ran(daemon, "loop"), ran(daemon, "thread")) == (0, 10 * FIRST_PROOF)


def save_bound(models: Any, path: Path) -> Path:
    """Save a model that says that it belongs to a thread."""
    wish = {"pyfuncserver": {"threads": FIXED_THREAD}}
    saved: Path = models.save(models.Controlled(), path, metadata=wish)
    return saved


@pytest.mark.parametrize("who", ["the setting", "the model"])
def test_a_model_that_belongs_to_a_thread_runs_on_it_whoever_asks(
    controlled_model: Path, save_model: Any, who: str
) -> None:
    is_set = who == "the setting"
    model = controlled_model if is_set else save_model("bound", save_bound)
    env = {**BOTH, "THREADS": FIXED_THREAD if is_set else "4"}
    with Daemon(model, env=env) as daemon:
        with ThreadPoolExecutor(4) as pool:
            parts = [pool.submit(ask, daemon, FIRST_PROOF, {"do": "thread"}) for _ in range(4)]
            threads = {answer["thread"] for part in parts for answer in part.result(30)}
        message = upi.messages().PredictValuesRequest(target_name="thread")
        for variable in daemon.upi(message).prediction_context:
            threads.add(variable.integer_value or int(variable.double_value))
        assert len(threads) == 1
        assert not threads & daemon.worker_pids(), "the loop's thread has the number of its process"
        assert ran(daemon, "loop") == 0
