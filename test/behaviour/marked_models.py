"""Models that can be told apart by what they answer, for tests of repositories."""

from __future__ import annotations

import os
import sys
import threading
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


class Unrehearsed(mlflow.pyfunc.PythonModel):
    """Fails at its own example."""

    def predict(self, context, model_input, params=None):
        raise KeyError("features are missing")


class Deadly(mlflow.pyfunc.PythonModel):
    """Ends the process that loads it."""

    def load_context(self, context):
        os._exit(3)

    def predict(self, context, model_input, params=None):
        return model_input


class Endless(mlflow.pyfunc.PythonModel):
    """Is never loaded."""

    def load_context(self, context):
        threading.Event().wait()

    def predict(self, context, model_input, params=None):
        return model_input


CODE = """
import mlflow.pyfunc
import numpy as np

from marks import MARK

class Coded(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        import late_marks

        return np.array([[MARK, late_marks.MARK]] * len(model_input))

mlflow.models.set_model(Coded())
"""


def save_coded(mark: int, path: Path) -> Path:
    """Save a model that brings modules along, which say its mark."""
    code = path.with_name(f"{path.name}-code")
    code.mkdir()
    for module in ("marks", "late_marks"):
        (code / f"{module}.py").write_text(f"MARK = {mark}\n", encoding="utf-8")
    model = code / "coded.py"
    model.write_text(CODE, encoding="utf-8")
    modules = [str(code / "marks.py"), str(code / "late_marks.py")]
    before = list(sys.path)
    sys.path.insert(0, str(code))
    try:
        mlflow.pyfunc.save_model(
            str(path), python_model=str(model), code_paths=modules, pip_requirements=[]
        )
    finally:
        sys.path[:] = before
        sys.modules.pop("marks")
    return path


def save(model: mlflow.pyfunc.PythonModel, path: Path) -> Path:
    example = [[0]] if isinstance(model, Unrehearsed) else None
    mlflow.pyfunc.save_model(
        str(path), python_model=model, pip_requirements=[], input_example=example
    )
    return path
