"""ONNX graphs, run by ONNX Runtime on what it has been built for, the CPU last.

The runtime makes threads of its own when a session is made, one fewer than it is given: with one
there are none, and the loaded graph can be shared by forked workers; with more each worker loads.
``OMP_NUM_THREADS``, which the server sets, says how many. The telemetry that it has since 1.29, on
a thread of its own, is off, as MLflow's is.
https://onnxruntime.ai/docs/performance/tune-performance/threading.html
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.kinds import artefact
from pyfuncserver.model.kinds.artefact import Artefact, Options, Params, Unloadable, module
from pyfuncserver.model.rectangle import columns_of

Array = np.ndarray[Any, Any]

_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.str_,
    **{
        f"tensor({kind}{bits})": np.dtype(f"{kind}{bits}")
        for kind in ("int", "uint")
        for bits in (8, 16, 32, 64)
    },
}
_MAPS = {"seq(map(int64,tensor(float)))": np.float32, "seq(map(string,tensor(float)))": np.float32}
"""What scikit-learn's converter has classifiers give: for each row a probability by class."""
_REMOTE = "AzureExecutionProvider"
"""Is always listed, and runs nothing here: it calls a service."""


class Spec(NamedTuple):
    """A tensor of a graph; -1 for a size that is free."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def load(path: Path, options: Options) -> Artefact:  # noqa: ARG001
    """Load a file. Raises: Unloadable"""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is imported
    runtime = module("onnxruntime")
    wishes = runtime.SessionOptions()
    wishes.intra_op_num_threads = _threads()
    wishes.inter_op_num_threads = 1
    providers = [name for name in runtime.get_available_providers() if name != _REMOTE]
    try:
        session = runtime.InferenceSession(str(path), wishes, providers=providers)
    except Exception as error:
        reason = artefact.reason_of(error).replace(str(path), path.name)
        raise Unloadable(f"{path.name} cannot be read by ONNX Runtime: {reason}") from error
    return Graph(session)


def _threads() -> int:
    """Give the threads of a session; 0 leaves that to the runtime."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() else 0


class Graph(Artefact):
    """A session of a graph; see :class:`~.artefact.Artefact`."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._inputs = [_spec(it) for it in session.get_inputs()]
        self._outputs = [it.name for it in session.get_outputs()]

    @property
    def signature(self) -> Any:
        outputs = [_spec(it, _MAPS) for it in self._session.get_outputs()]
        return artefact.signature(artefact.tensors(self._inputs), artefact.tensors(outputs), {})

    def read(self, data: Any) -> Any:
        by_name = self._by_name(data)
        missing = [spec.name for spec in self._inputs if spec.name not in by_name]
        if missing:
            raise InvalidInput(f"The model takes inputs that are not there: {', '.join(missing)}")
        return {spec.name: _tensor(by_name[spec.name], spec) for spec in self._inputs}

    def _by_name(self, data: Any) -> dict[str, Any]:
        only = self._inputs[0].name if len(self._inputs) == 1 else None
        if isinstance(data, pd.DataFrame):
            if only is not None and only not in data.columns:
                return {only: data.to_numpy()}
            return {str(name): _cells(column) for name, column in data.items()}
        if isinstance(data, list) and data and isinstance(data[0], dict):
            data = columns_of(data)
            if data is None:
                raise InvalidInput("The rows have not all the same names")
        if isinstance(data, dict):
            return data
        if only is None:
            names = ", ".join(spec.name for spec in self._inputs)
            raise InvalidInput(f"The model takes its inputs by name: {names}")
        return {only: data}

    def predict(self, data: Any, params: Params | None = None) -> Any:  # noqa: ARG002
        try:
            found = self._session.run(self._outputs, data)
        except Exception as error:
            if type(error).__name__ == "InvalidArgument":  # its class is in a private module
                raise InvalidInput("The inputs do not fit the model's graph") from error
            raise
        answers = {name: _of_maps(value) for name, value in zip(self._outputs, found, strict=True)}
        return answers if len(answers) > 1 else answers[self._outputs[0]]


def _spec(tensor: Any, others: dict[str, Any] | None = None) -> Spec:
    """Raises: Unloadable for what is no tensor."""
    if others and tensor.type in others:
        return Spec(tensor.name, np.dtype(others[tensor.type]), (-1, -1))
    dtype = _DTYPES.get(tensor.type)
    if dtype is None:
        raise Unloadable(f"{tensor.name!r} is a {tensor.type}: only tensors are served")
    shape = tuple(size if isinstance(size, int) and size > 0 else -1 for size in tensor.shape)
    return Spec(tensor.name, np.dtype(dtype), shape)


def _cells(column: Any) -> Any:
    """Give a frame's column; one of lists as a list of those."""
    return column.tolist() if column.dtype == object else column.to_numpy()


def _tensor(values: Any, spec: Spec) -> Array:
    array = _array(values, spec)
    if array.ndim == 1 and len(spec.shape) == 2 and spec.shape[1] == 1:
        array = array.reshape(-1, 1)
    fits = array.ndim == len(spec.shape) and all(
        size in (-1, found) for size, found in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise InvalidInput(f"Input {spec.name!r} is of the shape {list(spec.shape)}")
    return array


def _array(values: Any, spec: Spec) -> Array:
    """Make an array of the graph's type, where that loses no more than precision."""
    try:
        array = np.asarray(values)
        if spec.dtype.kind == "U":
            array = np.asarray(values, dtype=object)
            if all(isinstance(cell, str) for cell in array.reshape(-1)):
                return array
        elif array.dtype.kind == "O" or np.can_cast(array.dtype, spec.dtype, "same_kind"):
            made = np.asarray(values, spec.dtype)
            if spec.dtype.kind not in "iu" or np.array_equal(made, array):
                return made
    except (TypeError, ValueError, OverflowError):
        pass
    kind = "string" if spec.dtype.kind == "U" else spec.dtype.name
    raise InvalidInput(f"Input {spec.name!r} holds what is no {kind}, or rows of several lengths")


def _of_maps(value: Any) -> Any:
    """Give a row for each map, its values in the order of the classes."""
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return value
    return np.array([[row[name] for name in value[0]] for row in value], np.float32)
