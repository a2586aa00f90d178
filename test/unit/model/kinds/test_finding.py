"""What lies at a path, by looking."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyfuncserver.model.kinds import Unloadable
from pyfuncserver.model.kinds.finding import find

XGBOOST_JSON = b'{"learner":{"attributes":{}},"version":[3,2,0]}'
XGBOOST_UBJ = b"{L\0\0\0\0\0\0\0\x07learner{L\0\0\0\0\0\0\0\nattributes{}"
LIGHTGBM = b"tree\nversion=v4\nnum_class=1\n"
CONFIG = b'{"architectures": ["BertModel"], "model_type": "bert"}'

FILES = [
    ("m.pkl", b"anything", "sklearn"),
    ("m.pickle", b"", "sklearn"),
    ("model.joblib", b"", "sklearn"),
    ("m.skops", b"", "sklearn"),
    ("M.ONNX", b"", "onnx"),
    ("m.json", XGBOOST_JSON, "xgboost"),
    ("m.ubj", XGBOOST_UBJ, "xgboost"),
    ("m.bst", XGBOOST_UBJ, "xgboost"),
    ("m.bst", XGBOOST_JSON, "xgboost"),
    ("m.bst", LIGHTGBM, "lightgbm"),
    ("m.bst", b"binf\0\0", "xgboost"),
    ("m.model", LIGHTGBM, "lightgbm"),
    ("m.txt", LIGHTGBM, "lightgbm"),
]


def refusal(path: Path, kind: str = "auto") -> str:
    with pytest.raises(Unloadable) as raised:
        find(path, kind)
    return str(raised.value)


@pytest.mark.parametrize(("name", "content", "kind"), FILES)
@pytest.mark.parametrize("wanted", ["auto", "its own"])
def test_one_file(tmp_path: Path, name: str, content: bytes, kind: str, wanted: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    (tmp_path / "model-settings.json").write_text('{"name": "learner"}')  # MLServer's
    (tmp_path / "requirements.txt").write_text("tree-sitter\nscikit-learn")
    (tmp_path / ".hidden.pkl").touch()
    wish = kind if wanted == "its own" else wanted
    assert find(file, wish) == (kind, file)
    assert find(tmp_path, wish) == (kind, file)


def test_mlflow_comes_first(tmp_path: Path) -> None:
    for name in ("MLmodel", "model.pkl", "other.pkl"):
        (tmp_path / name).touch()
    assert find(tmp_path) == ("mlflow", tmp_path)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model-00001-of-00002.bin"])
def test_a_pretrained_model(tmp_path: Path, weights: str) -> None:
    (tmp_path / "config.json").write_bytes(CONFIG)
    assert "no MLmodel" in refusal(tmp_path)
    (tmp_path / weights).touch()
    assert find(tmp_path) == ("huggingface", tmp_path)


def test_several_models_of_one_kind(tmp_path: Path) -> None:
    for name in ("a.pkl", "b.joblib"):
        (tmp_path / name).touch()
    said = refusal(tmp_path)
    assert said == (
        "holds several models, a.pkl (sklearn), b.joblib (sklearn): "
        "give the path of the file itself"
    )


def test_models_of_several_kinds(tmp_path: Path) -> None:
    for name in ("a.pkl", "b.onnx"):
        (tmp_path / name).touch()
    assert "a.pkl (sklearn), b.onnx (onnx): choose with --model_kind" in refusal(tmp_path)
    assert find(tmp_path, "onnx") == ("onnx", tmp_path / "b.onnx")


def test_nothing_that_is_known(tmp_path: Path) -> None:
    assert "it is empty (--model_kind)" in refusal(tmp_path)
    for place in range(9):
        (tmp_path / f"notes-{place}.md").touch()
    said = refusal(tmp_path)
    assert "has no MLmodel file" in said
    assert "notes-5.md, ... (--model_kind)" in said
    assert "no file of the kind onnx" in refusal(tmp_path, "onnx")


@pytest.mark.parametrize(("name", "content"), [("m.json", b"{}"), ("m.bst", b"?"), ("m", b"")])
def test_a_file_of_no_known_kind(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "name its kind with --model_kind" in refusal(tmp_path / name)


@pytest.mark.parametrize("kind", ["mlflow", "huggingface"])
def test_a_kind_that_is_a_directory(tmp_path: Path, kind: str) -> None:
    (tmp_path / "m.pkl").touch()
    assert "is not a directory" in refusal(tmp_path / "m.pkl", kind)
    name = "MLmodel" if kind == "mlflow" else "config.json"
    assert f"has no {name} file" in refusal(tmp_path, kind)
