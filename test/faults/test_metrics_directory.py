"""A metrics directory that cannot be written, or is read all the time: predictions go on."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest
from harness import Daemon, wait_until
from load import CLIENTS, Load, Tally, wait_for_answers

from pyfuncserver.metrics import directory

CLIENT_COUNT = 4
NEW_CLIENT_COUNT = 16
SCRAPERS = 4
SCRAPES_PER_S = 100
DISK_BYTES = 1_000_000

Figures = Callable[[str], None]


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT TESTED: nothing can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Give a small file system of its own."""
    point = tmp_path / "disk"
    point.mkdir()
    mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(point))
    yield point
    subprocess.run(["umount", "--lazy", str(point)], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Keep the disk full to its last byte, also when something on it is removed."""
    stopping = threading.Event()

    def fill() -> None:
        with (disk / "filling").open("wb", buffering=0) as file:
            while not stopping.wait(0.0005):
                try:
                    while file.write(bytes(4096)):
                        continue
                except OSError:
                    continue

    thread = threading.Thread(target=fill)
    thread.start()
    wait_until(lambda: os.statvfs(disk).f_bavail == 0, 30, "the disk is full")
    try:
        yield
    finally:
        stopping.set()
        thread.join()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Lay a read-only file system over it: a remount is refused while files are written to."""
    mount("-t", "tmpfs", "-o", "ro", "tmpfs", str(disk))
    yield
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@contextmanager
def removed(disk: Path) -> Iterator[None]:
    shutil.rmtree(disk / "metrics")
    yield


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (full, os.strerror(28)),
        (read_only, "Read-only file system"),
        (removed, "No such file or directory"),
    ],
)
@pytest.mark.parametrize("kind", ["http-keep-alive", "upi"])
def test_a_directory_that_cannot_be_written(
    witness_model: Path,
    disk: Path,
    figures: Figures,
    harm: Callable[[Path], AbstractContextManager[None]],
    words: str,
    kind: str,
) -> None:
    metrics = disk if harm is read_only else disk / "metrics"
    protocol = "UPI_V1" if kind == "upi" else "HTTP_JSON"
    env = {"WORKERS": "2", "PROMETHEUS_MULTIPROC_DIR": str(metrics), "CARAML_PROTOCOL": protocol}
    with Daemon(witness_model, env=env) as daemon:
        with Load(CLIENTS[kind](daemon), CLIENT_COUNT, persists=True) as load:
            wait_for_answers(load, 100)
            with harm(disk):
                wait_for_answers(load, load.tally.answered + 200)
                before = daemon.worker_pids()
                victim = min(before)
                began = time.monotonic()
                os.kill(victim, signal.SIGKILL)
                wait_until(lambda: len(daemon.worker_pids() - {victim}) == 2, 30, "two serve")
                replaced = time.monotonic()
                (newcomer,) = daemon.worker_pids() - before
                further = load_until_answered_by(newcomer, daemon, kind)
                assert daemon.http("GET", "/metrics").status == 200
        log = daemon.log_lines()
    lost = [exchange for exchange in load.exchanges if exchange.lost]
    figures(
        f"{load.tally.answered + further.answered} answered, {len(lost)} lost, all of them in "
        f"hand of the killed worker; it was replaced after {replaced - began:.2f} s"
    )
    assert further.lost == []
    # Until all its threads have ended the killed worker's connections stand.
    assert all(e.worker in {victim, 0} and e.overlaps(began, replaced) for e in lost), lost
    assert len({exchange.client for exchange in lost}) == len(lost)
    assert sum("was killed by" in line for line in log) == 1, log
    told = [line for line in log if "predictions go on" in line]
    assert told, log
    assert all(f"{metrics}/" in line and words in line for line in told), told
    assert len({line.split()[3] for line in told}) == len(told), "once in each process"


def load_until_answered_by(worker: int, daemon: Daemon, kind: str) -> Tally:
    """Send by ever more clients until this worker has answered some; give what became of them.

    A client stays with the worker that its connection was made to, by chance.
    """
    every = Tally()

    def has_answered() -> bool:
        with Load(CLIENTS[kind](daemon), NEW_CLIENT_COUNT, persists=True) as load:
            wait_for_answers(load, 20 * NEW_CLIENT_COUNT)
        every.answered += load.tally.answered
        every.lost += load.tally.lost
        every.by_worker += load.tally.by_worker
        return every.by_worker[worker] > 50

    wait_until(has_answered, 60, f"answers of {worker}")
    return every


@pytest.mark.parametrize("harm", [full, read_only])
def test_a_directory_that_cannot_be_written_from_the_start(
    witness_model: Path, disk: Path, harm: Callable[[Path], AbstractContextManager[None]]
) -> None:
    with harm(disk):
        env = {"WORKERS": "2", "PROMETHEUS_MULTIPROC_DIR": str(disk)}
        with Daemon(witness_model, env=env) as daemon:
            with Load(CLIENTS["http-keep-alive"](daemon), CLIENT_COUNT) as load:
                wait_for_answers(load, 100)
            assert load.tally.lost == []
            assert daemon.metric("pyfuncserver_workers", state="ready") == 2
            errors = [line for line in daemon.log_lines() if " ERROR supervisor" in line]
            assert len(errors) == 1
            assert f"{directory.VARIABLE}={disk}" in errors[0]


@pytest.mark.timeout(120)
def test_scraped_a_hundred_times_a_second(
    witness_model: Path, is_full: bool, figures: Figures
) -> None:
    seconds = 10 if is_full else 3
    with Daemon(witness_model, env={"WORKERS": "2"}) as daemon:
        client = CLIENTS["http-keep-alive"](daemon, do="sleep", seconds=0.005)
        with Load(client, CLIENT_COUNT) as load:
            wait_for_answers(load, 100)
            start = time.monotonic()
            time.sleep(seconds)
            middle = time.monotonic()
            scraped = scrape(daemon, seconds)
            end = time.monotonic()
    before, during = p99_ms(load, start, middle), p99_ms(load, middle, end)
    figures(
        f"{len(scraped)} scrapes in {end - middle:.1f} s, of {max(scraped) * 1000:.0f} ms at most; "
        f"{load.tally.answered} answered, {len(load.tally.lost)} lost; "
        f"p99 {before:.1f} ms before, {during:.1f} ms during"
    )
    assert load.tally.lost == []
    assert len(scraped) == seconds * SCRAPES_PER_S


def scrape(daemon: Daemon, seconds: int) -> list[float]:
    """Scrape at a steady rate; give how long each scrape took."""
    took_s: list[float] = []

    def run() -> None:
        with closing(daemon.connection()) as connection:
            start = time.monotonic()
            for nth in range(seconds * SCRAPES_PER_S // SCRAPERS):
                time.sleep(max(0, start + nth * SCRAPERS / SCRAPES_PER_S - time.monotonic()))
                began = time.monotonic()
                if daemon.http("GET", "/metrics", connection=connection).status == 200:
                    took_s.append(time.monotonic() - began)

    threads = [threading.Thread(target=run) for _ in range(SCRAPERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took_s


def p99_ms(load: Load, start: float, end: float) -> float:
    took = [e.ended - e.began for e in load.exchanges if e.overlaps(start, end)]
    return statistics.quantiles(took, n=100)[98] * 1000
