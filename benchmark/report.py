"""Tables and plots of results, in `results/`: one Markdown file a benchmark, one SVG beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import environments, machine
from benchmark.comparison import Row

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
ORDER = (
    *("http", "grpc", "v2", "peers", "batching"),
    *("workers", "shares", "heap", "memory", "start"),
)
FIRST_MARK, LAST_MARK = "<!-- results: made by the benchmarks -->", "<!-- end of results -->"
OURS_COLOUR, PEER_COLOUR, LIMIT_COLOUR = "#1f6f8b", "#b9b9b9", "#e0c48c"


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    colour: str = OURS_COLOUR


@dataclass(frozen=True)
class Chart:
    """Horizontal bars; several charts stand beside each other in one plot."""

    title: str
    bars: Sequence[Bar]
    unit: str


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def comparison_table(rows: Sequence[Row]) -> str:
    """Give a table of servers side by side; each ratio is to the first row's in the same round."""
    first = rows[0]
    base = first.target.name
    head = ["server", f"requests/s, x {base}", "CPU us/request", f"CPU, x {base}"]
    head += ["p50 ms", "p99 ms", "errors"]
    return markdown_table(head, [_cells(row, first.cpu_us) for row in rows])


def comparison_chart(title: str, rows: Sequence[Row]) -> Chart:
    bars = [Bar(row.target.name, row.ratio.median, _colour(row)) for row in rows]
    return Chart(title, bars, f"requests/s, x {rows[0].target.name}")


def write_comparisons(name: str, title: str, results: Mapping[str, Sequence[Row]]) -> None:
    """Write comparisons, each under a heading of its own, and the versions of all that is in."""
    sections = []
    for heading, rows in results.items():
        sections += [f"## {heading}", comparison_table(rows)]
    charts = [comparison_chart(heading, rows) for heading, rows in results.items()]
    every = [row for rows in results.values() for row in rows]
    write(name, title, [*sections, versions(every)], charts)


def write(name: str, title: str, sections: Sequence[str], charts: Sequence[Chart]) -> None:
    """Write the result of a benchmark, and say where it is."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.svg").write_text(_svg(charts), encoding="utf-8")
    parts = [f"# {title}", machine.description() + ".", *sections, f"![{title}]({name}.svg)"]
    (RESULTS / f"{name}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    _show_in_readme()
    print("\n\n".join(sections), f"\nwritten: {RESULTS / name}.md and .svg", flush=True)


def _show_in_readme() -> None:
    """Put all results between README's two marks, in place of what is there."""
    texts = [(RESULTS / f"{name}.md") for name in ORDER]
    shown = [text.read_text(encoding="utf-8") for text in texts if text.exists()]
    results = "\n".join(shown).replace("\n## ", "\n#### ").replace("](", "](results/")
    results = re.sub(r"^# ", "### ", results, flags=re.MULTILINE)
    before, rest = README.read_text(encoding="utf-8").split(FIRST_MARK)
    _, after = rest.split(LAST_MARK)
    whole = f"{before}{FIRST_MARK}\n\n{results}\n{LAST_MARK}{after}"
    README.write_text(whole, encoding="utf-8")


def versions(rows: Iterable[Row]) -> str:
    """Give the versions of what the measured servers are made of, a line an environment."""
    names = dict.fromkeys(row.target.environment for row in rows)
    return "\n".join(f"- {name}: {environments.versions(name)}" for name in names)


def _cells(row: Row, base_cpu_us: float) -> list[str]:
    name = f"{row.target.name} (limit)" if row.target.is_limit else row.target.name
    return [
        name,
        str(row.ratio),
        f"{row.cpu_us:.0f}",
        f"{row.cpu_us / base_cpu_us:.2f}",
        f"{row.p50_ms:.2f}",
        f"{row.p99_ms:.2f}",
        str(row.errors),
    ]


def _colour(row: Row) -> str:
    if row.target.is_limit:
        return LIMIT_COLOUR
    return OURS_COLOUR if row.target.environment == environments.OURS else PEER_COLOUR


def _svg(charts: Sequence[Chart]) -> str:
    # MLflow has brought matplotlib, so that a plot needs nothing that is not there.
    import io

    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9})
    tallest = max(len(chart.bars) for chart in charts)
    figure = Figure(figsize=(4.6 * len(charts), 0.8 + 0.3 * tallest), layout="constrained")
    for axes, chart in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True):
        _draw(axes, chart)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _draw(axes: Any, chart: Chart) -> None:
    places = range(len(chart.bars))
    values = [bar.value for bar in chart.bars]
    drawn = axes.barh(places, values, color=[bar.colour for bar in chart.bars])
    axes.bar_label(drawn, fmt="%.2f", padding=3)
    axes.set_yticks(places, [bar.label for bar in chart.bars])
    axes.invert_yaxis()
    axes.set_xlim(0, max(values) * 1.18)
    axes.set_title(chart.title)
    axes.set_xlabel(chart.unit)
    axes.spines[["top", "right"]].set_visible(False)
