"""SIGHUP under load: another model takes over, or a broken one does not, and no request fails."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest
from harness import Daemon, wait_until
from load import BOTH, Load, loads, wait_for_answers

KINDS = {"http-keep-alive": 2, "http-connect": 2, "upi": 4}
SWAP_TIMEOUT_S = 60
DRAIN_TIMEOUT_S = 60  # channels that send all the time leave when they grow old
RELOADS = "pyfuncserver_reloads_total"
MOVING = {"GRPC_OPTIONS": '{"grpc.max_connection_age_ms": 1000}'}
"""Channels make new connections all the time, also while one generation follows the other."""


class Address:
    """The model's address, at which another model can be put."""

    def __init__(self, directory: Path, save_model: Callable[..., Path]) -> None:
        self.path = directory / "model"
        self._save_model = save_model

    def put(self, value: int) -> None:
        """Put a model there that answers the value."""

        def save(models: ModuleType, path: Path) -> Path:
            return models.save(models.Witness(value), path)

        self._replace_by(self._save_model(f"witness-{value}", save))

    def put_broken(self) -> None:
        def save(models: ModuleType, path: Path) -> Path:
            return models.save(models.Broken(), path)

        self._replace_by(self._save_model("broken", save))

    def _replace_by(self, model: Path) -> None:
        draft, old = self.path.with_name("draft"), self.path.with_name("old")
        shutil.copytree(model, draft)
        if self.path.exists():
            self.path.rename(old)
        draft.rename(self.path)
        shutil.rmtree(old, ignore_errors=True)


@pytest.fixture
def address(tmp_path: Path, save_model: Callable[..., Path]) -> Address:
    return Address(tmp_path, save_model)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("options", "quick_reloads"), [({}, 1), (MOVING, 4)], ids=["default", "moving-channels"]
)
def test_reloading_under_load_fails_no_request(
    address: Address,
    options: Mapping[str, str],
    quick_reloads: int,
    is_full: bool,
    figures: Callable[[str], None],
) -> None:
    reloads = 10 if is_full else quick_reloads
    took_s = []
    address.put(1)
    env = {**BOTH, **options, "WORKERS": "2", "LOG_LEVEL": "WARNING"}
    with (
        Daemon(address.path, env=env) as daemon,
        loads(daemon, KINDS, {"do": "sleep", "seconds": 0.005}) as running,
    ):
        for load in running:
            wait_for_answers(load, 20)
        for value in range(2, reloads + 2):
            address.put(value)
            old = daemon.worker_pids()
            began = time.monotonic()
            daemon.terminate(signal.SIGHUP)
            wait_for_outcome(daemon, "done", value - 1)
            took_s.append(time.monotonic() - began)
            wait_for_the_end_of(daemon, old)
            only_from_now_on(running, value)
        assert len(daemon.worker_pids()) == 2
        assert daemon.metric("pyfuncserver_model_generation") == reloads + 1
    values = {e.answer["value"] for e in exchanges(running) if e.answer}
    lost = [e.lost for e in exchanges(running) if e.lost]
    figures(
        f"{reloads} reloads, {sum(load.tally.answered for load in running)} answers, "
        f"{len(lost)} lost; longest reload {max(took_s):.2f} s"
    )
    assert lost == []
    assert sum(load.tally.refused for load in running) == 0
    assert values == set(range(1, reloads + 2))


@pytest.mark.timeout(180)
def test_a_broken_model_changes_nothing(address: Address, figures: Callable[[str], None]) -> None:
    address.put(1)
    with (
        Daemon(address.path, env={**BOTH, **MOVING, "WORKERS": "2"}) as daemon,
        loads(daemon, KINDS, {"do": "sleep", "seconds": 0.005}) as running,
    ):
        for load in running:
            wait_for_answers(load, 20)
        workers = daemon.worker_pids()
        address.put_broken()
        daemon.terminate(signal.SIGHUP)
        wait_for_outcome(daemon, "failed", 1)
        (line,) = [
            line
            for line in daemon.log_lines()
            if " ERROR " in line and "weights are missing" in line
        ]
        assert daemon.worker_pids() == workers
        assert daemon.metric("pyfuncserver_model_generation") == 1
        only_from_now_on(running, 1)
        address.put(2)
        daemon.terminate(signal.SIGHUP)
        wait_for_outcome(daemon, "done", 1)
        wait_for_the_end_of(daemon, workers)
        only_from_now_on(running, 2)
        assert daemon.metric(RELOADS, outcome="failed") == 1
    lost = [exchange.lost for exchange in exchanges(running) if exchange.lost]
    figures(
        f"{sum(load.tally.answered for load in running)} answers, {len(lost)} lost; "
        f"logged: {line.split(' ', 4)[-1]}"
    )
    assert lost == []
    assert sum(load.tally.refused for load in running) == 0


def exchanges(running: list[Load]) -> Iterator:
    return (exchange for load in running for exchange in load.exchanges)


def wait_for_outcome(daemon: Daemon, outcome: str, count: int) -> None:
    wait_until(
        lambda: daemon.metric(RELOADS, outcome=outcome) == count,
        SWAP_TIMEOUT_S,
        f"{count} reloads {outcome}",
    )


def wait_for_the_end_of(daemon: Daemon, workers: set[int]) -> None:
    wait_until(lambda: not daemon.processes() & workers, DRAIN_TIMEOUT_S, "the old workers end")
    # Which is written a moment after the reload is counted.
    wait_until(lambda: not daemon.worker_pids() & workers, SWAP_TIMEOUT_S, "the ready file")


def only_from_now_on(running: list[Load], value: int) -> None:
    """Wait for further answers of every client's kind, and check that they are of this model."""
    now = time.monotonic()
    for load in running:
        wait_for_answers(load, load.tally.answered + 20)
    later = [e.answer["value"] for e in exchanges(running) if e.answer and e.began > now]
    assert set(later) == {value}
