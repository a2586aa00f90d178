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
RESTARTS = "pyfuncserver_worker_restarts_total"


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

    def recycled() -> float:
        return daemon.metric(RESTARTS, reason="recycled")

    def enough() -> bool:
        nonlocal fewest
        ready = daemon.worker_pids()
        alive = sum(map(is_alive, ready))
        if daemon.worker_pids() == ready:  # else who was ready may have left meanwhile
            fewest = min(fewest, alive)
        return recycled() >= wished

    with Daemon(witness_model, env=env) as daemon:
        with loads(daemon, KINDS, {"do": "sleep", "seconds": 0.005}, pause_s=0.005) as running:
            began = time.monotonic()
            wait_until(enough, 90, f"{wished} recycled workers")
            took_s = time.monotonic() - began
        # One scrape for both, as the last of them may still be on its way.
        restarts = {labels: n for (name, labels), n in daemon.metrics().items() if name == RESTARTS}
    by_reason = {dict(labels)["reason"]: count for labels, count in restarts.items()}
    count, others = by_reason.pop("recycled"), sum(by_reason.values())
    answered = sum(load.tally.answered for load in running)
    lost = [lost for load in running for lost in load.tally.lost]
    figures(
        f"{count:.0f} recycled in {took_s:.1f} s, {answered} answers, {len(lost)} lost, "
        f"never fewer than {fewest} ready"
    )
    assert lost == []
    assert sum(load.tally.refused for load in running) == 0
    assert count >= wished
    assert others == 0
    assert fewest == WORKERS
    # Who was replaced had answered fifty and more, so each of them is known to the clients.
    assert len(set().union(*(load.tally.by_worker for load in running))) >= count
