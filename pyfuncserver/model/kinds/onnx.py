"""ONNX graphs, run by ONNX Runtime on what it has been built for, the CPU last.

The runtime makes threads of its own when a session is made, one fewer than it is given: with one
there are none, and the loaded graph can be shared by forked workers; with more each worker loads.
``OMP_NUM_THREADS``, which the server sets, says how many. The telemetry that it has since 1.29, on
a thread of its own, is off, as MLflow's is.
https://onnxruntime.ai/docs/performance/tune-performance/threading.html
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.kinds import artefact
from pyfuncserver.model.kinds.artefact import Artefact, Options, Params, Unloadable, module
from pyfuncserver.model.kinds.table import cells, natural, values_of
from pyfuncserver.model.rectangle import columns_of

log = logging.getLogger(__name__)

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
_REFUSALS = ("InvalidArgument", "Fail")
"""The errors, in a private module, of an operator that its inputs do not fit, or without room."""
_NO_ROOM = "Failed to allocate memory"
_FATAL = 4
"""The runtime's level of logging: it would print what it raises as well."""


class Spec(NamedTuple):
    """A tensor of a graph; -1 for a size that is free, no sizes where nothing is said of them."""

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
    quiet = runtime.RunOptions()
    quiet.log_severity_level = _FATAL
    return Graph(session, quiet)


def _threads() -> int:
    """Give the threads of a session; 0 leaves that to the runtime."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() else 0


class Graph(Artefact):
    """A session of a graph; see :class:`~.artefact.Artefact`."""

    def __init__(self, session: Any, options: Any) -> None:
        self._session = session
        self._options = options
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
            found = self._session.run(self._outputs, data, self._options)
        except Exception as error:
            if type(error).__name__ not in _REFUSALS or _NO_ROOM in str(error):
                raise
            log.debug("the graph does not take its inputs", exc_info=error)
            what = "The inputs do not fit the model's graph, or one another"
            raise InvalidInput(what) from error
        answers = {name: _of_maps(value) for name, value in zip(self._outputs, found, strict=True)}
        return answers if len(answers) > 1 else answers[self._outputs[0]]


def _spec(tensor: Any, others: dict[str, Any] | None = None) -> Spec:
    """Raises: Unloadable for what is no tensor, or one of a type that NumPy does not have."""
    if others and tensor.type in others:
        return Spec(tensor.name, np.dtype(others[tensor.type]), (-1, -1))
    dtype = _DTYPES.get(tensor.type)
    if dtype is None:
        raise Unloadable(f"{tensor.name!r} is a {tensor.type}, which is not served")
    shape = tuple(size if isinstance(size, int) and size > 0 else -1 for size in tensor.shape)
    return Spec(tensor.name, np.dtype(dtype), shape)


def _cells(column: Any) -> Any:
    """Give a frame's column; one of lists as a list of those."""
    return column.tolist() if column.dtype == object else values_of(column)


def _tensor(values: Any, spec: Spec) -> Array:
    array = _array(values, spec)
    if array.ndim == 1 and len(spec.shape) == 2 and spec.shape[1] == 1:
        array = array.reshape(-1, 1)
    fits = not spec.shape or (
        array.ndim == len(spec.shape)
        and all(size in (-1, found) for size, found in zip(spec.shape, array.shape, strict=True))
    )
    if not fits:
        raise InvalidInput(f"Input {spec.name!r} is of the shape {list(spec.shape)}")
    return array


def _array(values: Any, spec: Spec) -> Array:
    """Make an array of the graph's type, where that loses no more than precision."""
    is_text = spec.dtype.kind == "U"
    try:
        array = _texts(cells(values)) if is_text else _numbers(natural(values), spec.dtype)
    except FloatingPointError:
        raise InvalidInput(f"Input {spec.name!r} has a number that is too large") from None
    except InvalidInput as error:
        log.debug("an input is no array: %s", error)
        array = None
    if array is None:
        kind = "string" if is_text else spec.dtype.name
        what = f"Input {spec.name!r} holds what is no {kind}, or rows of several lengths"
        raise InvalidInput(what)
    return array


def _texts(array: Array) -> Array | None:
    return array if all(isinstance(cell, str) for cell in array.reshape(-1)) else None


def _numbers(array: Array, dtype: np.dtype[Any]) -> Array | None:
    """Raises: FloatingPointError for what would be infinite"""
    are_integers = array.dtype.kind in "iu" and dtype.kind in "iu"
    if not are_integers and not np.can_cast(array.dtype, dtype, "same_kind"):
        return None
    with np.errstate(over="raise"):
        made = array.astype(dtype, copy=False)
    return made if dtype.kind not in "iu" or np.array_equal(made, array) else None


def _of_maps(value: Any) -> Any:
    """Give a row for each map, its values in the order of the classes."""
    if not isinstance(value, list):
        return value
    if not value:
        return np.empty((0, 0), np.float32)
    return np.array([[row[name] for name in value[0]] for row in value], np.float32)
