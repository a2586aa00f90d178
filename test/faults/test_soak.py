"""Hours of mixed load: memory, descriptors and metric files stay as they are.

Runs for SOAK_SEC seconds (``make soak``), and not at all where that is not set.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest
from harness import Daemon, wait_until
from load import BOTH, loads
from processes import descriptor_count, own_memory_bytes

SOAK_S = float(os.environ.get("SOAK_SEC", "0"))
KINDS = {"http-keep-alive": 2, "http-connect": 2, "upi": 2}
RELOADS = 2
FLAT = 1.02
PLACES = 4 * 2 + 2  # of two generations of two workers with their replacements, and the hosts
SPARE_DESCRIPTORS = 3  # connections that are just being made or closed


@dataclass(frozen=True)
class Sample:
    """What a process had at a time."""

    pid: int
    resident_bytes: int
    proportional_bytes: int
    descriptors: int


@dataclass(frozen=True)
class Sampling:
    """All processes of the daemon at a time, and the metric files."""

    processes: dict[int, Sample]
    files: int
    file_bytes: int


@pytest.mark.skipif(not SOAK_S, reason="takes SOAK_SEC seconds, which is not set: make soak")
@pytest.mark.timeout(SOAK_S + 120)
def test_soak(witness_model: Path, tmp_path: Path, figures: Callable[[str], None]) -> None:
    env = {
        **BOTH,
        "WORKERS": "2",
        "LOG_LEVEL": "ERROR",
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
        "GRPC_OPTIONS": '{"grpc.max_connection_age_ms": 2000}',  # also for leaks by connection
    }
    options = {"records": False, "persists": True, "pause_s": 0.01}
    with (
        Daemon(witness_model, env=env) as daemon,
        loads(daemon, KINDS, {"do": "sleep", "seconds": 0.001}, **options) as running,
    ):
        began = time.monotonic()
        for _ in range(RELOADS):
            reload(daemon)
        # From here on the same processes run to the end.
        before = sampled(daemon, tmp_path, until=began + SOAK_S / 3)[-20:]
        assert before, f"SOAK_SEC={SOAK_S:g} is too short"
        sampled(daemon, tmp_path, until=began + SOAK_S * 5 / 6)
        after = sampled(daemon, tmp_path, until=began + SOAK_S)
        workers = daemon.worker_pids()
        supervisor = daemon.pid
        reload(daemon)
        end = sampling(daemon, tmp_path)
        kinds = {path.name.rpartition("_")[0] for path in tmp_path.rglob("*.db")}
    lost = [lost for load in running for lost in load.tally.lost]
    lines = [f"{sum(load.tally.answered for load in running)} answers, {len(lost)} lost"]
    pids = [*sorted(workers), supervisor]
    growths = [growth(before, after, pid) for pid in pids]
    for pid, (resident, proportional, descriptors) in zip(pids, growths, strict=True):
        name = "supervisor" if pid == supervisor else "worker"
        memory = f"RSS x{resident:.4f}, PSS without files x{proportional:.4f}"
        lines.append(f"{name}: {memory}, descriptors {descriptors:+.0f}")
    lines.append(
        f"metric files: {before[0].files} ({before[0].file_bytes} bytes), then {after[-1].files} "
        f"({after[-1].file_bytes} bytes), after a last reload {end.files} ({end.file_bytes} bytes)"
    )
    figures("\n".join(lines))
    assert lost == []
    for resident, proportional, descriptors in growths:
        assert resident < FLAT
        assert proportional < FLAT
        assert descriptors <= SPARE_DESCRIPTORS
    assert after[-1].files <= before[0].files
    assert after[-1].file_bytes <= before[0].file_bytes
    # A reload may use places that none of those before has used, but no more than there are.
    assert end.files <= len(kinds) * PLACES
    assert end.file_bytes / end.files <= before[0].file_bytes / before[0].files


def reload(daemon: Daemon) -> None:
    """Reload the model, and wait until the old workers are gone."""
    old = daemon.worker_pids()
    generation = daemon.metric("pyfuncserver_model_generation")
    daemon.terminate(signal.SIGHUP)
    wait_until(
        lambda: daemon.metric("pyfuncserver_model_generation") == generation + 1, 60, "a reload"
    )
    wait_until(lambda: not daemon.processes() & old, 60, "the end of the old workers")
    wait_until(lambda: not daemon.worker_pids() & old, 60, "the ready file of the new ones")


def sampled(daemon: Daemon, metrics: Path, until: float) -> list[Sampling]:
    """Take a sample and a scrape every second, until then."""
    samples = []
    while time.monotonic() < until:
        daemon.metrics()
        samples.append(sampling(daemon, metrics))
        time.sleep(1)
    return samples


def sampling(daemon: Daemon, metrics: Path) -> Sampling:
    samples = {
        pid: Sample(pid, *own_memory_bytes(pid), descriptor_count(pid))
        for pid in [daemon.pid, *daemon.worker_pids()]
    }
    sizes = [path.stat().st_size for path in metrics.rglob("*") if path.is_file()]
    return Sampling(samples, len(sizes), sum(sizes))


def growth(before: list[Sampling], after: list[Sampling], pid: int) -> tuple[float, float, float]:
    """Compare the medians of a process: its memories by their ratios, descriptors by how many."""

    def middle(samplings: list[Sampling], what: Callable[[Sample], int]) -> float:
        return median(what(sampling.processes[pid]) for sampling in samplings)

    def ratio(what: Callable[[Sample], int]) -> float:
        return middle(after, what) / middle(before, what)

    def descriptors(sample: Sample) -> int:
        return sample.descriptors

    return (
        ratio(lambda sample: sample.resident_bytes),
        ratio(lambda sample: sample.proportional_bytes),
        middle(after, descriptors) - middle(before, descriptors),
    )
