"""Fixtures: the running daemon with the echo model of `examples/`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Daemon

ECHO = Path(__file__).parents[1] / "examples" / "echo" / "log_model.py"


@pytest.fixture(scope="session")
def echo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "echo"
    subprocess.run([sys.executable, str(ECHO), "--out", str(out)], check=True, timeout=60)
    return out


@pytest.fixture(scope="module", params=[1, 2], ids=lambda count: f"{count}_workers")
def daemon(request: pytest.FixtureRequest, echo_model: Path) -> Iterator[Daemon]:
    env = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1", "WORKERS": str(request.param)}
    # A request's log line, where there is one, belongs to the price; the debug ones do not.
    with Daemon(echo_model, env={**env, "LOG_LEVEL": "INFO"}) as running:
        yield running
