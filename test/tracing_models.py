"""Models that are traced, and one that takes parameters.

Import this module where warnings are not errors, as `models.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cloudpickle
import mlflow.pyfunc
import models
import numpy as np

cloudpickle.register_pickle_by_value(sys.modules[__name__])

DEFAULTS = {"threshold": 0.5, "mode": "fast"}


class Traced(mlflow.pyfunc.PythonModel):
    """Gives back what it gets, within a span of its own; fails where a number is negative."""

    def predict(self, context, model_input, params=None):
        from opentelemetry import trace

        with trace.get_tracer("its-own").start_as_current_span("inside"):
            if (np.asarray(model_input) < 0).any():
                raise ValueError(models.SECRET)
            return model_input

    def predict_stream(self, context, model_input, params=None):
        from opentelemetry import trace

        for number in range(3):
            with trace.get_tracer("its-own").start_as_current_span("inside"):
                pass
            yield {"number": number}


class Configured(mlflow.pyfunc.PythonModel):
    """Tells what it was loaded with, and what it sees when it is called."""

    def load_context(self, context):
        self.loaded_with = context.model_config

    def predict(self, context, model_input, params=None):
        return {"loaded": self.loaded_with, "called": context.model_config}


class LegacyConfigured(mlflow.pyfunc.PythonModel):
    """The same, as models were before MLflow's context."""

    def load_context(self, context):
        self.loaded_with = context.model_config

    def predict(self, model_input, **kwargs):
        return {"loaded": self.loaded_with}


class MerlinConfigured(models.PyFuncModel):
    """The same, with the base class of Merlin's SDK, which hands on no more than artifacts."""

    def load_context(self, context):
        super().load_context(context)
        self.loaded_with = context.model_config

    def initialize(self, artifacts: Any) -> None:
        pass

    def infer(self, request: Any, **kwargs: Any) -> Any:
        return {"loaded": self.loaded_with}


def save_traced(path: Path) -> Path:
    return models.save(Traced(), path)


def save_configured(path: Path) -> Path:
    return models.save(Configured(), path, model_config=DEFAULTS)


def save_legacy_configured(path: Path) -> Path:
    return models.save(LegacyConfigured(), path, model_config=DEFAULTS)


def save_merlin_configured(path: Path) -> Path:
    return models.save(MerlinConfigured(), path, model_config=DEFAULTS)
