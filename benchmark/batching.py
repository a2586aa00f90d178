"""Batching: a forest asked for one flower at a time by 64 connections, with batches and without."""

from __future__ import annotations

from benchmark import comparison, report
from benchmark.comparison import Effort
from benchmark.targets import FOREST

CONNECTIONS = 64


def run(effort: Effort) -> None:
    """Measure one worker, pinned to one processor."""
    targets = [
        FOREST,
        FOREST.with_env("BATCH_MAX_SIZE=64", BATCH_MAX_SIZE="64"),
        FOREST.with_env("BATCH_MAX_SIZE=auto", BATCH_MAX_SIZE="auto"),
    ]
    rows = comparison.compare(targets, "small", CONNECTIONS, effort)
    title = f"forest of 100 trees, {CONNECTIONS} connections"
    report.write_comparisons("batching", "Batching", {title: rows})
