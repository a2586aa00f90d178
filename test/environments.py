"""Environments for tools and clients that are not to be in the server's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "build" / "clients"
INSTALL_TIMEOUT_S = 100


def environment(name: str, *requirements: str, timeout_s: float = INSTALL_TIMEOUT_S) -> Path:
    """Give the ``bin`` of an environment that has these packages, made when it is first asked for.

    Skips the test where they cannot be had.
    """
    root = ROOT / name
    wanted = " ".join(requirements)
    mark = root / f".{wanted}"
    if not mark.exists():
        pip = [f"{root}/bin/python", "-m", "pip", "install", "--quiet", *requirements]
        _run(wanted, [sys.executable, "-m", "venv", "--clear", str(root)], timeout_s)
        _run(wanted, pip, timeout_s)
        mark.touch()
    return root / "bin"


def _run(wanted: str, command: list[str], timeout_s: float) -> None:
    try:
        subprocess.run(command, timeout=timeout_s, capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        why = str(getattr(error, "stderr", "") or error)[-300:]
        pytest.skip(f"{wanted} CANNOT BE INSTALLED: {why}")
