"""Metrics: summed over workers and over their deaths, in the format that is asked for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Daemon, wait_until

from pyfuncserver.codec import upi


def upi_command(name: str) -> object:
    return upi.messages().PredictValuesRequest(target_name=name)


def kill_and_wait(daemon: Daemon, victim: int) -> None:
    strength = len(daemon.worker_pids())
    os.kill(victim, signal.SIGKILL)
    wait_until(
        lambda: victim not in daemon.worker_pids() and len(daemon.worker_pids()) == strength, 30
    )


@pytest.mark.parametrize("protocol", ["HTTP_JSON", "UPI_V1"])
def test_the_models_counter_is_exact_over_workers_and_deaths(
    controlled_model: Path, protocol: str
) -> None:
    with Daemon(controlled_model, env={"CARAML_PROTOCOL": protocol, "WORKERS": "2"}) as daemon:

        def count(times: int) -> set[int]:
            if protocol == "HTTP_JSON":
                return {daemon.predict({"do": "count"}).json()["pid"] for _ in range(times)}
            answers = [daemon.upi(upi_command("count")) for _ in range(times)]
            return {answer.prediction_context[0].integer_value for answer in answers}

        counters = count(20)
        assert daemon.metric("model_calls_total") == 20
        ours = {"dialect": "v1" if protocol == "HTTP_JSON" else "upi"}
        assert daemon.metric("pyfuncserver_requests_total", **ours) == 20
        assert daemon.metric("pyfuncserver_request_duration_seconds_count", **ours) == 20
        assert daemon.metric("pyfuncserver_request_duration_seconds_bucket", le="+Inf") == 20

        victim = counters.pop()
        kill_and_wait(daemon, victim)
        assert daemon.metric("model_calls_total") == 20
        assert daemon.metric("pyfuncserver_worker_restarts_total") == 1
        count(10)
        assert daemon.metric("model_calls_total") == 30
        assert daemon.metric("pyfuncserver_requests_total", **ours) == 30


def test_the_directory_is_wiped_at_start_and_does_not_grow(
    controlled_model: Path, tmp_path: Path
) -> None:
    stale = tmp_path / "counter_99.db"
    stale.write_bytes(b"left by another daemon")
    kept = tmp_path / "notes.txt"
    kept.write_text("not ours to remove")
    env = {"WORKERS": "2", "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    with Daemon(controlled_model, env=env) as daemon:
        assert not stale.exists()
        assert kept.read_text() == "not ours to remove"
        answered = count_in_each(daemon)
        files = sorted(path.name for path in tmp_path.glob("*.db"))
        for choose in (min, max, min, max):
            kill_and_wait(daemon, choose(daemon.worker_pids()))
            answered += count_in_each(daemon)
        assert sorted(path.name for path in tmp_path.glob("*.db")) == files
        assert daemon.metric("model_calls_total") == answered


def count_in_each(daemon: Daemon) -> int:
    """Let every worker count at least once; give how often they counted."""
    times, missing = 0, daemon.worker_pids()

    def all_have() -> bool:
        nonlocal times
        times += 1
        missing.discard(daemon.predict({"do": "count"}).json()["pid"])
        return not missing

    wait_until(all_have, 30, "an answer of each worker")
    return times


def test_a_request_in_hand_of_a_killed_worker_is_not_in_flight_for_ever(
    controlled_model: Path,
) -> None:
    with Daemon(controlled_model, env={"WORKERS": "2"}) as daemon:
        connection = daemon.connection()
        connection.request("POST", daemon.predict_path, b'{"do": "sleep", "seconds": 60}')
        wait_until(lambda: daemon.metric("pyfuncserver_requests_in_flight") == 1, 30)
        for victim in daemon.worker_pids():
            kill_and_wait(daemon, victim)
        connection.close()
        assert daemon.metric("pyfuncserver_requests_in_flight") == 0


@pytest.mark.parametrize("protocol", ["HTTP_JSON", "UPI_V1", "HTTP_JSON,UPI_V1"])
def test_promtool_is_content(controlled_model: Path, protocol: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("NOT TESTED: promtool (Debian package prometheus) is not installed")
    with Daemon(controlled_model, env={"CARAML_PROTOCOL": protocol, "WORKERS": "2"}) as daemon:
        if "HTTP_JSON" in protocol:
            daemon.predict({"do": "pid"})
            daemon.predict({"do": "raise"})
        else:
            daemon.upi(upi_command("pid"))
        answer = daemon.http("GET", "/metrics")
        assert answer.status == 200
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=answer.body, capture_output=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.fixture(scope="module")
def lone(controlled_model: Path) -> Iterator[Daemon]:
    with Daemon(controlled_model) as running:
        yield running


def test_accept_chooses_the_format(lone: Daemon) -> None:
    lone.predict({"do": "pid"})
    plain = lone.http("GET", "/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain")
    assert not plain.text.endswith("# EOF\n")
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    open_metrics = lone.http("GET", "/metrics", headers=accept)
    assert open_metrics.headers["Content-Type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")


def test_workers_and_their_memory_and_the_model_are_told(controlled_model: Path) -> None:
    env = {"WORKERS": "2", "CARAML_MODEL_NAME": "m", "CARAML_MODEL_VERSION": "7"}
    with Daemon(controlled_model, env={**env, "CARAML_PROJECT": "shop"}) as daemon:
        assert daemon.metric("pyfuncserver_workers", state="ready") == 2
        info = {"name": "m", "version": "7", "full_name": "m-7", "project": "shop"}
        assert daemon.metric("pyfuncserver_model_info", kind="merlin", **info) == 1
        for worker in ("0", "1"):
            resident = daemon.metric("pyfuncserver_worker_resident_memory_bytes", worker=worker)
            shared = daemon.metric("pyfuncserver_worker_proportional_memory_bytes", worker=worker)
            assert 10e6 < shared < resident


def test_errors_are_counted_by_kind(lone: Daemon) -> None:
    lone.predict({"do": "raise"})
    lone.predict({"do": "http_error"})
    lone.predict("{")
    lone.http("POST", "/v1/models/nobody:predict", b"{}")
    for kind in ("model_failed", "model_status", "invalid_input", "unknown_model"):
        assert lone.metric("pyfuncserver_request_errors_total", kind=kind) == 1, kind
