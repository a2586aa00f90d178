from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from pyfuncserver.errors import StartupError
from pyfuncserver.model import loader


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
        from pyfuncserver.model import loader
        for address in ({str(echo_model)!r}, "file://" + {str(echo_model)!r}):
            model = loader.load(address)
            assert model.address == address
            print(model.loader_module, type(model.pyfunc).__name__)
    """)
    assert printed.splitlines() == ["mlflow.pyfunc.model PyFuncModel"] * 2


def test_nothing_of_mlflow_is_imported_before_a_load(run_script: Callable[..., str]) -> None:
    run_script("""
        import sys
        from pyfuncserver.model import loader
        assert "mlflow" not in sys.modules
    """)
