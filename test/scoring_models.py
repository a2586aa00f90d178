"""Models for the behaviour tests of MLflow's scoring protocol. See ``models.py``."""

from __future__ import annotations

import datetime
import math
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow.pyfunc
import models
import numpy as np
import pandas as pd
import tornado.web
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

cloudpickle.register_pickle_by_value(sys.modules[__name__])

SECRET = "what only the log may hold"


class Scored(mlflow.pyfunc.PythonModel):
    """Answers each column's type, its values and the params, or does what the column ``do`` says.

    LLM input is answered as it comes.
    """

    def predict(self, context, model_input, params=None):
        if not isinstance(model_input, pd.DataFrame):
            return {"input": model_input, "params": params}
        commands = {"raise": fail, "refuse": refuse, "types": types, "set": lambda: {object()}}
        do = str(model_input["s"].iloc[0])
        if do in commands:
            return commands[do]()
        found = {name: model_input[name].tolist() for name in model_input}
        return {"columns": found, "index": model_input.index.tolist(), "params": params}


def fail() -> None:
    raise ValueError(SECRET)


def refuse() -> None:
    raise tornado.web.HTTPError(422, reason="no such user")


def types() -> pd.DataFrame:
    moment = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc)
    return pd.DataFrame(
        {
            "float": [math.nan, math.inf, np.float32(0.1)],
            "bytes": [b"\0\xff"] * 3,
            "at": [moment] * 3,
            "list": [[1, math.nan], np.array([0.5]), None],
        }
    )


def save_scored(path: Path) -> Path:
    """Save it with the columns n (double), s (string) and o (long, optional), and a param."""
    columns = [
        ColSpec(DataType.double, "n"),
        ColSpec(DataType.string, "s"),
        ColSpec(DataType.long, "o", required=False),
    ]
    params = ParamSchema([ParamSpec("level", DataType.long, 3)])
    signature = ModelSignature(inputs=Schema(columns), params=params)
    return models.save(Scored(), path, signature=signature)


class Hinted(mlflow.pyfunc.PythonModel):
    """Its signature comes from its type hints, so it takes what MLflow has not converted."""

    def predict(self, model_input: list[dict[str, float]], params=None) -> list[Any]:
        return [sum(row.values()) for row in model_input]


class Typed(mlflow.pyfunc.PythonModel):
    """Answers what MLflow hands it, by the names of types."""

    def predict(self, context, model_input, params=None):
        return {
            name: [type(column).__name__, *(repr(value) for value in column)]
            for name, column in as_columns(model_input).items()
        }


def as_columns(data: Any) -> dict[str, Any]:
    if isinstance(data, pd.DataFrame):
        return {str(name): data[name].tolist() for name in data}
    if isinstance(data, dict):
        return {name: np.asarray(values).tolist() for name, values in data.items()}
    return {"": np.asarray(data).tolist()}
