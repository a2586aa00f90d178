"""Fixtures of the unit tests: scripts in processes of their own, and an environment without us."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from textwrap import dedent

import pytest
from harness import daemon_environment

Script = Callable[..., str]


@pytest.fixture
def run_script() -> Script:
    """Give `run_script(code, **env)`: run it in a fresh interpreter, return what it printed.

    What must not happen in pytest's own process (forks, Prometheus's multiprocess mode, protobuf's
    default pool) happens there. An assertion that fails in the script fails the test.
    """

    def run(code: str, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", dedent(code)],
            env=daemon_environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
            text=True,
        )
        assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def clean_environ(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """Take the caller's own server settings out of the environment."""
    ours = daemon_environment({"CARAML_HTTP_PORT": "", "CARAML_GRPC_PORT": ""})
    for name in set(os.environ) - set(ours):
        monkeypatch.delenv(name)
    return os.environ
