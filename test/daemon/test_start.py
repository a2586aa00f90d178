"""Starting: what is refused, in one line each, and with which exit status."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import (
    Daemon,
    DaemonFailed,
    daemon_environment,
    run_daemon_expecting_exit,
    wait_until,
)


def complaint(output: str) -> str:
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("pyfuncserver: ")]
    return line


@pytest.mark.parametrize("setting", ["CARAML_HTTP_PORT", "CARAML_GRPC_PORT"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_taken_port(echo_model: Path, setting: str, shared: bool) -> None:
    with socket.socket() as stranger:
        if shared:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("0.0.0.0", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        env = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1", setting: str(port)}
        status, output = run_daemon_expecting_exit(["--model_dir", str(echo_model)], env)
    assert status == 1
    assert f"port {port} ({setting})" in complaint(output)
    assert "Address already in use" in output


def test_no_such_model(tmp_path: Path) -> None:
    status, output = run_daemon_expecting_exit(["--model_dir", str(tmp_path / "nowhere")])
    assert status == 1
    assert "nowhere does not exist" in complaint(output)


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    status, output = run_daemon_expecting_exit(["--model_dir", str(tmp_path)])
    assert status == 1
    assert "has no MLmodel file" in complaint(output)


def test_a_torn_mlmodel_file(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: [\n")
    status, output = run_daemon_expecting_exit(["--model_dir", str(tmp_path)])
    assert status == 1
    assert "cannot be loaded" in complaint(output)


def test_a_bad_setting(echo_model: Path) -> None:
    status, output = run_daemon_expecting_exit(
        ["--model_dir", str(echo_model)], {"WORKERS": "many"}
    )
    assert status == 2
    line = complaint(output)
    assert "WORKERS='many'" in line
    assert "1 to 512" in line


def test_a_dry_run(echo_model: Path, tmp_path: Path) -> None:
    status, output = run_daemon_expecting_exit(["--model_dir", str(echo_model), "--dry_run"])
    assert status == 0
    assert "can be loaded" in output
    status, output = run_daemon_expecting_exit(["--model_dir", str(tmp_path), "--dry_run"])
    assert status == 1
    assert "has no MLmodel file" in output
    assert "what to do" in output


@pytest.fixture(scope="module")
def running(echo_model: Path) -> Iterator[Daemon]:
    """Give a daemon with a mistyped variable, and a flag that contradicts its variable."""
    env = {"CARAML_HTP_PORT": "1", "WORKERS": "2"}
    with Daemon(echo_model, env=env, flags=["--workers", "3"]) as daemon:
        yield daemon


def test_a_mistyped_variable_is_warned_about(running: Daemon) -> None:
    (line,) = [line for line in running.log_lines() if "CARAML_HTP_PORT" in line]
    assert "WARNING" in line


def test_the_private_metrics_directory_goes_with_the_daemon(
    echo_model: Path, tmp_path: Path
) -> None:
    with Daemon(echo_model, env={"TMPDIR": str(tmp_path)}) as daemon:
        (made,) = tmp_path.glob("pyfuncserver-metrics-*")
        assert made.stat().st_mode & 0o077 == 0
        daemon.terminate()
        assert daemon.wait() == 0
        assert list(tmp_path.glob("pyfuncserver-metrics-*")) == []


def test_the_supervisor_has_loaded_nothing_of_the_models_side(running: Daemon) -> None:
    maps = Path(f"/proc/{running.pid}/maps").read_text()
    for library in ("numpy", "pandas", "grpc", "pyarrow"):
        assert f"/{library}/" not in maps
    worker = Path(f"/proc/{min(running.worker_pids())}/maps").read_text()
    assert "/numpy/" in worker, "this test would notice"


def test_public_upi_messages_are_used_and_accepted_in_any_order(
    save_model, upi_package: Path
) -> None:
    """The model imports the public package while it loads, or only when it is called."""
    for when in ("load", "call"):
        model = save_model(
            f"upi_{when}",
            lambda models, path, when=when: models.save(models.PublicUpi(when), path),
        )
        path = os.pathsep.join([str(upi_package), daemon_environment()["PYTHONPATH"]])
        with Daemon(
            model, env={"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1", "PYTHONPATH": path, "WORKERS": "2"}
        ) as daemon:
            from pyfuncserver.codec import upi

            request = upi.messages().PredictValuesRequest(target_name="public")
            answer = daemon.upi(request)
            assert answer.target_name == "public"
            assert [variable.string_value for variable in answer.prediction_context] == ["same"]


def test_a_public_package_that_comes_late_does_not_collide(save_model, upi_package: Path) -> None:
    """The package is found only once the model has been called: then the server uses its own."""
    model = save_model(
        "upi_late", lambda models, path: models.save(models.PublicUpi(str(upi_package)), path)
    )
    with Daemon(model, env={"CARAML_PROTOCOL": "UPI_V1"}) as daemon:
        from pyfuncserver.codec import upi

        answer = daemon.upi(upi.messages().PredictValuesRequest(target_name="late"))
        assert answer.target_name == "late"
        assert [variable.string_value for variable in answer.prediction_context] == ["another"]


def test_the_console_script_and_the_module_are_one(echo_model: Path) -> None:
    script = Path(sys.executable).parent / "pyfuncserver"
    if not script.exists():
        pytest.skip("NOT TESTED: pyfuncserver is on the path but not installed")
    import subprocess

    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert "--model_dir" in done.stdout


def test_a_flag_beats_its_variable(running: Daemon) -> None:
    assert len(running.worker_pids()) == 3


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_can_be_stopped_while_it_loads(save_model, tmp_path: Path, workers: str) -> None:
    mark = tmp_path / "loading"
    model = save_model(
        f"slow_{workers}", lambda models, path: models.save(models.Slow(str(mark)), path)
    )
    daemon = Daemon(model, env={"WORKERS": workers})
    starting = threading.Thread(target=enter, args=(daemon,), daemon=True)
    starting.start()
    wait_until(mark.exists, 30, "the load has begun")
    daemon.terminate()
    assert daemon.wait(30) == 0
    assert not daemon.processes()
    starting.join(10)


def enter(daemon: Daemon) -> None:
    with contextlib.suppress(DaemonFailed):  # it ends before it is ready, as it is meant to
        daemon.__enter__()
