"""Find out what lies at a path: which kind of model, and in which file.

By looking: the name's ending, and into the file where several kinds share one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pyfuncserver.model.kinds.artefact import Unloadable

AUTO, MLFLOW, HUGGINGFACE = "auto", "mlflow", "huggingface"
SKLEARN, XGBOOST, LIGHTGBM, ONNX = "sklearn", "xgboost", "lightgbm", "onnx"

MLMODEL, CONFIG = "MLmodel", "config.json"

_LOOKED_AT = 4096
"""Bytes at the beginning of a file."""
_MOST_SHOWN = 6
"""Files that a message lists."""

_BY_SUFFIX = {
    ".pkl": (SKLEARN,),
    ".pickle": (SKLEARN,),
    ".joblib": (SKLEARN,),
    ".skops": (SKLEARN,),
    ".onnx": (ONNX,),
    ".json": (XGBOOST,),
    ".ubj": (XGBOOST,),
    ".txt": (LIGHTGBM,),
    ".bst": (XGBOOST, LIGHTGBM),
    ".model": (XGBOOST, LIGHTGBM),
}
_XGBOOST = re.compile(rb'binf|\{.*?("learner"\s*:|learner\{)', re.DOTALL)
_LIGHTGBM = re.compile(rb"tree\r?\n")
_BY_PATH = "give the path of the file itself"
_HOW_TO_NAME = "name its kind with --model_kind"


class Found(NamedTuple):
    """A kind, and the file or directory that its module loads."""

    kind: str
    path: Path


def find(path: Path, kind: str = AUTO) -> Found:
    """Find the model at a path that exists.

    ``kind`` is the one that is wanted, or auto. Raises: Unloadable
    """
    if not path.is_dir():
        return _in_file(path, kind)
    if kind == MLFLOW or (kind == AUTO and (path / MLMODEL).is_file()):
        return Found(MLFLOW, _demanded(path, MLMODEL, "is it an MLflow model?"))
    if kind == HUGGINGFACE:
        _demanded(path, CONFIG, "was it saved by save_pretrained?")
        return Found(HUGGINGFACE, path)
    found = list(_candidates(path, kind))
    if len(found) > 1:
        listed = ", ".join(f"{it.path.name} ({it.kind})" for it in found[:_MOST_SHOWN])
        are_kinds = len({it.kind for it in found}) > 1
        advice = f"choose with --model_kind, or {_BY_PATH}" if are_kinds else _BY_PATH
        raise Unloadable(f"holds several models, {listed}: {advice}")
    if not found:
        raise Unloadable(_nothing(path, kind))
    return found[0]


def _in_file(path: Path, kind: str) -> Found:
    if kind in (MLFLOW, HUGGINGFACE):
        raise Unloadable(f"is not a directory, as a model of the kind {kind} is")
    if kind != AUTO:
        return Found(kind, path)
    kinds = list(_kinds_of(path))
    if len(kinds) != 1:
        raise Unloadable(f"is not a directory, and no file of a known kind: {_HOW_TO_NAME}")
    return Found(kinds[0], path)


def _demanded(path: Path, name: str, question: str) -> Path:
    if not (path / name).is_file():
        raise Unloadable(f"has no {name} file; {question}")
    return path


def _candidates(path: Path, kind: str) -> Iterator[Found]:
    if kind == AUTO and _is_pretrained(path):
        yield Found(HUGGINGFACE, path)
    for file in sorted(path.iterdir()):
        if file.name.startswith(".") or not file.is_file():
            continue
        for one in _kinds_of(file):
            if kind in (AUTO, one):
                yield Found(one, file)


def _is_pretrained(path: Path) -> bool:
    """Match what ``save_pretrained`` writes: a configuration that names a model, and weights."""
    config = path / CONFIG
    if not config.is_file():
        return False
    text = config.read_bytes()
    names = b'"model_type"' in text or b'"architectures"' in text
    return names and any(
        file.name.startswith(("model", "pytorch_model")) and file.suffix in (".safetensors", ".bin")
        for file in path.iterdir()
    )


def _kinds_of(file: Path) -> Iterator[str]:
    """Give the kinds that a file may be, by its name and, where that is not enough, its content."""
    kinds = _BY_SUFFIX.get(file.suffix.lower(), ())
    if kinds and kinds[0] in (SKLEARN, ONNX):
        yield from kinds
    elif XGBOOST in kinds and is_xgboost(file):
        yield XGBOOST
    elif LIGHTGBM in kinds and is_lightgbm(file):
        yield LIGHTGBM


def _beginning(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(_LOOKED_AT)


def is_xgboost(file: Path) -> bool:
    """Match a model in JSON or UBJSON, by its main key, and the old binary form by its mark.

    https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html
    """
    return _XGBOOST.match(_beginning(file)) is not None


def is_lightgbm(file: Path) -> bool:
    """Match LightGBM's text form, whose first line is the name of the boosting's class."""
    return _LIGHTGBM.match(_beginning(file)) is not None


def _nothing(path: Path, kind: str) -> str:
    names = sorted(file.name for file in path.iterdir())
    listed = ", ".join(names[:_MOST_SHOWN]) + (", ..." if len(names) > _MOST_SHOWN else "")
    there = f"it holds {listed}" if names else "it is empty"
    if kind != AUTO:
        return f"has no file of the kind {kind}: {there} (--model_kind)"
    return f"has no {MLMODEL} file, and no file of another known kind: {there} (--model_kind)"
