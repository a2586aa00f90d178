"""Models that can be told apart by what they answer, for tests of repositories."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cloudpickle
import mlflow.pyfunc
import numpy as np

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Marked(mlflow.pyfunc.PythonModel):
    """Answers its mark and its process for each row."""

    def __init__(self, mark: int) -> None:
        self.mark = mark

    def predict(self, context, model_input, params=None):
        return np.array([[self.mark, os.getpid()]] * len(model_input))


class Broken(mlflow.pyfunc.PythonModel):
    """Fails to load."""

    def load_context(self, context):
        raise KeyError("weights are missing")

    def predict(self, context, model_input, params=None):
        return model_input


def save(model: mlflow.pyfunc.PythonModel, path: Path) -> Path:
    mlflow.pyfunc.save_model(str(path), python_model=model, pip_requirements=[])
    return path
