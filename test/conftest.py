"""Fixtures: the models of `models.py`, each saved once a session."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from groups import CpuGroup, Group, MemoryGroup, made
from hypothesis import HealthCheck, settings

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before anything imports MLflow

# An image of CI may forbid bytecode; then each daemon that is started here would compile the server
# anew, for an eighth of its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# How long an example takes is the machine's affair, and no finding; and a run is of the same
# examples as the last one was. Others are looked for with --hypothesis-profile=default.
settings.register_profile(
    "ours",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ours")

Save = Callable[[str, Callable[[ModuleType, Path], Path]], Path]


@pytest.fixture(scope="session")
def save_whole_model(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Give `save_model`, with all that MLflow puts beside a model."""
    root = tmp_path_factory.mktemp("models")

    def save(name: str, how: Callable[[ModuleType, Path], Path]) -> Path:
        # What MLflow warns about while it saves is not what these tests are about.
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("ignore")
            import models

            # By the module that knows how, since others may mean another model by the name.
            path = root / Path(how.__code__.co_filename).stem / name
            path.parent.mkdir(exist_ok=True)
            return path if path.exists() else how(models, path)

    return save


@pytest.fixture(scope="session")
def save_model(save_whole_model: Save) -> Save:
    """Give `save_model(name, how)`, which returns the directory that `how(models, path)` made.

    The model has no requirements, which would be MLflow alone: where there is one, MLflow reads
    through the files of all packages at each load, for a sixth of a daemon's start.
    """

    def save(name: str, how: Callable[[ModuleType, Path], Path]) -> Path:
        path = save_whole_model(name, how)
        if (requirements := path / "requirements.txt").exists():
            requirements.write_text("")
        return path

    return save


@pytest.fixture(scope="session")
def echo_model(save_whole_model: Save) -> Path:
    """Give the model whose load is that of a real one, requirements and all."""
    return save_whole_model("echo", lambda models, path: models.save(models.EchoPlain(), path))


@pytest.fixture(scope="session")
def iris_model(save_model: Save) -> Path:
    return save_model("iris", lambda models, path: models.save_iris(path))


@pytest.fixture(scope="session")
def signed_model(save_model: Save) -> Path:
    return save_model("signed", lambda models, path: models.save_signed(path))


@pytest.fixture(scope="session")
def legacy_model(save_model: Save) -> Path:
    return save_model("legacy", lambda models, path: models.save(models.Legacy(), path))


@pytest.fixture(scope="session")
def merlin_v2_model(save_model: Save) -> Path:
    return save_model("merlin_v2", lambda models, path: models.save_merlin_v2(path))


@pytest.fixture(scope="session")
def merlin_v3_model(save_model: Save) -> Path:
    return save_model("merlin_v3", lambda models, path: models.save(models.MerlinV3(), path))


@pytest.fixture(scope="session")
def controlled_model(save_model: Save) -> Path:
    return save_model("controlled", lambda models, path: models.save(models.Controlled(), path))


@pytest.fixture(scope="session")
def upi_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory with the public UPI package, which `make test` has made, or make one.

    It is not installed, so that the server's own copy of the messages is tested too.
    """
    made = Path(__file__).parents[1] / "build" / "upi-protos"
    if (made / ".installed").exists():
        return made
    target = tmp_path_factory.mktemp("upi-protos")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--target", str(target), "caraml-upi-protos==1.0.0"),
            "googleapis-common-protos>=1.56,<2",
        ],
        check=True,
    )
    return target


@pytest.fixture
def memory_group() -> Iterator[Group]:
    """Give a control group whose memory can be limited; skips where none can be made."""
    with made(MemoryGroup, "memory") as group:
        yield group


@pytest.fixture
def cpu_group() -> Iterator[Group]:
    """Give a control group whose processor time can be limited; skips where none can be made."""
    with made(CpuGroup, "cpu") as group:
        yield group


@pytest.fixture(scope="session")
def save_seldon(save_model: Save) -> Callable[[str], Path]:
    """Give `save_seldon(name)`, which returns the directory of a model of `seldon_models.py`."""

    def how(name: str, path: Path) -> Path:
        import seldon_models

        saved: Path = getattr(seldon_models, f"save_{name}")(path)
        return saved

    return lambda name: save_model(f"seldon-{name}", lambda _, path: how(name, path))
