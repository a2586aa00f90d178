"""Models that take tensors, for the tests of the Open Inference Protocol over gRPC."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import cloudpickle
import mlflow.pyfunc
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

cloudpickle.register_pickle_by_value(sys.modules[__name__])

SECRET = "the model's own secret"


class Acting(mlflow.pyfunc.PythonModel):
    """Gives its inputs back; before that it does what the names of some of them say."""

    def predict(self, context, model_input, params=None):
        if not isinstance(model_input, dict):
            return model_input
        if "seconds" in model_input:
            time.sleep(float(model_input["seconds"][0]))
        if "fail" in model_input:
            raise RuntimeError(SECRET)
        if "odd" in model_input:
            return object()
        if "pid" in model_input:
            return {"pid": np.array([os.getpid()])}
        return model_input


class Scaling(mlflow.pyfunc.PythonModel):
    """Multiplies x, of three columns; its signature names what it takes and gives."""

    def predict(self, context, model_input, params=None):
        scaled = model_input["x"] * np.float32(params["factor"])
        return {"y": scaled, "rows": np.array([len(scaled)])}


def save_scaling(path: Path) -> Path:
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 3), "x")]),
        outputs=Schema(
            [
                TensorSpec(np.dtype("float32"), (-1, 3), "y"),
                TensorSpec(np.dtype("int64"), (1,), "rows"),
            ]
        ),
        params=ParamSchema([ParamSpec("factor", DataType.double, 2.0)]),
    )
    return save(Scaling(), path, signature=signature)


def save(model: mlflow.pyfunc.PythonModel, path: Path, **options: object) -> Path:
    mlflow.pyfunc.save_model(str(path), python_model=model, pip_requirements=[], **options)
    return path
