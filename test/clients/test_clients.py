"""The clients that people have, each in an environment of its own, against a real daemon.

A script of `scripts/` runs with the client's Python and writes what it saw. What each client makes
of an error is part of that: a text that it does not find in our body would be missing here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from environments import environment
from harness import Daemon

Save = Callable[..., Path]

SCRIPTS = Path(__file__).parent / "scripts"
BOTH = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1"}
INSTALL_TIMEOUT_S = 300
SCRIPT_TIMEOUT_S = 100
FAILED = "The model failed to answer (error id ID)"
UNKNOWN = "Model with full name other does not exist."
KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "MLFLOW_DISABLE_TELEMETRY")
"""Of the environment; not what sets a proxy, say."""
_ERROR_ID = re.compile(r"\b[0-9a-f]{32}\b")

pytestmark = pytest.mark.timeout(2 * INSTALL_TIMEOUT_S + SCRIPT_TIMEOUT_S)


@pytest.fixture(scope="session")
def daemon(save_model: Save) -> Iterator[Daemon]:
    def save(_: Any, path: Path) -> Path:
        from behaviour import dialect_models  # where warnings are no errors

        return dialect_models.save_acting(path)

    with Daemon(save_model("acting_rows", save), env=BOTH) as running:
        yield running


@pytest.fixture(scope="session")
def echo_daemon(echo_model: Path) -> Iterator[Daemon]:
    with Daemon(echo_model, env=BOTH) as running:
        yield running


def python_of(name: str, *requirements: str) -> Path:
    return environment(name, *requirements, timeout_s=INSTALL_TIMEOUT_S) / "python"


@pytest.fixture(scope="session")
def triton() -> Path:
    return python_of("triton", "tritonclient[all]==2.73.0")


@pytest.fixture(scope="session")
def kserve() -> Path:
    return python_of("kserve", "kserve==0.21.0")


@pytest.fixture(scope="session")
def seldon() -> Path:
    return python_of("seldon", "seldon-core==1.18.2", "setuptools<81")


@pytest.fixture(scope="session")
def upi() -> Path:
    return python_of("upi", "caraml-upi-protos==1.0.0", "grpcio", "setuptools<81")


def seen_by(python: Path | str, script: str, *arguments: str) -> Any:
    """Run a script; give what it wrote, without the ids of errors."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    ran = subprocess.run(
        # -I: some scripts have the names of the packages that they import.
        [str(python), "-I", str(SCRIPTS / f"{script}.py"), *arguments],
        env=kept,
        timeout=SCRIPT_TIMEOUT_S,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(_ERROR_ID.sub("ID", ran.stdout))


def http(daemon: Daemon) -> str:
    return f"127.0.0.1:{daemon.http_port}"


def grpc(daemon: Daemon) -> str:
    return f"127.0.0.1:{daemon.grpc_port}"


# Triton's


def triton_saw(is_http: bool) -> dict[str, Any]:
    """Give what its client sees; over gRPC it shows 64-bit integers as protobuf's JSON does."""
    free: Any = -1 if is_http else "-1"
    column = {"datatype": "FP64", "shape": [free]}
    failed, refused, unknown = (
        ("500", "422", "404")
        if is_http
        else [f"StatusCode.{code}" for code in ("INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND")]
    )
    entry = {"name": "model", "version": "1", "state": "READY"}
    return {
        "inference": {
            "binary": [3, 4],
            "json": [3, 4],
            "compressed": [3, 4],
            "async": [8],
            "aio": [16],
            "id": "mine",
            "version": "1",
            "raises": [failed, FAILED],
            "refuses": [refused, "no such user"],
            "another": [unknown, UNKNOWN],
        },
        "server": {
            **dict.fromkeys(("live", "ready", "model_ready"), True),
            "other_ready": False,
            "name": "pyfuncserver",
            "extensions": ["binary_tensor_data", "model_repository"],
            "model": {
                "name": "model",
                "versions": ["1"],
                "platform": "mlflow_pyfunc",
                "inputs": [{"name": "do", **column}, {"name": "x", **column}],
                "outputs": [{"name": "total", **column}],
            },
            "index": [{**entry, "reason": ""}] if is_http else {"models": [entry]},
            "unload": [None, False],
            "load": [None, True],
        },
    }


def test_triton_over_http(triton: Path, daemon: Daemon) -> None:
    assert seen_by(triton, "triton", "http", http(daemon)) == triton_saw(is_http=True)


def test_triton_over_grpc(triton: Path, daemon: Daemon) -> None:
    assert seen_by(triton, "triton", "grpc", grpc(daemon)) == triton_saw(is_http=False)


def test_tritons_datatypes(triton: Path, echo_daemon: Daemon) -> None:
    names = ["bool", "int8", "uint64", "fp16", "fp32", "bytes"]
    over_http = seen_by(triton, "triton", "http", http(echo_daemon), "echo")
    assert over_http == {"binary": names, "json": names}
    assert seen_by(triton, "triton", "grpc", grpc(echo_daemon), "echo") == {"binary": names}


# KServe's


def test_kserve_over_v1(kserve: Path, daemon: Daemon) -> None:
    url = f"http://{http(daemon)}/v1/models"
    # It looks for a text under "error", where KServe has it; Merlin has it under "reason".
    assert seen_by(kserve, "kserve", "v1", http(daemon)) == {
        "answer": {"predictions": [{"total": 3}, {"total": 4}]},
        "model_ready": True,
        "another": f", '404 Not Found' for url '{url}/other:predict'",
        "raises": f", '500 Internal Server Error' for url '{url}/model-1:predict'",
        "refuses": f", '422 no such user' for url '{url}/model-1:predict'",
    }


TOTAL = {"id": "mine", "model": "model", "total": [3, 4]}
KSERVE_V2 = {
    "answer": TOTAL,
    "binary": TOTAL,
    **dict.fromkeys(("live", "ready", "model_ready"), True),
}


def test_kserve_over_v2(kserve: Path, daemon: Daemon) -> None:
    url = f"http://{http(daemon)}/v2/models"
    assert seen_by(kserve, "kserve", "v2", http(daemon)) == {
        **KSERVE_V2,
        "another": f"{UNKNOWN}, '404 Not Found' for url '{url}/other/infer'",
        "raises": f"{FAILED}, '500 Internal Server Error' for url '{url}/model/infer'",
        "refuses": f"no such user, '422 no such user' for url '{url}/model/infer'",
    }


def test_kserve_over_grpc(kserve: Path, daemon: Daemon) -> None:
    assert seen_by(kserve, "kserve", "grpc", grpc(daemon)) == {
        **KSERVE_V2,
        "another": f"NOT_FOUND: {UNKNOWN}",
        "raises": f"INTERNAL: {FAILED}",
        "refuses": "INVALID_ARGUMENT: no such user",
    }


# Seldon's

SELDON = {
    "ndarray": {"names": ["total"], "ndarray": [[3], [4]]},
    "tensor": {"names": ["total"], "tensor": {"shape": [2, 1], "values": [3, 4]}},
    "gateway": {"names": ["total"], "ndarray": [[3]]},
    "feedback": [True, ""],
}


def test_seldon_over_rest(seldon: Path, daemon: Daemon) -> None:
    def status(info: str, reason: str) -> dict[str, Any]:
        return {"code": -1, "info": info, "reason": reason, "status": "FAILURE"}

    refused = status("no such user", "MICROSERVICE_BAD_DATA")
    failed = status(FAILED, "MICROSERVICE_INTERNAL_ERROR")
    assert seen_by(seldon, "seldon", "rest", http(daemon)) == {
        **SELDON,
        "raises": [False, "Internal Server Error", failed],
        "refuses": [False, "no such user", refused],
    }


def test_seldon_over_grpc(seldon: Path, daemon: Daemon) -> None:
    found = seen_by(seldon, "seldon", "grpc", grpc(daemon))
    for name, code, text in (
        ("raises", "INTERNAL", FAILED),
        ("refuses", "INVALID_ARGUMENT", "no such user"),
    ):
        is_answered, said, response = found.pop(name)
        assert (is_answered, response) == (False, None)
        assert f"StatusCode.{code}" in said
        assert f'details = "{text}"' in said
    assert found == SELDON


# The others


def test_the_published_upi(upi: Path, daemon: Daemon) -> None:
    assert seen_by(upi, "upi", grpc(daemon)) == {
        "target": "total",
        "id": "mine",
        "columns": [["total", 1]],
        "rows": [["row 0", 3], ["row 1", 4]],
        "raises": ["INTERNAL", FAILED],
        "refuses": ["INVALID_ARGUMENT", "no such user"],
    }


def test_mlflows_scoring(daemon: Daemon) -> None:
    found = seen_by(sys.executable, "mlflow_scoring", "127.0.0.1", str(daemon.http_port))
    assert (found["version"], found["answer"]) == (mlflow.__version__, {"total": [3, 4]})
    for name, status, code, text in (
        ("raises", 500, "INTERNAL_ERROR", FAILED),
        ("refuses", 422, "BAD_REQUEST", "no such user"),
    ):
        body = json.dumps({"error_code": code, "message": text}, separators=(",", ":"))
        said = f"Invocation failed (error code {status}, response: {body})"
        assert found[name] == said
