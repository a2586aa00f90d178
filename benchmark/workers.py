"""Workers: what a request costs with two workers on two processors, beside one on one.

The generator shares the second processor with a worker, so rates say nothing here; CPU time does.
"""

from __future__ import annotations

from dataclasses import replace

from benchmark import comparison, machine, report
from benchmark.comparison import Effort
from benchmark.report import Bar, Chart
from benchmark.targets import MERLIN_SHAPED, MERLIN_SHAPED_UPI, Target

CONNECTIONS = 8


def run(effort: Effort) -> None:
    """Measure small requests over HTTP and over UPI."""
    sections, charts = [], []
    for protocol, target in (("HTTP", MERLIN_SHAPED), ("UPI", MERLIN_SHAPED_UPI)):
        rows = comparison.compare(_one_and_two(target), "small", CONNECTIONS, effort)
        title = f"{protocol} small, {CONNECTIONS} connections"
        sections += [f"## {title}", report.comparison_table(rows)]
        bars = [Bar(row.target.name, row.cpu_us / rows[0].cpu_us) for row in rows]
        charts.append(Chart(title, bars, "CPU a request, x 1 worker"))
    report.write("workers", "Two workers on two processors", sections, charts)


def _one_and_two(target: Target) -> list[Target]:
    two = replace(target, cpus=machine.BOTH_CPUS).with_env("2 workers", WORKERS="2")
    return [target.with_env("1 worker"), two]
