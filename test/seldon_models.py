"""Models for the tests of Seldon's dialect, and the functions that save them; see `models.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import cloudpickle
import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from models import save

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Columns(mlflow.pyfunc.PythonModel):
    """Saved with the columns a (double) and n (long); gives a frame, and hears feedback.

    A value of a below 0 makes it fail, and 1000 or more an answer of text.
    """

    heard: tuple = ()

    def predict(self, context, model_input, params=None):
        kinds = [str(dtype) for dtype in model_input.dtypes]
        assert kinds == ["float64", "int64"], kinds
        if (model_input["a"] < 0).any():
            raise RuntimeError("a secret of the model's")
        total = model_input["a"] + model_input["n"]
        if (model_input["a"] >= 1000).any():
            return pd.DataFrame({"total": total.astype(str)})
        return pd.DataFrame({"total": total, "double": 2 * total})

    def send_feedback(self, features, feature_names, reward, truth, routing=None):
        if reward == 13:
            raise RuntimeError("a secret of the model's")
        told = [type(features).__name__, type(truth).__name__]
        shapes = [getattr(value, "shape", None) for value in (features, truth)]
        return {
            "told": told,
            "shapes": shapes,
            "names": feature_names,
            "reward": reward,
            "routing": routing,
        }


class Whatever(mlflow.pyfunc.PythonModel):
    """Saved without a signature; doubles arrays, and tells of all else what it was handed."""

    def predict(self, context, model_input, params=None):
        if isinstance(model_input, np.ndarray):
            return model_input * 2 if model_input.dtype.kind in "iuf" else model_input
        if isinstance(model_input, str):
            return model_input.upper()
        if isinstance(model_input, bytes):
            return model_input[::-1]
        return {"type": type(model_input).__name__, "held": model_input}


class Halved(mlflow.pyfunc.PythonModel):
    """Saved with a tensor of float32, shape (-1, 2); gives an array of the same type."""

    def predict(self, context, model_input, params=None):
        assert model_input.dtype == np.float32, model_input.dtype
        return model_input / 2


class OldWay(mlflow.pyfunc.PythonModel):
    """Takes the body and keywords, and tells what it was handed."""

    def predict(self, model_input, **kwargs):
        return f"{type(model_input).__name__} of {len(model_input)}"


def _columns(names: tuple[str, ...], types: tuple[str, ...]) -> Schema:
    return Schema([ColSpec(kind, name) for name, kind in zip(names, types, strict=True)])


def save_columns(path: Path) -> Path:
    signature = ModelSignature(
        _columns(("a", "n"), ("double", "long")),
        _columns(("total", "double"), ("double", "double")),
    )
    return save(Columns(), path, signature=signature)


def save_whatever(path: Path) -> Path:
    return save(Whatever(), path)


def save_halved(path: Path) -> Path:
    tensor = Schema([TensorSpec(np.dtype("float32"), (-1, 2))])
    return save(Halved(), path, signature=ModelSignature(tensor, tensor))


def save_old_way(path: Path) -> Path:
    return save(OldWay(), path)
