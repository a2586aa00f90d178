"""The collector: what freezing the loaded heap gives, and what higher thresholds would."""

from __future__ import annotations

from dataclasses import replace

from benchmark import comparison, report
from benchmark.comparison import Effort
from benchmark.targets import PLAIN, Target

CONNECTIONS = 8
SIZES = ("medium", "large")


def run(effort: Effort) -> None:
    """Measure one worker, whose model changes the collector when it is first called."""
    results = {
        f"HTTP {size}, {CONNECTIONS} connections": comparison.compare(
            _targets(), size, CONNECTIONS, effort
        )
        for size in SIZES
    }
    report.write_comparisons("heap", "The collector", results)


def _targets() -> list[Target]:
    served = replace(PLAIN, model="heap")
    return [
        served.with_env("not frozen, 700 10 10", GC_THAW="1", GC_THRESHOLDS="700,10,10"),
        served.with_env("frozen, 700 10 10", GC_THRESHOLDS="700,10,10"),
        served.with_env("frozen, 2000 10 10", GC_THRESHOLDS="2000,10,10"),
        served.with_env("frozen, 10000 10 10", GC_THRESHOLDS="10000,10,10"),
        served.with_env("frozen, 10000 20 50", GC_THRESHOLDS="10000,20,50"),
        served.with_env("frozen, 50000 20 50", GC_THRESHOLDS="50000,20,50"),
        served.with_env("frozen, no collections", GC_THRESHOLDS="0,0,0"),
        served.with_env("as the server sets it"),
    ]
