"""Real environments by a real pip, whose index is a folder of small wheels."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import small_wheels

from pyfuncserver.errors import StartupError
from pyfuncserver.image.dependencies import Dependencies
from pyfuncserver.image.environment import Environment, minor_of

Make = Callable[..., Path]


@pytest.fixture
def make(index: Path) -> Make:
    """Give `make(name, version, requires)`, which puts a wheel where pip finds it."""
    return lambda name, version, requires=(): small_wheels.make(index, name, version, requires)


@pytest.fixture
def environment(tmp_path: Path, make: Make) -> Environment:
    made = Environment(tmp_path / "merlin-model", io.StringIO())
    made.make(asked())
    return made


def told(environment: Environment) -> str:
    assert isinstance(environment.out, io.StringIO)
    return environment.out.getvalue()


def asked(*lines: str) -> Dependencies:
    return Dependencies("requirements.txt", lines)


def test_the_model_keeps_what_it_has(environment: Environment, make: Make, tmp_path: Path) -> None:
    for version in ("1.0", "2.0"):
        make("shared", version)
    make("helper", "1.0", ["shared<2"])
    make("helper", "2.0", ["shared>=2"])
    server = make("pyfuncserver", "0.1.0", ["helper", "shared>=1"])
    environment.install_model(asked("shared==1.0"), tmp_path)
    environment.install_server(server)
    environment.check()
    environment.compile()
    assert list(environment.prefix.rglob("__pycache__/helper_module.*.pyc"))
    # The helper's newest version does not fit, so pip takes an older one.
    assert environment.packages() == {"shared": "1.0", "helper": "1.0", "pyfuncserver": "0.1.0"}
    assert "not all packages" not in told(environment)


def test_a_pin_that_the_server_cannot_do_with(
    environment: Environment, make: Make, tmp_path: Path
) -> None:
    make("tornado", "5.1")
    make("tornado", "6.4")
    server = make("pyfuncserver", "0.1.0", ["tornado>=6.2"])
    environment.install_model(asked("tornado==5.1"), tmp_path)
    with pytest.raises(StartupError) as raised:
        environment.install_server(server)
    assert str(raised.value) == (
        "tornado==5.1, which the model asks for, and pyfuncserver 0.1.0, which needs tornado>=6.2, "
        "cannot be installed together: the model has to be logged with another version of tornado"
    )


def test_a_package_of_the_model_that_brings_what_does_not_fit(
    environment: Environment, make: Make, tmp_path: Path
) -> None:
    make("tornado", "5.1")
    make("tornado", "6.4")
    make("old-notebook", "1.0", ["tornado<6"])
    server = make("pyfuncserver", "0.1.0", ["tornado>=6.2"])
    environment.install_model(asked("old-notebook"), tmp_path)
    with pytest.raises(StartupError, match=r"^tornado==5.1, which the model's old-notebook needs,"):
        environment.install_server(server)


def test_requirements_that_contradict_each_other(
    environment: Environment, make: Make, tmp_path: Path
) -> None:
    make("c", "1.0")
    make("c", "2.0")
    make("a", "1.0", ["c<2"])
    make("b", "1.0", ["c>=2"])
    with pytest.raises(StartupError) as raised:
        environment.install_model(asked("a", "b"), tmp_path)
    assert str(raised.value) == (
        "a 1.0 (needs c<2) and b 1.0, which needs c>=2, cannot be installed together: change one "
        "of them in the model's requirements.txt"
    )


def test_a_package_that_is_nowhere(environment: Environment, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No matching distribution found for nowhere==1"):
        environment.install_model(asked("nowhere==1"), tmp_path)


def test_mlflow_skinny_decides_on_mlflow(
    environment: Environment, make: Make, tmp_path: Path
) -> None:
    for version in ("2.9.0", "3.0.0"):
        make("mlflow-skinny", version)
        make("mlflow", version)
    server = make("pyfuncserver", "0.1.0", ["mlflow>=1.26"])
    environment.install_model(asked("mlflow-skinny==2.9.0"), tmp_path)
    environment.install_server(server)
    assert environment.packages()["mlflow"] == "2.9.0"


def test_a_wheel_of_the_models_own(environment: Environment, make: Make, tmp_path: Path) -> None:
    model = tmp_path / "model"
    wheel = make("private", "1.0")
    (model / "wheels").mkdir(parents=True)
    wheel.rename(model / "wheels" / wheel.name)
    environment.install_model(asked(f"wheels/{wheel.name}"), model)
    assert environment.packages() == {"private": "1.0"}


@pytest.fixture
def unmade(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "merlin-model", io.StringIO())


def test_another_python(unmade: Environment) -> None:
    unmade.make(Dependencies("python_env.yaml", (), python="3.7.1"))
    own = f"this image has 3.{sys.version_info.minor}"
    assert f"WARNING: the model's python_env.yaml says Python 3.7.1, and {own}" in told(unmade)


def test_variables_that_conda_would_set(unmade: Environment) -> None:
    unmade.make(Dependencies("conda.yaml", variables=("GDAL_DATA", "OMP_NUM_THREADS")))
    assert (
        "WARNING: the variables of the model's conda.yaml are not set here: give the container "
        "GDAL_DATA, OMP_NUM_THREADS\n" in told(unmade)
    )


def test_no_warning_about_the_same_python(unmade: Environment) -> None:
    own = f"3.{sys.version_info.minor}.99"
    unmade.make(Dependencies("python_env.yaml", (), python=own))
    assert "WARNING" not in told(unmade)


@pytest.mark.parametrize(
    ("version", "minor"), [("3.11.7", 11), ("3.9", 9), ("", None), ("2.7", None)]
)
def test_minor(version: str, minor: int | None) -> None:
    assert minor_of(version) == minor
