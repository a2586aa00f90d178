from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pyfuncserver.errors import StartupError
from pyfuncserver.image import dependencies
from pyfuncserver.image.dependencies import Dependencies

Files = Callable[[Mapping[str, str]], Path]

# As MLflow 3 writes them.
REQUIREMENTS = "mlflow==3.1.0\nscikit-learn==1.5.0\n"
PYTHON_ENV = """\
python: 3.10.13
build_dependencies:
- pip==23.2.1
- setuptools==65.5.0
- wheel
dependencies:
- -r requirements.txt
"""
CONDA = """\
channels:
- conda-forge
dependencies:
- python=3.10.13
- pip<=23.2.1
- pip:
  - mlflow==3.1.0
  - xgboost==2.0.0
name: mlflow-env
"""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    def write(texts: Mapping[str, str]) -> Path:
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path

    return write


def read(files: Files, text: str, name: str = "requirements.txt", **others: str) -> Dependencies:
    return dependencies.read(files({name: text, **others}) / name)


def test_requirements(files: Files) -> None:
    text = "# made by hand\nnumpy==1.26.4  # the last one\n\n-e ./code\nscipy>=1 \\\n    ,<2\n"
    found = read(files, text)
    assert found.requirements == ("numpy==1.26.4", "-e ./code", "scipy>=1     ,<2")
    assert (found.python, found.conda) == ("", ())


def test_a_fragment_of_an_address_is_no_comment(files: Files) -> None:
    line = "git+https://git.example/a.git@v1#egg=a"
    assert read(files, line).requirements == (line,)


def test_hashes_stay(files: Files) -> None:
    text = "numpy==1.26.4 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
    (line,) = read(files, text).requirements
    assert line.split() == ["numpy==1.26.4", "--hash=sha256:aa", "--hash=sha256:bb"]
    assert dependencies.name_of(line) == "numpy"


@pytest.mark.parametrize("option", ["-r more.txt", "-rmore.txt", "--requirement=more.txt"])
def test_an_included_file_stands_in_its_line(files: Files, option: str) -> None:
    root = files({"requirements.txt": f"a==1\n{option}\nc==3\n", "more.txt": "b==2\n"})
    found = dependencies.read(root / "requirements.txt")
    assert found.requirements == ("a==1", "b==2", "c==3")


def test_an_included_file_that_is_missing(files: Files) -> None:
    with pytest.raises(StartupError, match=r"includes '-r more.txt', and there is no such file"):
        read(files, "-r more.txt\n")


def test_a_file_that_includes_itself(files: Files) -> None:
    with pytest.raises(StartupError, match="includes itself"):
        read(files, "-r requirements.txt\n")


def test_python_env(files: Files) -> None:
    root = files({"python_env.yaml": PYTHON_ENV, "requirements.txt": REQUIREMENTS})
    found = dependencies.of_model(root)
    assert found == Dependencies(
        "python_env.yaml",
        ("setuptools==65.5.0", "mlflow==3.1.0", "scikit-learn==1.5.0"),
        python="3.10.13",
    )


def test_conda_yaml_without_more_than_pip(files: Files) -> None:
    found = dependencies.of_model(files({"conda.yaml": CONDA}))
    assert found == Dependencies("conda.yaml", ("mlflow==3.1.0", "xgboost==2.0.0"), "3.10.13")


def test_names_of_variables(files: Files) -> None:
    assert read(files, f"{CONDA}variables:\n  A: 1\n  B: two\n").variables == ("A", "B")


@pytest.mark.parametrize("name", ["conda.yaml", "9f86d081884c7d659a2feaa0c55ad015"])
def test_a_file_is_known_by_its_content(files: Files, name: str) -> None:
    assert read(files, CONDA, name).requirements == ("mlflow==3.1.0", "xgboost==2.0.0")
    assert read(files, REQUIREMENTS, "b2").requirements == ("mlflow==3.1.0", "scikit-learn==1.5.0")


def test_conda_yaml_goes_first_where_it_asks_for_more(files: Files) -> None:
    text = CONDA.replace("- pip<=", "- conda-forge::cudatoolkit=11.8\n- gcc\n- pip<=")
    root = files({"conda.yaml": text, "python_env.yaml": PYTHON_ENV, "requirements.txt": "a"})
    found = dependencies.of_model(root)
    assert found.source == "conda.yaml"
    specs = ("python=3.10.13", "conda-forge::cudatoolkit=11.8", "gcc", "pip<=23.2.1")
    assert (found.conda, found.channels) == (specs, ("conda-forge",))
    assert found.requirements == ("mlflow==3.1.0", "xgboost==2.0.0")


def test_conda_brings_the_setuptools_that_its_file_lists(files: Files) -> None:
    text = CONDA.replace("- pip<=", "- setuptools<70\n- pip<=")
    assert read(files, text).requirements[0] == "setuptools"
    found = read(files, text.replace("- pip<=", "- gcc\n- pip<="))
    assert found.requirements[0] == "mlflow==3.1.0"
    assert "setuptools<70" in found.conda


@pytest.mark.parametrize(
    ("spec", "python"),
    [
        ("python==3.10.13", "3.10.13"),
        ("python 3.11.*", "3.11.*"),
        ("python=3.11.7=h955ad1f_0", "3.11.7"),
        ("conda-forge::python=3.12", "3.12"),
        ("python>=3.8", ""),
        ("python <3.12,>=3.8", ""),
        ("python", ""),
    ],
)
def test_a_range_of_pythons_is_not_the_models_own(files: Files, spec: str, python: str) -> None:
    assert read(files, CONDA.replace("python=3.10.13", spec)).python == python


def test_requirements_alone(files: Files) -> None:
    assert dependencies.of_model(files({"requirements.txt": REQUIREMENTS})).python == ""


def test_a_model_that_says_nothing(tmp_path: Path) -> None:
    assert dependencies.of_model(tmp_path) == Dependencies("")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("conda.yaml", "dependencies: [", "conda.yaml is not YAML: "),
        ("conda.yaml", "- numpy\n", "conda.yaml is not an environment"),
        ("conda.yaml", "dependencies: numpy\n", "'dependencies' is not a list"),
        ("python_env.yaml", "python: 3.10.1\ndependencies: a\n", "'dependencies' is not a list"),
    ],
)
def test_what_cannot_be_understood(files: Files, name: str, text: str, message: str) -> None:
    with pytest.raises(StartupError, match=message) as raised:
        read(files, text, name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["numpy", "merlin-pyfunc-server==0.50.0"], ["numpy", "merlin-sdk==0.50.0"]),
        (["merlin_pyfunc_server<0.51"], ["merlin-sdk<0.51"]),
        (["merlin-pyfunc-server", "merlin-sdk==0.41"], ["merlin-sdk==0.41"]),
        (["pyfuncserver==9", "-r https://a.example/r.txt"], ["-r https://a.example/r.txt"]),
    ],
)
def test_merlins_server_is_left_out(given: list[str], expected: list[str]) -> None:
    kept, notes = dependencies.without_other_servers(given)
    assert kept == expected
    assert len(notes) == 1
