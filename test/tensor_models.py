"""Models with signatures that only tensors fill; see ``models.py``, beside which they are saved."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Doubled(mlflow.pyfunc.PythonModel):
    """Takes float32 (-1, 3); gives twice that."""

    def predict(self, context, model_input, params=None):
        assert model_input.flags.writeable
        return model_input * 2


class Named(mlflow.pyfunc.PythonModel):
    """Takes a: float64 (-1, 2) and b: int64 (-1,); gives sum: float64 (-1,) and b as it came."""

    def predict(self, context, model_input, params=None):
        return {"sum": model_input["a"].sum(axis=1), "b": model_input["b"]}


class Columns(mlflow.pyfunc.PythonModel):
    """Takes a string, a binary and a date for each row; tells of each by a column."""

    def predict(self, context, model_input, params=None):
        return pd.DataFrame(
            {
                "text": model_input["text"].str.upper(),
                "blob": [cell[::-1] for cell in model_input["blob"]],
                "day": model_input["day"] + pd.Timedelta(days=1),
                "sign": [params["sign"] * params["times"]] * len(model_input),
            }
        )


class Told(mlflow.pyfunc.PythonModel):
    """Tells what it was handed: its type, and that of its parts."""

    def predict(self, context, model_input, params=None):
        if isinstance(model_input, pd.DataFrame):
            parts = {str(name): str(column.dtype) for name, column in model_input.items()}
        elif isinstance(model_input, dict):
            parts = {name: _told(array) for name, array in model_input.items()}
        else:
            parts = {"": _told(model_input)}
        told = {"type": type(model_input).__name__, **parts}
        return {name: [said] for name, said in told.items()}


def _told(array: Any) -> str:
    first = type(array.reshape(-1)[0]).__name__ if array.size else "nothing"
    return f"{array.dtype} {list(array.shape)} {first}"


def _save(model: Any, path: Path, signature: ModelSignature | None = None) -> Path:
    mlflow.pyfunc.save_model(
        str(path), python_model=model, signature=signature, pip_requirements=[]
    )
    return path


def save_doubled(path: Path) -> Path:
    spec = TensorSpec(np.dtype("float32"), (-1, 3))
    return _save(Doubled(), path, ModelSignature(Schema([spec]), Schema([spec])))


def save_named(path: Path) -> Path:
    inputs = [
        TensorSpec(np.dtype("float64"), (-1, 2), "a"),
        TensorSpec(np.dtype("int64"), (-1,), "b"),
    ]
    outputs = [TensorSpec(np.dtype("float64"), (-1,), "sum"), inputs[1]]
    return _save(Named(), path, ModelSignature(Schema(inputs), Schema(outputs)))


def save_columns(path: Path) -> Path:
    inputs = [
        ColSpec(DataType.string, "text"),
        ColSpec(DataType.binary, "blob"),
        ColSpec(DataType.datetime, "day"),
    ]
    params = [ParamSpec("sign", "string", "!"), ParamSpec("times", "long", 1)]
    signature = ModelSignature(Schema(inputs), params=ParamSchema(params))
    return _save(Columns(), path, signature)


def save_told(path: Path) -> Path:
    return _save(Told(), path)
