from __future__ import annotations

import logging
import platform
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyfuncserver.errors import StartupError
from pyfuncserver.model import kinds, loader


def refusal(address: Path | str) -> str:
    with pytest.raises(StartupError) as caught:
        loader.load(str(address))
    assert caught.value.status == 1
    text = str(caught.value)
    assert text.splitlines() == [text]
    assert str(address) in text
    return text


def test_missing_directory(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none")


def test_file_instead_of_a_directory(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.touch()
    assert "not a directory" in refusal(file)


def test_directory_without_an_mlmodel(tmp_path: Path) -> None:
    assert "no MLmodel" in refusal(tmp_path)


def test_mlmodel_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {}\n", encoding="utf-8")
    assert "cannot be loaded: MlflowException" in refusal(tmp_path)


FLAVOUR = """
flavors:
  python_function:
    loader_module: {module}
    code: code
"""


def flavour(path: Path, module: str, source: str) -> Path:
    """Write a model whose loader is a module of its own."""
    code = path / "code"
    code.mkdir()
    (code / f"{module}.py").write_text(source, encoding="utf-8")
    (path / "MLmodel").write_text(FLAVOUR.format(module=module), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("module", "line", "cause"),
    [
        ("loader_raises", "raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("loader_exits", "raise SystemExit(3)", "SystemExit: 3"),
        ("loader_imports", "import no_such_package", "No module named 'no_such_package'"),
        ("loader_silent", "raise ValueError", "ValueError: no reason given"),
    ],
)
def test_fault_of_the_model_is_told_in_one_line_with_its_place(
    tmp_path: Path, module: str, line: str, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pyfuncserver")
    path = flavour(tmp_path, module, f"def _load_pyfunc(path):\n    {line}\n")
    text = refusal(path)
    assert cause in text
    assert f"{module}.py:2" in text
    ours = [record for record in caplog.records if record.name.startswith("pyfuncserver")]
    assert [record.levelname for record in ours] == ["DEBUG"], "the traceback"


def test_model_is_loaded(echo_model: Path, run_script: Callable[..., str]) -> None:
    # In a process of its own: warnings of MLflow's are not what this is about.
    printed = run_script(f"""
        import warnings
        warnings.simplefilter("ignore")
        from pyfuncserver.model import kinds, loader
        for address in ({str(echo_model)!r}, "file://" + {str(echo_model)!r}):
            model = loader.load(address)
            assert model.address == address
            print(model.loader_module, type(model.pyfunc).__name__)
    """)
    assert printed.splitlines() == ["mlflow.pyfunc.model PyFuncModel"] * 2


def test_nothing_of_mlflow_is_imported_before_a_load(run_script: Callable[..., str]) -> None:
    run_script("""
        import sys
        from pyfuncserver.model import kinds, loader
        assert "mlflow" not in sys.modules
    """)


# MODEL_CONFIG

CONFIGURED = """
flavors:
  python_function:
    loader_module: {module}
    code: code
    config:
      a: 1
      b: {{c: 2}}
"""
TELLING = """
class Model:
    def __init__(self, given):
        self.given = given

    def predict(self, data):
        return data


def _load_pyfunc(path, model_config=None):
    return Model(model_config)
"""


def configured(path: Path, module: str, template: str = CONFIGURED) -> Path:
    """Write a model that was saved with a model_config."""
    flavour(path, module, TELLING)
    text = template.format(module=module) + f"    python_version: {platform.python_version()}\n"
    (path / "MLmodel").write_text(text, encoding="utf-8")
    return path


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give the lines that warn, MLflow's own as well."""
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def given_to(path: Path, parameters: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = kinds.Options(parameters=parameters)
        return loader.load(str(path), options=options).pyfunc._model_impl.given


def test_parameters_take_the_place_of_what_the_model_was_saved_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, parameters = configured(tmp_path, "loader_configured"), {"b": [3]}
    given = given_to(path, parameters)
    assert given == {"a": 1, "b": [3]}
    given["b"].append(4)
    assert parameters == {"b": [3]}, "the model has a copy"
    assert given_to(path, {}) == {"a": 1, "b": {"c": 2}}
    assert told(caplog) == []


def test_parameters_that_the_model_does_not_know(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = configured(tmp_path, "loader_knows_some")
    assert given_to(path, {"a": 5, "x": 1, "y": 2}) == {"a": 5, "b": {"c": 2}}
    (line,) = told(caplog)
    assert line.startswith("MODEL_CONFIG: x, y without effect, for the model was saved with ")
    assert line.endswith(" a model_config of a, b only")


def test_parameters_of_a_model_that_has_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert given_to(configured(tmp_path, "loader_plain", FLAVOUR), {"x": 1}) is None
    (line,) = told(caplog)
    assert line == "MODEL_CONFIG: x without effect, for the model was saved with no model_config"


def test_parameters_before_mlflow_knew_any(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.pyfunc

    newer = mlflow.pyfunc.load_model

    def load_model(model_uri: str) -> Any:
        return newer(model_uri)

    monkeypatch.setattr(mlflow.pyfunc, "load_model", load_model)
    path = configured(tmp_path, "loader_of_old")
    assert given_to(path, {"a": 5}) == {"a": 1, "b": {"c": 2}}
    (line,) = told(caplog)
    assert line == f"MODEL_CONFIG has no effect: MLflow {mlflow.__version__} has no model_config"
