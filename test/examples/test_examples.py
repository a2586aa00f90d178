"""Does with every example what its README says: log the model, serve it, send the requests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from google.protobuf import json_format
from harness import Daemon

from pyfuncserver.codec.upi import messages

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDERS = sorted(script.parent for script in EXAMPLES.glob("*/log_model.py"))

MLFLOW = tuple(int(part) for part in version("mlflow").split(".")[:2])

pytestmark = pytest.mark.skipif(
    MLFLOW < (2, 13), reason="the examples are saved as code, which MLflow 2.12 brought"
)


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(scope="module")
def daemon(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    out = tmp_path_factory.mktemp("examples") / folder.name
    subprocess.run(
        [sys.executable, "log_model.py", "--out", str(out)], cwd=folder, check=True, timeout=60
    )
    with Daemon(out, env={"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1"}) as running:
        yield running


def test_http(folder: Path, daemon: Daemon) -> None:
    answer = daemon.http("POST", daemon.predict_path, (folder / "http_request.json").read_bytes())
    assert answer.status == 200, answer.text
    assert answer.json() == json.loads((folder / "http_response.json").read_bytes())


def test_upi(folder: Path, daemon: Daemon) -> None:
    upi = messages()
    request = _parse(folder / "upi_request.json", upi.PredictValuesRequest())
    assert daemon.upi(request) == _parse(folder / "upi_response.json", upi.PredictValuesResponse())


def _parse(path: Path, message: json_format.Message) -> json_format.Message:
    return json_format.Parse(path.read_text(encoding="utf-8"), message)


def test_there_are_examples() -> None:
    assert {"echo", "merlin_echo", "iris"} <= {folder.name for folder in FOLDERS}
