"""What is said where the library of a kind is not there; and what a kind's model is to MLflow."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pyfuncserver.errors import StartupError
from pyfuncserver.model import kinds, loader
from pyfuncserver.model.description import Description

CONFIG = '{"architectures": ["BertModel"], "model_type": "bert"}'


@pytest.mark.parametrize(
    ("module", "extra", "name", "content"),
    [
        ("sklearn", "sklearn", "m.joblib", ""),
        ("skops", "sklearn", "m.skops", ""),
        ("xgboost", "xgboost", "m.json", '{"learner":{}}'),
        ("lightgbm", "lightgbm", "m.txt", "tree\n"),
        ("onnxruntime", "onnx", "m.onnx", ""),
        ("torch", "huggingface", "config.json", CONFIG),
    ],
)
def test_a_library_that_is_missing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    extra: str,
    name: str,
    content: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.io", None)
    (tmp_path / name).write_text(content)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(StartupError) as raised:
        loader.load(str(tmp_path), options=kinds.Options())
    assert str(raised.value).startswith(f"the model {tmp_path} cannot be loaded: it needs the")
    assert f"not installed: pip install 'pyfuncserver[{extra}]'" in str(raised.value)


@pytest.mark.parametrize(
    ("module", "platform"),
    [
        ("pyfuncserver.model.kinds.onnx", "onnx_onnxv1"),
        ("pyfuncserver.model.kinds.xgboost", "xgboost_booster"),
        ("mlflow.sklearn", "mlflow_sklearn"),
    ],
)
def test_platforms(module: str, platform: str) -> None:
    assert Description(module).platform == platform


def test_what_mlflow_has_loaded_is_no_artefact() -> None:
    assert kinds.artefact_of(object()) is None
