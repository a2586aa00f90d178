"""Servers side by side: all are up, and short rounds of load go from one to the next.

So whatever else the machine does, or how warm it is, meets all of them alike; a figure is the
median of the ratios of each round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmark import machine
from benchmark.server import CannotBeMeasured, Reading, Server
from benchmark.targets import Target

WARM_UP_S = 1


@dataclass(frozen=True)
class Effort:
    """How long it is measured."""

    rounds: int = 5
    seconds: int = 3


@dataclass(frozen=True)
class Spread:
    """A median with what it was taken from."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}..{self.most:.2f})"


@dataclass(frozen=True)
class Row:
    """One server's rounds beside those of the first."""

    target: Target
    readings: list[Reading]
    ratio: Spread
    """Requests a second, as a multiple of the first server's in the same round."""

    @property
    def cpu_us(self) -> float:
        return statistics.median(reading.cpu_us for reading in self.readings)

    @property
    def rate(self) -> float:
        return self._median(lambda reading: reading.sample.rate)

    @property
    def p50_ms(self) -> float:
        return self._median(lambda reading: reading.sample.p50_ms)

    @property
    def p99_ms(self) -> float:
        return self._median(lambda reading: reading.sample.p99_ms)

    @property
    def errors(self) -> int:
        return sum(reading.sample.errors for reading in self.readings)

    def _median(self, of: Callable[[Reading], float]) -> float:
        return statistics.median(of(reading) for reading in self.readings)


def compare(targets: Sequence[Target], size: str, connections: int, effort: Effort) -> list[Row]:
    """Measure the servers in turns; one that cannot be started is told of and left out."""
    with ExitStack() as stack:
        servers = _running(targets, stack)
        stack.enter_context(machine.awake())
        return rows(servers, size, connections, effort)


def rows(servers: Sequence[Server], size: str, connections: int, effort: Effort) -> list[Row]:
    """Load servers that are up in turns, every other round in the opposite order."""
    readings: dict[str, list[Reading]] = {server.target.name: [] for server in servers}
    for server in servers:
        server.load(size, connections, WARM_UP_S)
    for number in range(effort.rounds):
        for server in servers if number % 2 == 0 else reversed(servers):
            reading = server.load(size, connections, effort.seconds)
            readings[server.target.name].append(reading)
    base = readings[servers[0].target.name]
    return [_row(server.target, readings[server.target.name], base) for server in servers]


def spread(values: Sequence[float]) -> Spread:
    """Give the median of values, the least and the most."""
    return Spread(statistics.median(values), min(values), max(values))


def _row(target: Target, readings: list[Reading], base: list[Reading]) -> Row:
    ratios = [
        reading.sample.rate / first.sample.rate
        for reading, first in zip(readings, base, strict=True)
    ]
    return Row(target, readings, spread(ratios))


def _running(targets: Sequence[Target], stack: ExitStack) -> list[Server]:
    servers = []
    for target in targets:
        try:
            servers.append(stack.enter_context(Server(target)))
        except CannotBeMeasured as error:
            print(f"left out: {error}", flush=True)
    return servers
