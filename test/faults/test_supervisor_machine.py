"""Whatever happens to the daemon, in whatever order: as many serve as should, and none is lost.

Hypothesis makes up the sequences; the quick form runs the same few each time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import Daemon
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from load import BOTH, Exchange, loads, wait_for_answers
from processes import is_alive

WORKERS = 2
SILENCE_S = 2.0
WRONG_FOR_S = {"full": 1.0, "quick": 5.0}
FOUND_WITHIN_S = {"full": SILENCE_S + 1.5, "quick": SILENCE_S + 5.0}
"""Both are promised; the quick form leaves room for a machine that others use."""
POLL_S = 0.01
KINDS = {"http-keep-alive": 1, "http-connect": 1, "upi": 1}
NEVER = float("inf")
ENVIRONMENT = {
    **BOTH,
    "WORKERS": str(WORKERS),
    "HEARTBEAT_TIMEOUT_SEC": str(SILENCE_S),
    "DRAIN_TIMEOUT_SEC": "3",
    "GRPC_OPTIONS": '{"grpc.max_connection_age_ms": 1000}',
    "LOG_LEVEL": "WARNING",
}
TO_A_WORKER = {"kill": signal.SIGKILL, "hang": signal.SIGSTOP, "recycle": signal.SIGTERM}


@dataclass(frozen=True)
class Step:
    """What is done, to which of the ready workers, and how long all is left alone after it."""

    act: str
    target: int
    pause_s: float

    def __str__(self) -> str:
        return f"{self.act} {self.pause_s:g}"


STEPS = st.lists(
    st.builds(
        Step,
        act=st.sampled_from([*TO_A_WORKER, "reload"]),
        target=st.integers(0, WORKERS - 1),
        pause_s=st.sampled_from([0.0, 0.3, 1.5, 4.0]),
    ),
    min_size=1,
    max_size=6,
)


@dataclass
class BadEnd:
    """A worker that was killed or stands still; what it has in hand is lost with it."""

    worker: int
    began: float
    ended: float = NEVER
    is_ready: bool = True

    def explains(self, exchange: Exchange) -> bool:
        return exchange.worker in {self.worker, 0} and exchange.overlaps(self.began, self.ended)


class Watch:
    """Looks all the time at who is ready and who has ended, and notes for how long it was wrong."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._right_at = time.monotonic()
        self.counts = True
        """False once the daemon stops; then nobody has to be ready."""
        self.bad_ends: list[BadEnd] = []
        self.longest_wrong_s = 0.0
        self.wrong_count = WORKERS
        self.longest_unfound_s = 0.0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(POLL_S):
            ready = {pid for pid in self._daemon.worker_pids() if is_alive(pid)}
            now = time.monotonic()
            for end in list(self.bad_ends):
                self._look_at(end, ready, now)
            if len(ready) == WORKERS or not self.counts:
                self._right_at = now
            elif now - self._right_at > self.longest_wrong_s:
                self.longest_wrong_s, self.wrong_count = now - self._right_at, len(ready)

    def _look_at(self, end: BadEnd, ready: set[int], now: float) -> None:
        if end.ended == NEVER and not is_alive(end.worker):
            end.ended = now
        if end.is_ready and self.counts:
            self.longest_unfound_s = max(self.longest_unfound_s, now - end.began)
        if end.is_ready and end.worker not in ready:
            # With each one that is found dead or hung the clock starts anew.
            end.is_ready = False
            self._right_at = now


def take(step: Step, daemon: Daemon, watch: Watch) -> None:
    if step.act == "reload":
        daemon.terminate(signal.SIGHUP)
    elif ready := sorted(daemon.worker_pids()):
        worker = ready[step.target % len(ready)]
        if step.act != "recycle":
            watch.bad_ends.append(BadEnd(worker, time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, TO_A_WORKER[step.act])
    time.sleep(step.pause_s)


def run(model: Path, steps: list[Step], max_requests: int, form: str) -> str:
    """Run one sequence, with SIGTERM at its end, and check what must hold; give its figures."""
    env = {**ENVIRONMENT, "MAX_REQUESTS": str(max_requests)}
    with (
        Daemon(model, env=env) as daemon,
        loads(
            daemon, KINDS, {"do": "sleep", "seconds": 0.01}, persists=True, pause_s=0.01
        ) as running,
    ):
        for load in running:
            wait_for_answers(load, 5)
        with Watch(daemon) as watch:
            for step in steps:
                take(step, daemon, watch)
            refused = [load.tally.refused for load in running[:2]]
            watch.counts = False
            daemon.terminate()
            status = daemon.wait()
            for load in running:
                load.stopping.set()
                load.join()
        exchanges = [exchange for load in running for exchange in load.exchanges]
        lost = [exchange for exchange in exchanges if exchange.lost]
        unexplained = [e for e in lost if not any(end.explains(e) for end in watch.bad_ends)]
        text = (
            f"{', '.join(map(str, steps))}, MAX_REQUESTS={max_requests}: "
            f"{len(exchanges) - len(lost)} answers, {len(lost)} lost with their workers, "
            f"{len(unexplained)} others; not {WORKERS} ready for {watch.longest_wrong_s:.2f} s, "
            f"hung for {watch.longest_unfound_s:.2f} s"
        )
        assert unexplained == [], f"{text}\n{unexplained}\n{watch.bad_ends}"
        assert watch.longest_wrong_s <= WRONG_FOR_S[form], f"{text} ({watch.wrong_count} were)"
        assert watch.longest_unfound_s <= FOUND_WITHIN_S[form], text
        assert refused == [0, 0], text
        assert status == 0, text
    return text


@pytest.mark.alone
@pytest.mark.timeout(3600)
def test_any_sequence_of_faults(
    witness_model: Path, is_full: bool, figures: Callable[[str], None]
) -> None:
    @settings(
        max_examples=60 if is_full else 6,
        derandomize=not is_full,
        database=None,
        deadline=None,
        phases=[Phase.generate],
    )
    @given(steps=STEPS, max_requests=st.sampled_from([0, 100]))
    def holds(steps: list[Step], max_requests: int) -> None:
        form = "full" if is_full else "quick"
        ran.append(run(witness_model, steps, max_requests, form))

    ran: list[str] = []
    try:
        holds()
    finally:
        figures("\n".join(ran))
