"""The image that these tests look at: built once, as an operator would, by a real builder.

`pyfuncserver build` builds it with buildah, from a model in S3 (moto's server). Debian's Python
stands in for the official image, under its name: the registry is not asked. What a machine cannot
do (no builder, no namespaces) is said and skipped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
from environments import environment
from harness import free_port, wait_until
from image.containers import (
    BUILD_TIMEOUT_S,
    PYTHON_IMAGE,
    TOOLS,
    Built,
    Engine,
    listens,
    not_tested,
    save,
)

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "image"
FIGURES = pytest.StashKey[list[str]]()
Figures = Callable[[str], None]
IMAGE = "localhost/pyfuncserver-test:1"
_UPLOAD = """
import boto3, pathlib, sys
client = boto3.client("s3")
client.create_bucket(Bucket="models")
for file in pathlib.Path(sys.argv[1]).rglob("*"):
    if file.is_file():
        key = "runs/1/model/" + str(file.relative_to(sys.argv[1]))
        client.upload_file(str(file), "models", key)
"""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in terminalreporter.config.stash.get(FIGURES, []):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> Figures:
    """Give `figures(text)`, which prints the text when all tests are done."""
    return request.config.stash.setdefault(FIGURES, []).append


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        not_tested(f"{', '.join(missing)} not installed (Debian packages of these names)")
    if os.geteuid() != 0:
        not_tested("a Debian's root folder is made and containers are started as root only")
    made = Engine(tmp_path_factory.mktemp("images"))
    made.prepare("overlay")
    if made.run("podman", "info").returncode:
        made.prepare("vfs")
    yield made
    made.run("podman", "rm", "--all", "--force", "--time", "0")
    made.run("podman", "image", "umount", "--all")
    # Quicker than image by image; some gigabytes, which pytest would keep.
    made.run("rm", "-rf", "--one-file-system", str(made.folder / "images"), timeout_s=300)


@pytest.fixture(scope="session")
def prepared(engine: Engine, model: Path) -> Iterator[dict[str, str]]:
    """Give the variables by which the model's bucket is reached; the base image is there too."""
    with ThreadPoolExecutor(2) as pool, contextlib.ExitStack() as stack:
        base = pool.submit(_import_python, engine)
        client = pool.submit(environment, "moto", "moto[server,s3]==5.2.5", timeout_s=200)
        moto = client.result()
        variables = stack.enter_context(_bucket(moto, model))
        base.result()
        yield variables


def _import_python(engine: Engine) -> None:
    """Make the image from Debian's packages, whose archive is kept for the next run."""
    archive = KEPT / "python-3.11.tar"
    if not archive.exists():
        _make_archive(archive)
    path = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    engine.podman("import", "--change", f"ENV {path}", str(archive), PYTHON_IMAGE, timeout_s=200)
    problem = engine.problem_of_containers(PYTHON_IMAGE, "python", "-V")
    if problem:
        not_tested(f"podman runs no container here: {problem}")


def _make_archive(archive: Path) -> None:
    folder = archive.parent / uuid.uuid4().hex
    folder.mkdir(parents=True)
    packages = "ca-certificates,python3,python3-pip,python3-venv"
    # Under the names that the official image has, and open to pip as that is.
    hooks = [
        'rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
        'ln -s /usr/bin/python3 "$1/usr/local/bin/python"',
        'ln -s /usr/bin/python3 "$1/usr/local/bin/python3"',
    ]
    command = ["mmdebstrap", "--variant=minbase", f"--include={packages}"]
    command += [f"--customize-hook={hook}" for hook in hooks]
    done = subprocess.run(
        [*command, "bookworm", str(folder / "root.tar")],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(folder)
        not_tested(f"mmdebstrap makes no Debian here: {done.stderr.strip()[-300:]}")
    (folder / "root.tar").rename(archive)
    folder.rmdir()


@contextlib.contextmanager
def _bucket(moto: Path, model: Path) -> Iterator[dict[str, str]]:
    """Serve a bucket that holds the model at runs/1/model."""
    port = free_port()
    variables = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": f"secret-{uuid.uuid4().hex}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    environ = {**os.environ, **variables}
    server = subprocess.Popen(
        [str(moto / "moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: listens(port), 60, "moto listens")
        upload = [str(moto / "python"), "-c", _UPLOAD, str(model)]
        subprocess.run(upload, env=environ, check=True, timeout=60)
        yield variables
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "model"
    return save(path, "image_model.py", pip_requirements=[f"mlflow=={mlflow.__version__}"])


@pytest.fixture(scope="session")
def built(engine: Engine, prepared: dict[str, str], figures: Figures) -> Built:
    """Build the image, with all that its first stage can be asked for."""
    began = time.monotonic()
    done = engine.run(
        *(sys.executable, "-m", "pyfuncserver", "build", "--builder", "buildah"),
        *("--model_dir", "s3://models/runs/1/model", "--image", IMAGE),
        *("--python_image", PYTHON_IMAGE, "--", *engine.volumes),
        *("--build-arg", "MLFLOW_ARTIFACT_STORAGE_TYPE=s3"),
        env=prepared,
        timeout_s=BUILD_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    figures(f"built in {time.monotonic() - began:.0f} s: {done.stdout.splitlines()[-1]}")
    return Built(IMAGE, done.stdout, prepared["AWS_SECRET_ACCESS_KEY"])
