"""A model's image as it was built, and containers of it: predictions, signals, limits, users."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import wait_until
from image.containers import BUILD_TIMEOUT_S, PYTHON_IMAGE, Built, Container, Engine
from load import CLIENTS, Load, command, wait_for_answers

from pyfuncserver import __version__

pytestmark = pytest.mark.timeout(2 * BUILD_TIMEOUT_S)

MEMORY_MIB = 900


@pytest.fixture(scope="module")
def container(engine: Engine, built: Built) -> Iterator[Container]:
    limit = f"{MEMORY_MIB}m"
    flags = ["--memory", limit, "--memory-swap", limit]
    with Container(engine, built.name, env={"WORKERS": "2"}, flags=flags) as running:
        yield running


# What the build said, and left


def test_the_build_tries_the_model_and_tells_sizes(built: Built) -> None:
    assert "the model /model can be loaded and served" in built.log
    assert "rattler" not in built.log  # conda's packages are not asked for
    assert re.search(r"^pyfuncserver: /opt/merlin-model: [0-9.]+ MB$", built.log, re.MULTILINE)
    assert re.search(rf"^{built.name} is built: [0-9.]+ [MG]B$", built.log, re.MULTILINE)


def test_how_the_image_is_run(engine: Engine, built: Built) -> None:
    config = engine.inspect(built.name)["Config"]
    assert config["User"] == "1000:1000"
    assert config["Cmd"] == ["run.sh"]
    assert config["StopSignal"] == "SIGTERM"
    assert set(config["ExposedPorts"]) == {"8080/tcp", "9000/tcp"}
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.base.name"].endswith("-py3.11")
    assert labels["org.opencontainers.image.title"] == "pyfuncserver"


def test_no_layer_and_no_history_has_the_credentials(engine: Engine, built: Built) -> None:
    history = engine.podman("history", "--no-trunc", "--format", "{{.CreatedBy}}", built.name)
    config = str(engine.inspect(built.name))
    for text in (history, config, built.log):
        assert built.secret not in text
        assert "secret-" not in text
    layers = engine.layers(built.name)
    assert any((layer / "opt" / "merlin-model").is_dir() for layer in layers)
    found = subprocess.run(
        ["grep", "--recursive", "--files-with-matches", "--fixed-strings", built.secret, *layers],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (1, "")


def test_only_what_serving_needs(engine: Engine, built: Built) -> None:
    root = Path(engine.podman("image", "mount", built.name))
    for name in ("gcc", "cc", "g++", "make", "git", "ld"):
        assert not list(root.glob(f"usr/*bin/{name}")), name
    for folder in ("context", "build", "wheels", "opt/tools", "root/.cache", "home/pyfunc/.cache"):
        assert not (root / folder).exists(), folder
    assert not list(root.glob("var/lib/apt/lists/*_Packages"))
    assert not list(root.glob("var/cache/apt/*.bin"))
    packages = root / "opt/merlin-model/lib/python3.11/site-packages"
    assert not (packages / "pip").exists()
    assert not (packages / "boto3").exists()
    assert not (packages / "pandas/tests").exists()
    assert list(packages.glob("pandas/__pycache__/__init__.*.pyc"))
    # The server as it was installed, not as it is kept.
    assert not list(root.rglob("pyfuncserver*.whl"))
    assert not (packages / "pyfuncserver" / "image" / "files").exists()
    assert (root / "model" / "MLmodel").stat().st_mode & 0o004


# What runs


def test_predictions_over_http_and_upi(container: Container) -> None:
    answer = container.predict({"do": "echo", "x": 1})
    assert (answer.status, answer.json()) == (200, {"echo": {"do": "echo", "x": 1}})
    request = command("pid")
    request.metadata.prediction_id = "mine"
    response = container.upi(request)
    assert [v.name for v in response.prediction_context] == ["pid"]


def test_nobody_is_root_and_nothing_can_be_written(container: Container) -> None:
    statuses = container.shell("grep -h ^Uid: /proc/[0-9]*/status").splitlines()
    assert {line.split()[1] for line in statuses} == {"1000"}
    told = container.shell(
        "id -u; for d in / /model /opt/merlin-model $HOME; do touch $d/x; done; "
        "touch /tmp/x && echo written"
    )
    assert "1000" in told.splitlines()
    assert told.count("Read-only file system") == 4
    assert "written" in told.splitlines()


def test_orphans_are_reaped_by_the_first_process(container: Container) -> None:
    container.shell("(sleep 0.3 &)")
    gone = "! grep -q '^State:.[Z]' /proc/[0-9]*/status && ! grep -qx sleep /proc/[0-9]*/comm"
    wait_until(lambda: not container.engine.status("exec", container.name, "sh", "-c", gone), 20)


def test_the_health_check(container: Container) -> None:
    assert container.engine.status("healthcheck", "run", container.name) == 0
    check = "CARAML_HTTP_PORT=1 python -m pyfuncserver.image.healthcheck"
    assert container.engine.status("exec", container.name, "sh", "-c", check) == 1


def test_the_memory_limit_is_told(container: Container) -> None:
    assert f" {MEMORY_MIB} MiB of memory (cgroup limit), " in container.log()


def test_a_worker_that_takes_more_is_told_and_replaced(container: Container) -> None:
    with pytest.raises(OSError, match=r".*"):
        container.predict({"do": "eat", "bytes": 2 * MEMORY_MIB * 2**20})
    wait_until(lambda: "SIGKILL (out of memory)" in container.log(), 30, "its death is told")
    restarts = "pyfuncserver_worker_restarts_total"
    wait_until(lambda: container.metric(restarts, reason="out_of_memory") == 1, 30)
    wait_until(lambda: _both_serve(container), 60, "two workers serve again")
    assert container.predict({"do": "pid"}).status == 200


def _both_serve(container: Container) -> bool:
    return len({container.predict({"do": "pid"}).json()["pid"] for _ in range(20)}) == 2


def test_sigterm_drains_under_load(engine: Engine, built: Built) -> None:
    with Container(engine, built.name, env={"WORKERS": "2"}) as running:
        clients = {"http-keep-alive": 4, "http-connect": 2, "upi": 4}
        loads = [Load(CLIENTS[kind](running, do="pid"), n) for kind, n in clients.items()]
        for load in loads:
            load.__enter__()
        for load in loads:
            wait_for_answers(load, 50)
        running.signal("TERM")
        status = running.wait()
        for load in loads:
            load.__exit__()
        assert status == 0
        assert [load.tally.lost for load in loads] == [[], [], []]
        assert "SIGTERM: stopping" in running.log()


# Models that no image can be built of


def test_a_conflict_names_the_two_packages(engine: Engine, built: Built, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "MLmodel").write_text("flavors: {}\n")
    (model / "requirements.txt").write_text("prometheus-client==0.9.0\n")
    base = re.search(r"^\$ buildah .*--tag (\S+base:\S+)", built.log, re.MULTILINE)
    assert base is not None
    done = engine.run(
        *(sys.executable, "-m", "pyfuncserver", "build", "--builder", "buildah", "--image", "no:1"),
        *("--model_dir", str(model), "--base_image", base[1]),
        *("--", *engine.volumes, "--build-arg", "BUILD_PACKAGES="),
        timeout_s=300,
    )
    assert done.returncode == 1
    assert (
        "pyfuncserver: prometheus-client==0.9.0, which the model asks for, and pyfuncserver "
        f"{__version__}, which needs prometheus-client>=0.16, cannot be installed together"
    ) in done.stdout
    assert "Traceback" not in done.stdout
    assert PYTHON_IMAGE not in done.stdout  # the base image was there
