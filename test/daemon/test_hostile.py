"""Models and surroundings that do not behave: the daemon does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Daemon, daemon_environment, predict_values, wait_until

from pyfuncserver.codec import upi


@pytest.fixture
def hostile_model(save_model) -> Path:
    return save_model("hostile", lambda models, path: models.save(models.Hostile(), path))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_model_that_changes_its_process(
    hostile_model: Path, tmp_path: Path, workers: str
) -> None:
    relative = os.path.relpath(tmp_path / "metrics", tmp_path)
    env = {"WORKERS": workers, "PROMETHEUS_MULTIPROC_DIR": relative, "ACCESS_LOG": "true"}
    with Daemon(hostile_model, env=env) as daemon:
        before = daemon.worker_pids()
        for _ in range(5):
            answer = daemon.predict({"instances": [[1]]})
            assert answer.status == 200, answer.text
            assert answer.json()["predictions"]["exitcode"] == -signal.SIGTERM
        assert daemon.worker_pids() == before, "no worker heard its model's child's signal"
        assert daemon.metric("pyfuncserver_requests_total") == 5
        assert any("request_id=" in line for line in daemon.log_lines()), "our format is back"
        daemon.terminate()
        assert daemon.wait() == 0
        assert not daemon.processes(), "what it had started at load is gone too"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_supervisor_is_killed_and_the_models_processes_go_too(
    hostile_model: Path, workers: str
) -> None:
    with Daemon(hostile_model, env={"WORKERS": workers}) as daemon:
        daemon.terminate(signal.SIGKILL)
        daemon.wait()
        wait_until(lambda: not daemon.processes(), 30, "all processes end")


def test_a_ready_file_that_cannot_be_written_any_more_ends_nothing(
    controlled_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    flags = ["--ready_file", str(folder / "ready.json")]
    process = subprocess.Popen(
        [sys.executable, "-m", "pyfuncserver", "--model_dir", str(controlled_model), *flags],
        env={**daemon_environment({"WORKERS": "2"})},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        next(line for line in lines if "is ready" in line)
        wait_until((folder / "ready.json").exists, 30)
        victim = json.loads((folder / "ready.json").read_text())["workers"][0]
        shutil.rmtree(folder)
        os.kill(victim, signal.SIGKILL)
        assert "cannot be written" in next(line for line in lines if "READY_FILE" in line)
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(30) == 0
        assert process.stderr is not None
        process.stderr.close()


def test_closed_standard_streams(controlled_model: Path, tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    command = f'exec "{sys.executable}" -m pyfuncserver --model_dir "$0" <&- >&- 2>&-'
    process = subprocess.Popen(
        ["bash", "-c", command, str(controlled_model)],
        env=daemon_environment({"READY_FILE": str(ready), "WORKERS": "2"}),
    )
    try:
        wait_until(ready.exists, 30, "it is ready")
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_calls_cut_off_over_grpc_are_told(controlled_model: Path) -> None:
    env = {"CARAML_PROTOCOL": "UPI_V1", "DRAIN_TIMEOUT_SEC": "0.5"}
    request = upi.messages().PredictValuesRequest(target_name="sleep")
    request.prediction_context.add(name="seconds", type=1, double_value=60)
    with Daemon(controlled_model, env=env) as daemon, daemon.channel() as channel:
        call = predict_values(channel).future(request, timeout=30)
        wait_until(lambda: daemon.metric("pyfuncserver_requests_in_flight") == 1, 30)
        daemon.terminate()
        assert daemon.wait(30) == 0
        assert call.code() is not None
        assert any("cut off" in line for line in daemon.log_lines())


@pytest.fixture(scope="module")
def lone(controlled_model: Path) -> Iterator[Daemon]:
    with Daemon(controlled_model) as running:
        yield running


def test_predictions_whose_clients_have_gone_are_not_run(lone: Daemon) -> None:
    running = lone.connection()
    running.request("POST", lone.predict_path, b'{"do": "sleep", "seconds": 2}')
    wait_until(lambda: lone.metric("pyfuncserver_requests_in_flight") == 1, 30)
    gone = [lone.connection() for _ in range(5)]
    for connection in gone:
        connection.request("POST", lone.predict_path, b'{"do": "sleep", "seconds": 10}')
    for connection in gone:
        connection.close()
    started = time.monotonic()
    with contextlib.closing(running):
        assert running.getresponse().status == 200
    assert lone.predict({"do": "pid"}).status == 200
    assert time.monotonic() - started < 30, "five of them would have taken 50 s"


def test_a_form_is_json_like_any_other_body(lone: Daemon) -> None:
    body = '{"do": "echo", "text": "%s"}' % ("a=b&" * 3000)
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = lone.predict(body, {"Content-Type": kind})
        assert answer.status == 200, answer.text
        assert len(answer.json()["echo"]["text"]) == 12000
