"""Shares: what metrics, request ids and admission take of the small echo.

Each is found by a server that does without it, all else alike, in the same rounds.
"""

from __future__ import annotations

from benchmark import comparison, report
from benchmark.comparison import Effort
from benchmark.report import Bar, Chart
from benchmark.targets import without

CONNECTIONS = 8
PARTS = ("metrics", "ids", "admission")


def run(effort: Effort) -> None:
    """Measure one worker, pinned to one processor, over HTTP with a small body."""
    targets = [without(), *map(without, PARTS), without(*PARTS)]
    rows = comparison.compare(targets, "small", CONNECTIONS, effort)
    whole = rows[0].cpu_us
    shares = [
        (row.target.name.removeprefix("without "), (whole - row.cpu_us) / whole) for row in rows[1:]
    ]
    table = report.markdown_table(
        ["part", "share of the whole's CPU"], [(part, f"{share:.0%}") for part, share in shares]
    )
    chart = Chart("of a small echo", [Bar(*share) for share in shares], "share of its CPU")
    sections = [table, report.comparison_table(rows), report.versions(rows)]
    report.write("shares", "Shares of metrics, ids, admission", sections, [chart])
