"""The exposition: every process's instruments, summed, and the state of the daemon."""

from __future__ import annotations

import os
from collections import Counter as Tally
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from pyfuncserver.metrics import directory
from pyfuncserver.scoreboard import Scoreboard, State
from pyfuncserver.utils.processes import memory_bytes


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
            "Worker processes that were replaced, by how they had ended.",
            labels=["reason"],
        )
        for reason, count in self._scoreboard.restarts.items():
            restarts.add_metric([reason], count)
        yield restarts
        generation = GaugeMetricFamily(
            "pyfuncserver_model_generation", "How often the model has been loaded for all workers."
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
        for slot in slots:
            rss, pss = memory_bytes(slot.pid)
            resident.add_metric([str(slot.number)], rss)
            proportional.add_metric([str(slot.number)], pss)
        yield resident
        yield proportional


def registry(scoreboard: Scoreboard) -> CollectorRegistry:
    """Give a registry that reads every process's files anew each time it is collected."""
    everything = CollectorRegistry()
    MultiProcessCollector(everything, path=_path())
    everything.register(DaemonCollector(scoreboard))
    return everything


def _path() -> str:
    return str(Path(os.environ[directory.VARIABLE]))


def render(scoreboard: Scoreboard, accept: str) -> tuple[bytes, str]:
    """Give the exposition in the format that ``Accept`` asks for, and its content type."""
    encode, content_type = choose_encoder(accept)
    return encode(registry(scoreboard)), content_type
