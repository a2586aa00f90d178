"""SIGTERM under load: what was accepted is answered, and the daemon ends clean."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Daemon
from load import BOTH, loads, wait_for_answers

KINDS = {"http-keep-alive": 4, "http-connect": 4, "http-pipelining": 2, "upi": 8}


@pytest.mark.timeout(400)
def test_sigterm_under_load_loses_nothing(
    witness_model: Path, is_full: bool, figures: Callable[[str], None]
) -> None:
    answered = 0
    lost: dict[str, list[str]] = {kind: [] for kind in KINDS}
    took_s = []
    stops = 20 if is_full else 3
    for _ in range(stops):
        env = {**BOTH, "WORKERS": "2", "LOG_LEVEL": "WARNING"}
        with (
            Daemon(witness_model, env=env) as daemon,
            loads(daemon, KINDS, {"do": "sleep", "seconds": 0.01}) as running,
        ):
            for load in running:
                wait_for_answers(load, 20)
            began = time.monotonic()
            daemon.terminate(signal.SIGTERM)
            assert daemon.wait() == 0
            took_s.append(time.monotonic() - began)
            for load in running:
                load.join()
            assert not daemon.processes()
        for kind, load in zip(KINDS, running, strict=True):
            answered += load.tally.answered
            lost[kind] += load.tally.lost
    figures(
        f"{stops} stops, {answered} answers, lost: "
        f"{', '.join(f'{kind} {len(each)}' for kind, each in lost.items())}; "
        f"longest stop {max(took_s):.2f} s"
    )
    assert lost == {kind: [] for kind in KINDS}
