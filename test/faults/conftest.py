"""What the fault tests share: how long they run, and the figures they print when they pass.

``PYFUNCSERVER_FAULTS=quick``, the default, takes a few minutes; ``full`` gives the figures that the
server promises. ``make test-faults`` and ``make test-faults FAULTS=full`` set it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

FIGURES = pytest.StashKey[list[str]]()

Figures = Callable[[str], None]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = terminalreporter.config.stash.get(FIGURES, [])
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Give `figures(text)`, which prints the text after the test's name when all tests are done."""
    lines = request.config.stash.setdefault(FIGURES, [])
    name = request.node.nodeid.rpartition("/")[2]

    def add(text: str) -> None:
        lines.extend([f"{name}:", *(f"    {line}" for line in text.splitlines())])

    return add


@pytest.fixture(scope="session")
def is_full() -> bool:
    """Tell whether the figures are asked for, and not only whether nothing is broken."""
    form = os.environ.get("PYFUNCSERVER_FAULTS", "quick")
    assert form in {"quick", "full"}, f"PYFUNCSERVER_FAULTS={form}: it is quick or full"
    return form == "full"


@pytest.fixture(scope="session")
def witness_model(save_model) -> Path:
    return save_model("witness", lambda models, path: models.save(models.Witness(1), path))
