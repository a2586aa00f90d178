"""A real Pushgateway that comes late, goes, and comes back."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, free_port, wait_until

from pyfuncserver.codec import upi

GATEWAY = shutil.which("prometheus-pushgateway") or shutil.which("pushgateway")
INTERVAL_S = 0.5

pytestmark = pytest.mark.skipif(
    GATEWAY is None, reason="NOT TESTED: prometheus-pushgateway (Debian package) is not installed"
)


@contextmanager
def gateway(port: int) -> Iterator[None]:
    assert GATEWAY is not None
    process = subprocess.Popen(
        [GATEWAY, f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: fetch(port, "/-/ready") is not None, 30, "the Pushgateway is up")
        yield
    finally:
        process.kill()
        process.wait()


def fetch(port: int, path: str) -> bytes | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            body: bytes = answer.read()
            return body
    except (urllib.error.URLError, ConnectionError):
        return None


def groups(port: int) -> list[dict[str, Any]]:
    body = fetch(port, "/api/v1/metrics")
    return json.loads(body)["data"] if body else []


def pushed_calls(port: int) -> float:
    """Give the model's own counter as the gateway has it; -1 where it has none."""
    for group in groups(port):
        if "model_calls_total" in group:
            return float(group["model_calls_total"]["metrics"][0]["value"])
    return -1


def test_pushes_outlive_outages_and_the_group_goes_at_the_end(controlled_model: Path) -> None:
    port = free_port()
    env = {
        "CARAML_PROTOCOL": "UPI_V1",
        "WORKERS": "2",
        "PUSHGATEWAY_ENABLED": "true",
        "PUSHGATEWAY_URL": f"127.0.0.1:{port}",
        "PUSHGATEWAY_PUSH_INTERVAL_SEC": str(INTERVAL_S),
        "CARAML_MODEL_NAME": "fraud",
        "CARAML_MODEL_VERSION": "3",
    }
    request = upi.messages().PredictValuesRequest(target_name="count")
    with Daemon(controlled_model, env=env) as daemon:

        def failures() -> float:
            return daemon.metric("pyfuncserver_push_failures_total")

        daemon.upi(request)
        wait_until(lambda: failures() >= 1, 30, "a push fails while there is no gateway")
        with gateway(port):
            wait_until(lambda: pushed_calls(port) == 1, 30, "the first push")
            (group,) = groups(port)
            assert group["labels"] == {
                "job": "merlin_pyfunc_upi",
                "merlin_model_name": "fraud",
                "merlin_model_version": "3",
                "host": socket.getfqdn(),
            }
        before = failures()
        wait_until(lambda: failures() >= before + 3, 30, "three intervals without a gateway")
        daemon.upi(request)
        assert daemon.metric("model_calls_total") == 2  # served here all the while
        with gateway(port):
            wait_until(lambda: pushed_calls(port) == 2, 30, "pushes go on")
            outages = [line for line in daemon.log_lines() if "cannot be reached" in line]
            assert len(outages) == 2, "one line an outage"
            daemon.terminate()
            assert daemon.wait() == 0
            assert groups(port) == []


def test_an_exit_without_a_gateway_is_still_an_exit(controlled_model: Path) -> None:
    env = {
        "CARAML_PROTOCOL": "HTTP_JSON,UPI_V1",
        "PUSHGATEWAY_ENABLED": "true",
        "PUSHGATEWAY_URL": f"127.0.0.1:{free_port()}",
    }
    with Daemon(controlled_model, env=env) as daemon:
        assert daemon.predict({"do": "pid"}).status == 200
        daemon.terminate()
        assert daemon.wait() == 0
