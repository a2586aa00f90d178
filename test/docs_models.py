"""Models whose documentation is put to the test, by what their signatures and examples are.

Import this module where warnings are not errors, as ``models``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow.pyfunc
import mlflow.sklearn
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array, Map, Object, Property
from sklearn.dummy import DummyRegressor

cloudpickle.register_pickle_by_value(sys.modules[__name__])


# "dummy" answers whatever the signature lets in, also no rows at all, so that what fails is ours.


class Echo(mlflow.pyfunc.PythonModel):
    """Returns what MLflow hands it."""

    def predict(self, context, model_input, params=None):
        return model_input


class Hinted(mlflow.pyfunc.PythonModel):
    """Takes and gives a list, as its type hints say."""

    def predict(self, model_input: list[str]) -> list[str]:
        return [text.upper() for text in model_input]


FRAME = pd.DataFrame(
    {
        "a": [1.5, 2.5],
        "n": [1, 2],
        "s": ["x", "y"],
        "flag": [True, False],
        "when": pd.to_datetime(["2024-02-29"] * 2),
        "raw": [b"\0\1", b"\2"],
    }
)
NUMBERS = pd.DataFrame(
    {
        "a": [1.0, 2.0, 4.0],
        "n": [3, 2, 1],
        "f": np.array([0.5, 1, 2], "f4"),
        "b": [True, False, True],
    }
)


def _signed(specs: list[Any]) -> ModelSignature:
    return ModelSignature(Schema(specs), Schema(specs))


def _tensor(dtype: str, shape: tuple[int, ...], name: str | None = None) -> TensorSpec:
    return TensorSpec(np.dtype(dtype), shape, name)


_PICKLED: dict[str, dict[str, Any]] = {
    "no_signature": {},
    "an_example_alone": {"input_example": np.ones((2, 3))},
    "columns": {"signature": infer_signature(FRAME, FRAME, {"k": 3}), "input_example": FRAME},
    "columns_alone": {"signature": infer_signature(FRAME, FRAME)},
    "lists_and_objects": {
        "signature": _signed(
            [
                ColSpec(Array(DataType.double), "list"),
                ColSpec(Object([Property("x", DataType.long)]), "object"),
                ColSpec(DataType.string, "maybe", required=False),
            ]
        )
    },
    "lists": {"signature": _signed([ColSpec(Array(DataType.double), "list")])},
    "objects": {"signature": _signed([ColSpec(Object([Property("x", DataType.long)]), "object")])},
    "maps": {"signature": _signed([ColSpec(Map(DataType.double), "m"), ColSpec(AnyType(), "any")])},
    "text": {"signature": _signed([ColSpec(DataType.string, "s"), ColSpec(DataType.string, "t"),
                                   ColSpec(DataType.long, "n", required=False)])},
    "no_names": {"signature": _signed([ColSpec(DataType.double), ColSpec(DataType.double)])},
    "one_column": {"signature": _signed([ColSpec(DataType.string)])},
    "tensor": {"signature": _signed([_tensor("float32", (-1, 2))]),
               "input_example": np.ones((2, 2), "f4")},
    "tensor_alone": {"signature": _signed([_tensor("uint8", (-1, 2, 2))])},
    "named_tensor": {"signature": _signed([_tensor("int64", (-1, 2), "t")])},
    "tensors": {"signature": _signed([_tensor("int64", (-1, 2), "t"), _tensor("str", (-1,), "s")])},
}  # fmt: skip
NAMES = (*_PICKLED, "hinted", "dummy")


def save(name: str, path: Path) -> Path:
    """Save one of them."""
    if name == "dummy":
        model = DummyRegressor(strategy="constant", constant=0.5).fit(NUMBERS, [1.0, 2.0, 3.0])
        mlflow.sklearn.save_model(
            model,
            path,
            signature=infer_signature(NUMBERS, model.predict(NUMBERS)),
            input_example=NUMBERS,
            pip_requirements=[],
            serialization_format="cloudpickle",
        )
        return path
    python_model, extra = (Hinted(), {"input_example": ["a", "b"]}) if name == "hinted" else (
        Echo(), _PICKLED[name])  # fmt: skip
    mlflow.pyfunc.save_model(path, python_model=python_model, pip_requirements=[], **extra)
    return path
