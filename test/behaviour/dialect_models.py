"""The model of `test_dialects.py`, and what may be asked of it; see `models.py`."""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

import cloudpickle
import mlflow.pyfunc
import pandas as pd
import prometheus_client
import tornado.web
from behaviour.dialects import COUNT, FAIL, GATE, HOLD, MISSING, NONSENSE, REFUSE, REFUSED, SECRET
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

# The daemon can import neither module, so the model carries both with it.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

LONGEST_HOLD_S = 20


class Acting(mlflow.pyfunc.PythonModel):
    """Saved with the columns do and x, both double; gives twice x, or does what do says."""

    def load_context(self, context):
        self.calls = prometheus_client.Counter("model_calls", "Rows that said count.")

    def predict(self, context, model_input, params=None):
        do, x = int(model_input["do"].iloc[0]), model_input["x"]
        if do == FAIL:
            raise RuntimeError(SECRET)
        if do == REFUSE:
            raise tornado.web.HTTPError(422, reason=REFUSED)
        if do == NONSENSE:
            return object()
        if do == HOLD:
            hold(Path(os.environ[GATE]) / str(int(x.iloc[0])))
        if do == COUNT:
            self.calls.inc()
        if do == MISSING:
            return pd.DataFrame({"total": [math.nan] * len(x)})
        return pd.DataFrame({"total": 2 * x})


def hold(gate: Path) -> None:
    """Return when the gate is there."""
    deadline = time.monotonic() + LONGEST_HOLD_S
    while not gate.exists() and time.monotonic() < deadline:
        time.sleep(0.002)


def save_acting(path: Path) -> Path:
    columns = [ColSpec(DataType.double, name) for name in ("do", "x")]
    signature = ModelSignature(Schema(columns), Schema([ColSpec(DataType.double, "total")]))
    mlflow.pyfunc.save_model(
        str(path), python_model=Acting(), signature=signature, pip_requirements=[]
    )
    return path
