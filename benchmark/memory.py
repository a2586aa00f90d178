"""Memory: a GiB of weights in one to four workers, before and after 10,000 requests and more."""

from __future__ import annotations

from benchmark import environments, machine, report
from benchmark.report import LIMIT_COLOUR, Bar, Chart
from benchmark.server import Server
from benchmark.targets import HEAVY, Target

GIB = 1 << 30
REQUESTS = 10_000
CONNECTIONS = 8
ROUND_S = 2

Result = tuple[str, int, int, int]
"""A target's name, its memory before and after, and the requests in between."""


def run() -> None:
    """Measure the memory of whole daemons (PSS), so that each page counts once."""
    workers = [HEAVY.with_env(f"{n} sharing", WORKERS=str(n)) for n in (1, 2, 4)]
    alone = HEAVY.with_env("2, each its own", WORKERS="2", MODEL_LOADING="worker")
    results = [_measure(target) for target in (*workers, alone)]
    head = ["workers", "GiB", f"x {results[0][0]}", "requests", "GiB after them"]
    table = report.markdown_table(head, [_cells(result, results[0]) for result in results])
    bars = [Bar(f"{name} workers", after / GIB) for name, _, after, _ in results]
    bars[-1] = Bar(bars[-1].label, bars[-1].value, LIMIT_COLOUR)
    versions = f"- pyfuncserver: {environments.versions(environments.OURS)}"
    chart = Chart("after the requests", bars, "memory (PSS), x the weights")
    report.write("memory", "Memory with 1 GiB of weights", [table, versions], [chart])


def _measure(target: Target) -> Result:
    with Server(target) as server:
        server.load("small", CONNECTIONS, 1)  # until then not all of the workers may be there
        before = machine.proportional_bytes(server.pids())
        requests = 0
        while requests < REQUESTS:
            requests += server.load("small", CONNECTIONS, ROUND_S).sample.requests
        return target.name, before, machine.proportional_bytes(server.pids()), requests


def _cells(result: Result, first: Result) -> list[str]:
    name, before, after, requests = result
    return [
        name,
        f"{before / GIB:.2f}",
        f"{before / first[1]:.2f}",
        str(requests),
        f"{after / GIB:.2f}",
    ]
