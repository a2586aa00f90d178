"""Recycling under load: workers are replaced all the time, and no request fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Daemon, wait_until
from load import BOTH, loads
from processes import is_alive

KINDS = {"http-keep-alive": 2, "http-connect": 2, "upi": 4}
WORKERS = 2


@pytest.mark.timeout(180)
def test_recycling_under_load_fails_no_request(
    witness_model: Path, is_full: bool, figures: Callable[[str], None]
) -> None:
    wished = 20 if is_full else 8
    env = {
        **BOTH,
        "WORKERS": str(WORKERS),
        "MAX_REQUESTS": "50",
        "MAX_REQUESTS_JITTER": "10",
        "LOG_LEVEL": "WARNING",
    }
    fewest = WORKERS
    workers: set[int] = set()
    with (
        Daemon(witness_model, env=env) as daemon,
        loads(daemon, KINDS, {"do": "sleep", "seconds": 0.005}, pause_s=0.005) as running,
    ):
        began = time.monotonic()

        def enough() -> bool:
            nonlocal fewest
            ready = daemon.worker_pids()
            workers.update(ready)
            fewest = min(fewest, sum(map(is_alive, ready)))
            return len(workers) >= wished + WORKERS

        wait_until(enough, 90, f"{wished} recycled workers")
        took_s = time.monotonic() - began
        recycled = daemon.metric("pyfuncserver_worker_restarts_total", reason="recycled")
        others = daemon.metric("pyfuncserver_worker_restarts_total") - recycled
    answered = sum(load.tally.answered for load in running)
    lost = [lost for load in running for lost in load.tally.lost]
    figures(
        f"{recycled:.0f} recycled in {took_s:.1f} s, {answered} answers, {len(lost)} lost, "
        f"never fewer than {fewest} ready"
    )
    assert lost == []
    assert sum(load.tally.refused for load in running) == 0
    assert recycled >= wished
    assert others == 0
    assert fewest == WORKERS
    # Who was replaced had answered fifty and more, so each of them is known to the clients.
    assert len(set().union(*(load.tally.by_worker for load in running))) >= recycled
