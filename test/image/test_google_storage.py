"""The build's download from ``gs://``, against a real server of that interface."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from environments import environment
from harness import free_port, wait_until
from image.containers import listens

ROOT = Path(__file__).parents[2]
OBJECTS = ("runs/1/model/MLmodel", "runs/1/model/data/a.bin", "runs/1/model2/b", "deps/9f86d0")
PACKAGES = ("gcp-storage-emulator==2024.8.3", "google-cloud-storage>=2.10", "packaging", "PyYAML")


@pytest.fixture(scope="module")
def tools() -> Path:
    return environment("gcs", *PACKAGES, timeout_s=200)


@pytest.fixture(scope="module")
def endpoint(tools: Path) -> Iterator[str]:
    """Serve a bucket that holds the objects, each of which is its own name."""
    port = free_port()
    flags = ["--host=127.0.0.1", f"--port={port}", "--in-memory", "--default-bucket=models"]
    server = subprocess.Popen(
        [str(tools / "gcp-storage-emulator"), "start", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: listens(port), 60, "the storage listens")
        url = f"http://127.0.0.1:{port}"
        for name in OBJECTS:
            where = f"{url}/upload/storage/v1/b/models/o?uploadType=media&name={quote(name)}"
            urlopen(Request(where, name.encode(), method="POST"), timeout=30).close()
        yield url
    finally:
        server.terminate()
        server.wait(10)


def fetch(tools: Path, endpoint: str, out: Path, *flags: str) -> tuple[int, str]:
    where = ["--context", str(out.parent), "--out", str(out), "--storage_type", "gcs"]
    done = subprocess.run(
        [str(tools / "python"), "-m", "pyfuncserver.image", "fetch", *where, *flags],
        env={**os.environ, "STORAGE_EMULATOR_HOST": endpoint, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_model_and_its_dependencies(tools: Path, endpoint: str, tmp_path: Path) -> None:
    flags = ["--artifacts", "gs://models/runs/1/model", "--dependencies", "gs://models/deps/9f86d0"]
    assert fetch(tools, endpoint, tmp_path / "out", *flags) == (0, "")
    files = {p.relative_to(tmp_path / "out"): p for p in tmp_path.rglob("*") if p.is_file()}
    assert {str(name): file.read_text() for name, file in files.items()} == {
        "model/MLmodel": "runs/1/model/MLmodel",
        "model/data/a.bin": "runs/1/model/data/a.bin",
        "dependencies": "deps/9f86d0",
    }


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gs://models/runs/2", "there is nothing at gs://models/runs/2\n"),
        ("gs://others/runs/1", "gs://others/runs/1 cannot be read: 404 "),
    ],
)
def test_what_is_not_there(
    tools: Path, endpoint: str, tmp_path: Path, url: str, message: str
) -> None:
    status, said = fetch(tools, endpoint, tmp_path / "out", "--artifacts", url)
    assert status == 1
    assert message in said
    assert said.count("\n") == 1
