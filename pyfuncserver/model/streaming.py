"""Models that answer in parts: by MLflow's ``predict_stream``, or a ``predict`` with an iterator.

>>> class Words(mlflow.pyfunc.PythonModel):
...     def predict_stream(self, context, model_input, params=None):
...         yield from model_input.split()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

PredictStream = Callable[[Any, dict[str, Any] | None], Iterator[Any]]
"""Takes an input and its params. MLflow enforces the signature when the first part is asked for."""


def predict_stream_of(model: Any) -> PredictStream | None:
    """Find a pyfunc model's ``predict_stream``, which MLflow has since 2.12; None for no such one.

    Every ``PyFuncModel`` has the method; that its flavour has one too is said in ``MLmodel``.
    """
    flavours = getattr(model.metadata, "flavors", None) or {}
    if not flavours.get("python_function", {}).get("streamable"):
        return None
    found: PredictStream | None = getattr(model, "predict_stream", None)
    return found


def is_stream(value: Any) -> bool:
    """Tell whether a model has answered with the parts of its answer, which it makes on demand."""
    return isinstance(value, Iterator)


def whole(value: Any) -> Any:
    """Give an answer as a whole: the list of its parts, where it comes in such."""
    return list(value) if is_stream(value) else value


def is_about_several(traceback: TracebackType | None) -> bool:
    """Tell that MLflow's own ``predict_stream`` has refused more than one input."""
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    return code.co_name == "_predict_stream" and "mlflow" in code.co_filename
