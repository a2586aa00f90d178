"""Workers: what a request costs with two workers on two processors, beside one on one or on both.

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
        rows = comparison.compare(_targets(target), "small", CONNECTIONS, effort)
        title = f"{protocol} small, {CONNECTIONS} connections"
        sections += [f"## {title}", report.comparison_table(rows)]
        bars = [Bar(row.target.name, row.cpu_us / rows[0].cpu_us) for row in rows]
        charts.append(Chart(title, bars, "CPU a request, x 1 on 1"))
    report.write("workers", "Two workers on two processors", sections, charts)


def _targets(target: Target) -> list[Target]:
    on_both = replace(target, cpus=machine.BOTH_CPUS)
    return [
        target.with_env("1 worker on 1 processor"),
        on_both.with_env("1 worker on 2"),
        on_both.with_env("2 workers on 2", WORKERS="2"),
    ]
