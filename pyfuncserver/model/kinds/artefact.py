"""What the kinds have in common: an artefact that is loaded, and how it becomes a pyfunc model."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyfuncserver.errors import InvalidInput

Params = dict[str, Any]

EXTRAS = {
    "sklearn": "sklearn",
    "joblib": "sklearn",
    "skops": "sklearn",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "onnxruntime": "onnx",
    "torch": "huggingface",
    "transformers": "huggingface",
}
"""Which of setup.py's extras brings a module."""


class Unloadable(Exception):
    """Says in one line why an artefact cannot be loaded."""


@dataclass(frozen=True)
class Options:
    """What the settings say of how a model is loaded."""

    kind: str = "auto"
    predict_proba: bool = False
    skops_trusted: tuple[str, ...] = ()
    task: str = ""
    """Of a Hugging Face model; empty for what its configuration says."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What an MLflow model is loaded with in the place of what it was saved with."""


class Artefact(ABC):
    """A model of some library. Thread-safe where the library's is.

    Its input is prepared apart from the prediction, as ``plain.PlainModel`` divides them.
    """

    streams = False
    """Whether it has a ``predict_stream``."""

    @property
    @abstractmethod
    def signature(self) -> Any:
        """The ``ModelSignature`` that tells clients what it takes and gives; nobody enforces it.

        Its params are: what a call has beyond them is dropped, as MLflow does.
        """

    @abstractmethod
    def read(self, data: Any) -> Any:
        """Make what :meth:`predict` takes of what a call holds.

        That is what JSON has (rows as lists or dicts, columns by name), or a frame, an array, or a
        dict of arrays. The result's rows are what batches are put together of; see ``rows.py``.
        Raises: InvalidInput
        """

    @abstractmethod
    def predict(self, data: Any, params: Params | None = None) -> Any:
        """Give predictions for what :meth:`read` has made."""

    def params_for(self, outputs: Sequence[str], given: Params) -> Params:  # noqa: ARG002
        """Give the params that make it answer with the outputs that a V2 client asks for.

        ``given`` are the call's own, which these are put over.
        """
        return {}


def artefact_of(model: Any) -> Artefact | None:
    """Find the artefact behind a pyfunc model; None where MLflow has loaded something itself."""
    found = getattr(model, "_model_impl", None)
    return found if isinstance(found, Artefact) else None


def module(name: str) -> Any:
    """Import a library that a kind needs. Raises: Unloadable, which names the extra"""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Unloadable(missing(error)) from error


def missing(error: ModuleNotFoundError) -> str:
    """Say which module is not there, and how it is got where that is known."""
    name = str(error.name or error)
    extra = EXTRAS.get(name.partition(".")[0])
    advice = f": pip install 'pyfuncserver[{extra}]'" if extra else ""
    return f"it needs the module {name}, which is not installed{advice}"


def reason_of(error: BaseException) -> str:
    """Give an error of a library's as one line, without its stack of causes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"[:LONGEST_REASON]


LONGEST_REASON = 300


def signature(inputs: Any, outputs: Any, params: Mapping[str, tuple[str, Any]]) -> Any:
    """Make a ``ModelSignature``: of params each has MLflow's type and a default, which may be None.

    MLflow before 2.6 knows no params: there calls have none.
    """
    from mlflow.models import ModelSignature

    known = _params_schema(params)
    if known is not None:
        return ModelSignature(inputs, outputs, known)
    return None if inputs is None and outputs is None else ModelSignature(inputs, outputs)


def _params_schema(params: Mapping[str, tuple[str, Any]]) -> Any:
    try:
        from mlflow.types.schema import ParamSchema, ParamSpec
    except ImportError:
        return None
    specs = [ParamSpec(name, kind, default) for name, (kind, default) in params.items()]
    return ParamSchema(specs) if specs else None


def way(known: Sequence[str], params: Params | None) -> dict[str, bool]:
    """Give the one of a booster's ways to answer that a call's params ask for; none for its usual.

    Raises: InvalidInput
    """
    wanted = [name for name in known if (params or {}).get(name)]
    if len(wanted) > 1:
        raise InvalidInput(f"A call has one way to be answered, not {' and '.join(wanted)}")
    return dict.fromkeys(wanted, True)


def tensors(specs: Iterable[tuple[str | None, Any, tuple[int, ...]]]) -> Any:
    """Make a schema of tensors, each with a name (None for the only one), a type and a shape."""
    import numpy as np
    from mlflow.types import Schema, TensorSpec

    return Schema([TensorSpec(np.dtype(dtype), shape, name) for name, dtype, shape in specs])


def columns(types: Mapping[str, str]) -> Any:
    """Make a schema of columns, each with a name and the name of MLflow's type."""
    from mlflow.types import ColSpec, Schema

    return Schema([ColSpec(kind, name) for name, kind in types.items()])


def pyfunc_of(artefact: Artefact, kind: str) -> Any:
    """Give a ``PyFuncModel`` whose input nobody touches before the artefact reads it."""
    from mlflow.models import Model
    from mlflow.pyfunc import PyFuncModel

    class Metadata(Model):
        def get_input_schema(self) -> None:
            """Have MLflow neither convert nor enforce: the artefact does."""

    flavour: Params = {"loader_module": f"{__package__}.{kind}"}
    metadata = Metadata(signature=artefact.signature)
    if not artefact.streams:
        return PyFuncModel(metadata.add_flavor("python_function", **flavour), artefact)
    metadata.add_flavor("python_function", streamable=True, **flavour)
    return PyFuncModel(metadata, artefact, predict_stream_fn="predict_stream")
