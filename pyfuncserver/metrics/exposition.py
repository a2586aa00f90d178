"""The exposition: every process's instruments, summed, and the state of the daemon."""

from __future__ import annotations

import logging
import os
from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from pyfuncserver.metrics import directory
from pyfuncserver.scoreboard import Reload, Restart, Scoreboard, State
from pyfuncserver.utils.processes import memory_bytes

log = logging.getLogger(__name__)


class DaemonCollector(Collector):
    """Tell what only the daemon as a whole knows: its workers, their memory, their restarts."""

    def __init__(self, scoreboard: Scoreboard) -> None:
        self._scoreboard = scoreboard

    def collect(self) -> Iterator[Metric]:
        slots = self._scoreboard.slots()
        workers = GaugeMetricFamily(
            "pyfuncserver_workers", "Worker processes, by state.", labels=["state"]
        )
        states = Tally(slot.state for slot in slots)
        for state in (State.STARTING, State.READY, State.DRAINING):
            workers.add_metric([state.name.lower()], states[state])
        yield workers
        restarts = CounterMetricFamily(
            "pyfuncserver_worker_restarts",
            "Worker processes that were replaced, by how they had ended, or why they had to.",
            labels=["reason"],
        )
        for reason in Restart:
            restarts.add_metric([reason.value], self._scoreboard.count_of(reason))
        yield restarts
        failures = CounterMetricFamily(
            "pyfuncserver_boot_failures", "Loads of the model and starts of a worker that failed."
        )
        failures.add_metric([], self._scoreboard.boot_failures)
        yield failures
        reloads = CounterMetricFamily(
            "pyfuncserver_reloads", "Reloads of the model, by outcome.", labels=["outcome"]
        )
        for outcome in Reload:
            reloads.add_metric([outcome.value], self._scoreboard.count_of(outcome))
        yield reloads
        generation = GaugeMetricFamily(
            "pyfuncserver_model_generation", "Number of the load of the model that serves."
        )
        generation.add_metric([], self._scoreboard.generation)
        yield generation
        resident = GaugeMetricFamily(
            "pyfuncserver_worker_resident_memory_bytes",
            "A worker's resident memory; pages that workers share are counted in each.",
            labels=["worker"],
        )
        proportional = GaugeMetricFamily(
            "pyfuncserver_worker_proportional_memory_bytes",
            "A worker's memory with each shared page divided by the processes that share it.",
            labels=["worker"],
        )
        silence = GaugeMetricFamily(
            "pyfuncserver_worker_silence_seconds",
            "Seconds since a worker's event loop last beat.",
            labels=["worker"],
        )
        for slot in slots:
            if slot.state is not State.STARTING:
                silence.add_metric([str(slot.number)], slot.silent_s)
            rss, pss = memory_bytes(slot.pid)
            resident.add_metric([str(slot.number)], rss)
            proportional.add_metric([str(slot.number)], pss)
        yield silence
        yield resident
        yield proportional


class ReadableFiles(Collector):
    """Sum what the processes' files hold; a file that is torn, or gone, hides no other."""

    def collect(self) -> Iterable[Metric]:
        files = [str(file) for file in Path(os.environ[directory.VARIABLE]).glob("*.db")]
        try:
            return _merged(files)
        except Exception as error:  # noqa: BLE001  whatever a torn file leads the library to
            readable = [file for file in files if _is_readable(file)]
            directory.complain(f"metric files are left out that cannot be read: {error}")
            return _merged(readable)


def _merged(files: list[str]) -> Iterable[Metric]:
    merge: Any = MultiProcessCollector.merge
    metrics: Iterable[Metric] = merge(files)
    return metrics


def _is_readable(file: str) -> bool:
    try:
        _merged([file])
    except Exception as error:  # noqa: BLE001  the same
        log.debug("%s cannot be read: %r", file, error)
        return False
    return True


def registry(scoreboard: Scoreboard) -> CollectorRegistry:
    """Give a registry that reads every process's files anew each time it is collected."""
    everything = CollectorRegistry()
    everything.register(ReadableFiles())
    everything.register(DaemonCollector(scoreboard))
    return everything


def render(scoreboard: Scoreboard, accept: str) -> tuple[bytes, str]:
    """Give the exposition in the format that ``Accept`` asks for, and its content type."""
    encode, content_type = choose_encoder(accept)
    return encode(registry(scoreboard)), content_type
