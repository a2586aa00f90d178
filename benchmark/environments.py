"""Virtual environments with the peers, made from PyPI when they are first needed.

Each peer has one of its own under build/bench: none of them could share one with another.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME = ROOT / "build" / "bench"
SERVERS = Path(__file__).parent / "servers"
OURS = "pyfuncserver"
_PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet", "install")


@dataclass(frozen=True)
class Environment:
    """What is installed, and of which packages the version is written beside a result."""

    packages: tuple[str, ...]
    told: tuple[str, ...]
    alone: tuple[str, ...] = ()
    """Packages without their dependencies, and without regard to the Python they ask for."""


ENVIRONMENTS = {
    OURS: Environment(
        (), ("mlflow", "tornado", "httptools", "uvloop", "orjson", "grpcio", "protobuf")
    ),
    "limits": Environment(
        ("uvicorn", "uvloop", "httptools", "orjson", "grpcio", "caraml-upi-protos"),
        ("uvicorn", "uvloop", "httptools", "orjson", "grpcio", "protobuf"),
    ),
    # The server asks for a Python below 3.11 and for packages that exist only for those; it runs
    # on 3.11 with these.
    "merlin": Environment(
        (
            *("merlin-sdk", "setuptools<75", "numpy<2", "confluent-kafka==2.3.0", "orjson"),
            *("grpcio-health-checking", "grpcio-reflection", "prometheus-client", "tornado"),
            "uvloop",
        ),
        ("merlin-pyfunc-server", "merlin-sdk", "mlflow", "tornado", "grpcio", "orjson"),
        alone=("merlin-pyfunc-server",),
    ),
    "kserve": Environment(("kserve",), ("kserve", "fastapi", "uvicorn")),
    "mlserver": Environment(
        ("mlserver", "mlserver-mlflow", "uvloop<0.22"), ("mlserver", "mlflow", "fastapi", "uvicorn")
    ),
    "seldon": Environment(("seldon-core", "setuptools<81"), ("seldon-core", "flask", "gunicorn")),
    "bentoml": Environment(("bentoml",), ("bentoml", "starlette", "uvicorn")),
    "ray": Environment(("ray[serve]",), ("ray", "starlette", "uvicorn")),
    "litserve": Environment(("litserve",), ("litserve", "fastapi", "uvicorn")),
}


def binaries(name: str) -> Path:
    """Give the directory of an environment's programs; make the environment if it is not there.

    Raises: subprocess.CalledProcessError where a package cannot be installed.
    """
    if name == OURS:
        return Path(sys.executable).parent
    home = HOME / name
    if not (home / ".installed").exists():
        _install(home, ENVIRONMENTS[name])
    return home / "bin"


def _install(home: Path, environment: Environment) -> None:
    print(
        f"installing {', '.join(environment.packages + environment.alone)} into {home}", flush=True
    )
    venv.create(home, with_pip=True, clear=True)
    python = str(home / "bin" / "python")
    subprocess.run([python, *_PIP, *environment.packages], check=True)
    if environment.alone:
        without = ("--no-deps", "--ignore-requires-python")
        subprocess.run([python, *_PIP, *without, *environment.alone], check=True)
    (home / ".installed").touch()


def versions(name: str) -> str:
    """Give what is installed of the packages that matter, as `kserve 0.13.1, fastapi 0.110`."""
    question = (
        "import importlib.metadata as m, sys\n"
        "names = ((d.metadata['Name'].lower().replace('_', '-'), d) for d in m.distributions())\n"
        "have = {name: d.version for name, d in names}\n"
        "print(', '.join(f'{p} {have[p]}' for p in sys.argv[1:] if p in have))"
    )
    told = ENVIRONMENTS[name].told
    command = [str(binaries(name) / "python"), "-c", question, *told]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def model(name: str) -> Path:
    """Give the directory of a model that the servers serve; make it if it is not there.

    Raises: subprocess.CalledProcessError where it cannot be made.
    """
    out = HOME / "models" / name
    if not (out / "MLmodel").exists():
        owner, script = _MODELS[name]
        out.parent.mkdir(parents=True, exist_ok=True)
        command = [str(binaries(owner) / "python"), str(script), "--out", str(out)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(script.parent)})
    return out


_EXAMPLES = ROOT / "examples"
_MODELS = {
    "echo": (OURS, _EXAMPLES / "echo" / "log_model.py"),
    "merlin_echo": (OURS, _EXAMPLES / "merlin_echo" / "log_model.py"),
    "merlin": ("merlin", SERVERS / "merlin_model.py"),
    "mlserver": ("mlserver", _EXAMPLES / "echo" / "log_model.py"),
    "forest": (OURS, SERVERS / "forest_model.py"),
    "heavy": (OURS, SERVERS / "heavy_model.py"),
    "heap": (OURS, SERVERS / "heap_model.py"),
}
