"""`python -m benchmark NAME` measures, and writes a table and a plot into results/."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable

from benchmark import (
    batching,
    generators,
    grpc_echo,
    heap,
    http_echo,
    memory,
    peers,
    shares,
    start,
    v2_grpc,
    workers,
)
from benchmark.comparison import Effort
from benchmark.payloads import SIZES

BENCHMARKS: dict[str, Callable[[Effort, list[str]], None]] = {
    "http": http_echo.run,
    "grpc": lambda effort, _: grpc_echo.run(effort),
    "v2": v2_grpc.run,
    "peers": peers.run,
    "batching": lambda effort, _: batching.run(effort),
    "workers": lambda effort, _: workers.run(effort),
    "shares": lambda effort, _: shares.run(effort),
    "heap": lambda effort, _: heap.run(effort),
    "memory": lambda _effort, _: memory.run(),
    "start": lambda effort, _: start.run(effort.rounds),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmark", description=__doc__)
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--rounds", type=int, default=5, help="loads, or starts, of each server")
    parser.add_argument("--seconds", type=int, default=3, help="how long each load takes")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    arguments = parser.parse_args()
    generators.demand_tools()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the servers too
    BENCHMARKS[arguments.name](Effort(arguments.rounds, arguments.seconds), arguments.sizes)


if __name__ == "__main__":
    main()
