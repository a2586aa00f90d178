"""The API's documentation by the server itself: the document and its page, also in a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from environments import environment
from harness import Daemon

SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@pytest.fixture(scope="module")
def model(save_model: Callable[..., Path]) -> Path:
    def save(_: Any, path: Path) -> Path:
        import docs_models

        return docs_models.save("dummy", path)

    return save_model("docs_dummy", save)


@pytest.fixture(scope="module")
def daemon(over_transport: None, model: Path) -> Iterator[Daemon]:
    env = {"CARAML_MODEL_NAME": "dummy", "CARAML_MODEL_VERSION": "3"}
    with Daemon(model, env=env) as running:
        yield running


def test_the_document_is_of_this_model(daemon: Daemon) -> None:
    answer = daemon.http("GET", "/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    found = answer.json()
    assert found["openapi"] == "3.1.0"
    assert found["info"]["title"] == daemon.full_name
    rows = found["components"]["schemas"]["Rows"]
    assert rows["items"]["required"] == ["a", "n", "f", "b"]
    assert found["paths"].keys() > {"/v1/models", "/v2", "/invocations", "/api/v1.0/predictions"}


def test_the_page_allows_nothing_from_elsewhere(daemon: Daemon) -> None:
    answer = daemon.http("GET", "/docs")
    assert answer.headers["Content-Security-Policy"] == SECURITY_POLICY
    assert '<meta charset="utf-8">' in answer.text
    assert "//" not in answer.text
    assert daemon.http("HEAD", "/docs").body == b""


@pytest.mark.parametrize("name", ["x.js", "README.md", "docs.html", "..", ".", "%2e%2e%2fapp.py"])
def test_a_file_that_the_page_does_not_need(daemon: Daemon, name: str) -> None:
    assert daemon.http("GET", f"/docs/{name}").status == 404


@pytest.mark.timeout(300)
def test_a_browser_reads_it_and_tries_it_out(daemon: Daemon) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("THERE IS NO chromium: the page is not tested in a browser")
    python = environment("browser", "playwright==1.65.2") / "python"
    url = f"http://127.0.0.1:{daemon.http_port}"
    script = Path(__file__).with_name("docs_browser.py")
    command = [python, script, chromium, url, "/v1/models/{full_name}:predict"]
    done = subprocess.run(command, timeout=250, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert (seen["status"], seen["title"], seen["charset"]) == ("200", daemon.full_name, "UTF-8")
    assert (seen["console"], seen["failed"]) == ([], [])
    assert all(it.startswith(f"{url}/") for it in seen["requests"]), seen["requests"]
    assert f"{url}{daemon.predict_path}" in seen["requests"]
