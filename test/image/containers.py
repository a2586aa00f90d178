"""buildah and podman with images and containers of their own, and nothing of the machine's.

And models for them, which any Python can load in the image.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from harness import Daemon, free_port, wait_until

TOOLS = ("buildah", "podman", "runc", "mmdebstrap")
PYTHON_IMAGE = "docker.io/library/python:3.11-slim-bookworm"
CERTIFICATES = Path("/etc/ssl/certs")
READY_TIMEOUT_S = 90
BUILD_TIMEOUT_S = 900
_PODMAN = ("podman", "--cgroup-manager", "cgroupfs", "--runtime", shutil.which("runc") or "runc")
_STORAGE = '[storage]\ndriver = "{driver}"\ngraphroot = "{root}/images"\nrunroot = "{root}/run"\n'
_LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")


def not_tested(why: str) -> None:
    pytest.skip(f"THE IMAGE IS NOT TESTED: {why}")


def listens(port: int) -> bool:
    """Tell whether somebody does on this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def save(path: Path, code: str, **requirements: Any) -> Path:
    """Save a model that is one of the files here."""
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            str(path),
            python_model=str(Path(__file__).with_name(code)),
            code_paths=[str(Path(__file__).parents[1] / "models.py")],
            **requirements,
        )
    return path


@dataclass(frozen=True)
class Built:
    """An image, and what its build said."""

    name: str
    log: str
    secret: str = ""
    """The secret key that the build downloaded the model with."""


@dataclass(frozen=True)
class Engine:
    """A store of images below a folder, and the tools that work on it."""

    folder: Path

    def prepare(self, driver: str) -> None:
        storage = _STORAGE.format(driver=driver, root=self.folder)
        (self.folder / "storage.conf").write_text(storage)
        # The index that pip here asks, and the certificates that it trusts.
        certificate = CERTIFICATES / "ca-certificates.crt"
        lines = [f"cert = {certificate}\n"] if certificate.exists() else []
        if url := os.environ.get("PIP_INDEX_URL"):
            lines.append(f"index-url = {url}\n")
        (self.folder / "pip.conf").write_text("".join(["[global]\n", *lines]))

    @property
    def environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
        }

    @property
    def volumes(self) -> list[str]:
        """Show the build how pip is set up here, which no image may keep."""
        pairs = [f"{self.folder}/pip.conf:/etc/pip.conf:ro"]
        if CERTIFICATES.is_dir():
            pairs.append(f"{CERTIFICATES}:{CERTIFICATES}:ro")
        return [word for pair in pairs for word in ("--volume", pair)]

    def run(
        self, *command: str, env: Mapping[str, str] | None = None, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this store; stdout has both of its streams."""
        return subprocess.run(
            command,
            env={**self.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def podman(self, *arguments: str, timeout_s: float = 60) -> str:
        done = self.run(*_PODMAN, *arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"podman {' '.join(arguments)}\n{done.stdout}"
        return done.stdout.strip()

    def status(self, *arguments: str) -> int:
        return self.run(*_PODMAN, *arguments).returncode

    def problem_of_containers(self, image: str, *command: str, flags: Sequence[str] = ()) -> str:
        """Run one and give what went wrong; empty where nothing did."""
        options = ["--rm", "--network", "host", "--no-healthcheck", *_LIMITS, *flags]
        done = self.run(*_PODMAN, "run", *options, image, *command)
        return done.stdout.strip()[-300:] if done.returncode else ""

    def inspect(self, image: str) -> dict[str, Any]:
        (found,) = json.loads(self.podman("image", "inspect", image))
        return dict(found)

    def layers(self, image: str) -> list[Path]:
        """Give the folders that hold what each layer brought."""
        data = self.inspect(image)["GraphDriver"]["Data"]
        return [Path(p) for name in ("LowerDir", "UpperDir") for p in data.get(name, "").split(":")]


class Container:
    """A container of an image, on the machine's network; it is gone at the end.

    Its root cannot be written, which is how it should run; podman puts a tmpfs on /tmp.
    """

    predict_path = Daemon.predict_path
    connection = Daemon.connection
    http = Daemon.http
    predict = Daemon.predict
    metrics = Daemon.metrics
    metric = Daemon.metric
    _exposition = Daemon._exposition
    channel = Daemon.channel
    upi = Daemon.upi
    full_name = "model-1"

    def __init__(
        self,
        engine: Engine,
        image: str,
        *,
        env: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        self.engine = engine
        self.name = f"pyfuncserver-test-{uuid.uuid4().hex[:12]}"
        self.http_port = free_port()
        self.grpc_port = free_port()
        settings = {
            "CARAML_PROTOCOL": "HTTP_JSON,UPI_V1",
            "CARAML_HTTP_PORT": str(self.http_port),
            "CARAML_GRPC_PORT": str(self.grpc_port),
            **(env or {}),
        }
        given = [word for pair in settings.items() for word in ("--env", "=".join(pair))]
        where = ["--network", "host", "--read-only", "--health-interval", "disable"]
        self._command = ["run", "--detach", "--name", self.name, *where, *_LIMITS, *given]
        self._command += [*flags, image]

    def __enter__(self) -> Container:
        try:
            self.engine.podman(*self._command)
            wait_until(self._is_ready, READY_TIMEOUT_S, "the container is ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        log = self.engine.run(*_PODMAN, "logs", self.name).stdout
        self.engine.run(*_PODMAN, "rm", "--force", "--time", "0", self.name)
        print(f"--- the container's log ---\n{log}")  # noqa: T201  shown with a failure

    def _is_ready(self) -> bool:
        state = self.engine.podman("inspect", "--format", "{{.State.Status}}", self.name)
        assert state in {"created", "running"}, f"it ended: {self.log()}"
        try:
            return self.http("GET", "/v2/health/ready").status == 200
        except OSError:
            return False

    def log(self) -> str:
        return self.engine.podman("logs", self.name)

    def shell(self, script: str) -> str:
        return self.engine.podman("exec", self.name, "sh", "-c", script)

    def signal(self, name: str) -> None:
        self.engine.podman("kill", "--signal", name, self.name)

    def wait(self) -> int:
        """Give the exit status, once it has ended."""
        return int(self.engine.podman("wait", self.name))
