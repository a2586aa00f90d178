"""HTTP: the same rows to our server, to Merlin's, and to the least that uvicorn can be."""

from __future__ import annotations

from benchmark import comparison, report
from benchmark.comparison import Effort
from benchmark.targets import ASGI_ECHO, MERLIN, MERLIN_SHAPED, MLFLOW, PLAIN

CONNECTIONS = 8
TARGETS = (MERLIN, PLAIN, MERLIN_SHAPED, MLFLOW, ASGI_ECHO)


def run(effort: Effort, sizes: list[str]) -> None:
    """Measure one process of each server, pinned to one processor."""
    results = {
        f"{size}, {CONNECTIONS} connections": comparison.compare(TARGETS, size, CONNECTIONS, effort)
        for size in sizes
    }
    report.write_comparisons("http", "HTTP side by side", results)
