"""Settings that came with Seldon's names: what each does to a daemon."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from harness import Daemon, free_port, run_daemon_expecting_exit, wait_until
from processes import is_alive

METRICS = {
    "PREDICTIVE_UNIT_METRICS_SERVICE_PORT": "0",
    "PREDICTIVE_UNIT_METRICS_ENDPOINT": "/a/prometheus",
}


def get(port: int | None, path: str) -> tuple[int, str]:
    assert port
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as there:
        there.request("GET", path)
        answer = there.getresponse()
        return answer.status, answer.read().decode()


def monitor_of(daemon: Daemon) -> int:
    (pid,) = daemon.processes() - daemon.worker_pids() - {daemon.pid}
    return pid


@pytest.fixture(scope="module")
def plain(controlled_model: Path) -> Iterator[Daemon]:
    """Give one with settings of its HTTP port alone, of which each test looks at one."""
    env = {"METRICS_PATH": "/prometheus", "FILTER_METRICS_ACCESS_LOGS": "false"}
    with Daemon(controlled_model, env=env) as running:
        yield running


@pytest.mark.parametrize("protocol", ["HTTP_JSON", "UPI_V1"])
def test_metrics_on_a_port_of_their_own(controlled_model: Path, protocol: str) -> None:
    with Daemon(controlled_model, env={**METRICS, "CARAML_PROTOCOL": protocol}) as daemon:
        status, text = get(daemon.metrics_port, "/a/prometheus")
        assert status == 200
        assert "pyfuncserver_model_info" in text
        assert get(daemon.metrics_port, "/")[0] == 200
        assert get(daemon.metrics_port, "/v1/models")[0] == 404
        for path in ("/metrics", "/a/prometheus"):
            assert get(daemon.http_port, path)[0] == 404
        assert get(daemon.http_port, "/v1/models")[0] == 200


def test_the_metrics_port_outlives_its_process(controlled_model: Path) -> None:
    with Daemon(controlled_model, env=METRICS) as daemon:
        assert get(daemon.metrics_port, "/a/prometheus")[0] == 200
        monitor = monitor_of(daemon)
        os.kill(monitor, signal.SIGKILL)
        wait_until(lambda: not is_alive(monitor), 30, "its end")
        # The port stays open meanwhile: who connects is answered by the next one.
        status, text = get(daemon.metrics_port, "/a/prometheus")
        assert status == 200
        assert "pyfuncserver_model_info" in text


def test_a_metrics_port_that_is_taken(plain: Daemon, controlled_model: Path) -> None:
    env = {"METRICS_PORT": str(plain.http_port)}
    status, output = run_daemon_expecting_exit(["--model_dir", str(controlled_model)], env)
    assert status == 1
    assert "(METRICS_PORT) cannot be opened" in output


def test_the_path_of_metrics_on_the_http_port(plain: Daemon) -> None:
    assert get(plain.http_port, "/prometheus")[0] == 200
    assert get(plain.http_port, "/metrics")[0] == 404


@pytest.mark.parametrize("is_filtered", [True, False])
def test_probes_in_the_access_log(controlled_model: Path, is_filtered: bool) -> None:
    env = {"GUNICORN_ACCESS_LOG": "true", "FILTER_METRICS_ACCESS_LOGS": str(is_filtered)}
    with Daemon(controlled_model, env=env) as daemon:
        assert get(daemon.http_port, "/health/ping")[0] == 200
        assert get(daemon.http_port, "/metrics")[0] == 200
        assert daemon.predict({"do": "echo"}).status == 200
        wait_until(lambda: "v1 model-1 status=200" in daemon.log(), 30)
        log = daemon.log()
    assert log.count("v1 model-1 status=200") == 1
    assert ("GET /health/ping status=200" in log) is not is_filtered
    assert ("GET /metrics status=200" in log) is not is_filtered
    assert "POST" not in log


def test_nothing_is_logged_where_no_access_log_is_asked_for(plain: Daemon) -> None:
    assert get(plain.http_port, "/health/ping")[0] == 200
    assert "status=200" not in plain.log()


def test_a_pidfile(controlled_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "daemon.pid"
    file.write_text("stale")
    with Daemon(controlled_model, flags=["--pidfile", str(file)]) as daemon:
        assert file.read_text() == f"{daemon.pid}\n"
        daemon.terminate()
        assert daemon.wait() == 0
        assert not file.exists()


def test_a_pidfile_of_somebody_else_is_left(controlled_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "daemon.pid"
    with Daemon(controlled_model, flags=["--pidfile", str(file)]) as daemon:
        file.write_text("1\n")
        daemon.terminate()
        assert daemon.wait() == 0
    assert file.read_text() == "1\n"


def test_a_pidfile_that_cannot_be_written(controlled_model: Path, tmp_path: Path) -> None:
    args = ["--model_dir", str(controlled_model), "--pidfile", str(tmp_path / "no" / "pid")]
    status, output = run_daemon_expecting_exit(args)
    assert status == 1
    assert "PIDFILE=" in output
    assert len(output.splitlines()) == 1


def test_no_http_workers(controlled_model: Path) -> None:
    env = {"GUNICORN_WORKERS": "0", "GRPC_WORKERS": "2"}
    with Daemon(controlled_model, env=env) as daemon:
        assert len(daemon.worker_pids()) == 2
        assert daemon.predict({}).status == 404
        with daemon.channel() as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/seldon.protos.Model/Predict")(b"", timeout=30)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_no_grpc_workers(controlled_model: Path) -> None:
    env = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1", "GRPC_WORKERS": "0"}
    with Daemon(controlled_model, env=env) as daemon:
        assert daemon.grpc_port is None
        assert daemon.predict({"do": "echo"}).status == 200


def test_seldons_ports_and_a_contradiction(controlled_model: Path) -> None:
    ports = {"HTTP": free_port(), "GRPC": free_port()}
    env = {f"PREDICTIVE_UNIT_{name}_SERVICE_PORT": str(port) for name, port in ports.items()}
    env |= {"CARAML_HTTP_PORT": "", "CARAML_GRPC_PORT": "", "WORKERS": "1", "GUNICORN_WORKERS": "2"}
    with Daemon(controlled_model, env=env) as daemon:
        assert (daemon.http_port, daemon.grpc_port) == (ports["HTTP"], ports["GRPC"])
        assert len(daemon.worker_pids()) == 1
        warnings = [line for line in daemon.log_lines() if "has no effect" in line]
    assert len(warnings) == 1
    assert "GUNICORN_WORKERS" in warnings[0]


def test_requests_of_seldon_are_counted_for_the_replacement(controlled_model: Path) -> None:
    with Daemon(controlled_model, env={"GUNICORN_MAX_REQUESTS": "3"}) as daemon:
        before = daemon.worker_pids()
        for _ in range(4):
            assert daemon.predict({"do": "echo"}).status == 200
        wait_until(lambda: daemon.worker_pids() and not daemon.worker_pids() & before, 30)


# Parameters

DEFAULTS = {"threshold": 0.5, "mode": "fast"}
PARAMETERS = [
    {"name": "threshold", "type": "FLOAT", "value": "0.9"},
    {"name": "other", "type": "STRING", "value": "x"},
]


def configured(save_model: Any, kind: str) -> Path:
    def how(_: Any, path: Path) -> Path:
        import tracing_models

        saved: Path = getattr(tracing_models, f"save_{kind}")(path)
        return saved

    path: Path = save_model(kind, how)
    return path


@pytest.mark.parametrize(
    ("kind", "loading", "workers"),
    [
        ("configured", "preload", "2"),
        ("configured", "worker", "1"),
        ("legacy_configured", "auto", "1"),
        ("merlin_configured", "auto", "1"),
    ],
)
def test_parameters_of_the_model(save_model: Any, kind: str, loading: str, workers: str) -> None:
    path, given = configured(save_model, kind), json.dumps(PARAMETERS)
    env = {"PREDICTIVE_UNIT_PARAMETERS": given, "MODEL_LOADING": loading, "WORKERS": workers}
    expected = {**DEFAULTS, "threshold": 0.9}
    with Daemon(path, env=env) as daemon:
        answer = daemon.predict({"instances": [[1.0]]}).json()
        seen = answer.get("predictions", answer)
        assert seen["loaded"] == expected
        assert seen.get("called", expected) == expected
        assert "MODEL_CONFIG: other without effect" in daemon.log()
        if loading == "worker":
            before = daemon.worker_pids()
            daemon.terminate(signal.SIGHUP)
            wait_until(lambda: daemon.worker_pids() and not daemon.worker_pids() & before, 30)
            again = daemon.predict({"instances": [[1.0]]}).json()["predictions"]
            assert again["loaded"] == expected


def test_parameters_in_a_dry_run(save_model: Any) -> None:
    path = configured(save_model, "configured")
    args = ["--model_dir", str(path), "--dry_run", "--model_config", '{"other": 1}']
    status, output = run_daemon_expecting_exit(args)
    assert status == 0
    assert "MODEL_CONFIG: other without effect" in output
