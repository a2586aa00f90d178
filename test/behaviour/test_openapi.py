"""The OpenAPI document put to the test: no answer is another than it says; and its setting."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from environments import environment
from harness import Daemon


@pytest.fixture(scope="module")
def model(save_model: Callable[..., Path]) -> Path:
    def save(_: Any, path: Path) -> Path:
        import docs_models

        return docs_models.save("dummy", path)

    return save_model("docs_dummy", save)


@pytest.fixture(scope="module")
def daemon(model: Path) -> Iterator[Daemon]:
    with Daemon(model) as running:
        yield running


CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
)
# What a client has no time for is a 504; 501 is what it is told of what this model cannot do.
SETTINGS = """
[parameters]
"header.X-Request-Timeout" = "30"

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 501]
"""


@pytest.mark.timeout(300)
def test_no_answer_is_undocumented(daemon: Daemon, tmp_path: Path) -> None:
    """Loading the model again is left out, for each time takes seconds; and unloading it."""
    tool = environment("schemathesis", "schemathesis==4.32.5") / "schemathesis"
    settings = tmp_path / "schemathesis.toml"
    settings.write_text(SETTINGS, encoding="utf-8")
    done = subprocess.run(
        [
            tool, "--config-file", settings, "run",
            f"http://127.0.0.1:{daemon.http_port}/openapi.json",
            "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing",
            "--seed", "1", "--max-examples", "5", "--exclude-operation-id", "v2Load",
            "--exclude-operation-id", "v2Unload",
            "--continue-on-failure",
        ],
        timeout=250, capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:]
    assert "test cases" in done.stdout.lower()


def test_it_can_be_turned_off(model: Path) -> None:
    with Daemon(model, env={"DOCS_ENABLED": "false"}) as daemon:
        for path in ("/docs", "/openapi.json", "/docs/swagger-ui.css"):
            answer = daemon.http("GET", path)
            assert (answer.status, answer.json()["status_code"]) == (404, 404)
        assert daemon.http("GET", "/v1/models").status == 200


def test_without_predictions_it_is_of_what_there_is(model: Path) -> None:
    with Daemon(model, env={"CARAML_PROTOCOL": "UPI_V1"}) as daemon:
        found = daemon.http("GET", "/openapi.json").json()["paths"]
        assert "/v1/models/{full_name}" in found
        assert not [path for path in found if "predict" in path or path == "/invocations"]
        for path, item in found.items():
            for method, operation in item.items():
                if method == "get" and "{" not in path:
                    status = daemon.http("GET", path).status
                    assert str(status) in operation["responses"], path
