"""Start: from exec to the first right answer, beside a process that only loads the model.

The floor is `import mlflow.pyfunc; load_model(DIR)`; what comes on top is the server's.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from benchmark import environments, machine, report
from benchmark.report import PEER_COLOUR, Bar, Chart
from benchmark.server import POLL_INTERVAL_S, START_TIMEOUT_S, CannotBeMeasured, Server
from benchmark.targets import MERLIN, MLFLOW, PLAIN, Target

MANY = 8
LOAD = "`import mlflow.pyfunc; load_model(DIR)`, to its end"
LOADED = "the same, to the loaded model"
ANSWER = "first answer, 1 worker"
ONE_READY = "1 worker ready"
MANY_READY = f"{MANY} workers ready"


def run(rounds: int) -> None:
    """Start everything in turns, on both processors, and write the medians."""
    starts: dict[str, Callable[[], float]] = {
        LOAD: lambda: _load_s(waits=True),
        LOADED: lambda: _load_s(waits=False),
        ANSWER: lambda: _answer_s(PLAIN),
        ONE_READY: lambda: _ready_s(1),
        MANY_READY: lambda: _ready_s(MANY),
        "Merlin": lambda: _answer_s(MERLIN),
        MLFLOW.name: lambda: _answer_s(MLFLOW),
    }
    taken: dict[str, list[float]] = {name: [] for name in starts}
    for _ in range(rounds):
        for name, start in starts.items():
            taken[name].append(start())
    medians = {name: statistics.median(values) for name, values in taken.items()}
    table = report.markdown_table(
        ["from exec to", "s, median (min..max)", "x the first line", f"x {ONE_READY}"],
        [_cells(name, values, medians) for name, values in taken.items()],
    )
    bars = [
        Bar(name, median / medians[LOAD], *([PEER_COLOUR] if name in _STRANGERS else []))
        for name, median in medians.items()
    ]
    chart = Chart("from exec", bars, "seconds, x loading alone")
    versions = f"- pyfuncserver: {environments.versions(environments.OURS)}"
    report.write("start", "Start", [table, versions], [chart])


_STRANGERS = (LOAD, LOADED, MERLIN.name, MLFLOW.name)


def _cells(name: str, values: list[float], medians: dict[str, float]) -> list[str]:
    median = medians[name]
    spread = f"{median:.2f} ({min(values):.2f}..{max(values):.2f})"
    return [name, spread, f"{median / medians[LOAD]:.2f}", f"{median / medians[ONE_READY]:.2f}"]


def _load_s(*, waits: bool) -> float:
    """Give how long a process takes that loads the model, and ends where it ``waits`` for that."""
    model = environments.model("echo")
    code = f"import mlflow.pyfunc; mlflow.pyfunc.load_model({str(model)!r}); print(flush=True)"
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = machine.pinned(machine.BOTH_CPUS, [sys.executable, "-W", "ignore", "-c", code])
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"\n":
            raise CannotBeMeasured("the model cannot be loaded")
        if waits:
            process.wait()
        return time.monotonic() - started


def _answer_s(target: Target) -> float:
    with Server(replace(target, cpus=machine.BOTH_CPUS)) as server:
        return server.start_s


def _ready_s(workers: int) -> float:
    """Give how long it takes until so many workers serve: they are in the ready file."""
    env = {"WORKERS": str(workers), "READY_FILE": "{scratch}/ready.json"}
    target = replace(PLAIN, cpus=machine.BOTH_CPUS).with_env(f"{workers} workers", **env)
    server = Server(target)
    started = server.start()
    try:
        while time.monotonic() - started < START_TIMEOUT_S:
            file = server.scratch / "ready.json"
            if file.exists() and len(json.loads(file.read_text())["workers"]) == workers:
                return time.monotonic() - started
            time.sleep(POLL_INTERVAL_S)
    finally:
        server.stop()
    raise CannotBeMeasured(f"{workers} workers were not ready")
