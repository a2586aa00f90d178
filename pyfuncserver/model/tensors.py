"""What a V2 call's tensors are to a plain MLflow model, by its signature, or by what they say.

With a signature of columns they are a frame: a tensor for each column, or one table of all of
them. With one of tensors they are an array, or a dict of arrays by name. Without one it is the
array itself, or a dict, or what the call's ``content_type`` says; the content types are those that
MLServer's clients send: https://docs.seldon.ai/mlserver/user-guide/content-type.

Only what V2 has no datatype for is converted here, and what loses nothing; the rest is MLflow's.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from pyfuncserver.codec.frames import frame_from
from pyfuncserver.codec.tensors import BYTES, Array, Tensor, elements_of, objects_of, texts_of
from pyfuncserver.errors import InvalidInput
from pyfuncserver.model import padding
from pyfuncserver.model.call import Tensors
from pyfuncserver.model.rectangle import AS_IS, TABLE

Contents = tuple[str, Any, dict[str, Any] | None]
"""See :data:`pyfuncserver.model.plain.Contents`."""
Reader = Callable[[Tensors], Contents]

CONTENT_TYPE = "content_type"
LONGEST_SHOWN = 64
"""Characters of an input's name that a refusal repeats."""

_ISO_8601 = {"format": "ISO8601"} if int(pd.__version__.partition(".")[0]) >= 2 else {}


def reader_of(schema: Any, params_schema: Any, is_raw: bool) -> Reader:
    """Make the reader for a model's input schema, or for a model without one.

    ``is_raw`` tells that the model takes lists, as one with type hints does. The reader raises
    InvalidInput.
    """
    names = frozenset(spec.name for spec in params_schema.params) if params_schema else frozenset()
    read = _reading(schema, is_raw)

    def reader(payload: Tensors) -> Contents:
        known = {name: value for name, value in (payload.params or {}).items() if name in names}
        by_name = {tensor.name: tensor for tensor in payload.tensors}
        if len(by_name) < len(payload.tensors):
            raise InvalidInput("Two inputs have one name")
        if not by_name:
            raise InvalidInput("There are no inputs")
        return *read(payload), known or None

    return reader


def _reading(schema: Any, is_raw: bool) -> Callable[[Tensors], tuple[str, Any]]:
    if schema is None:
        return _list if is_raw else _untyped
    if schema.is_tensor_spec():
        return partial(_arrays, schema) if schema.has_input_names() else partial(_array, schema)
    if not is_raw:
        table = _Table(schema)
        return lambda payload: (TABLE, table.frame_of(payload.tensors))
    return _records if schema.has_input_names() or _is_object(schema) else _list


def _is_object(schema: Any) -> bool:
    """Tell whether the only input is an object, or a map: a row whose columns have the names."""
    kind = schema.inputs[0].type
    return hasattr(kind, "properties") or hasattr(kind, "value_type")


# Columns


class _Table:
    """Makes frames of a signature of columns, which may have no names."""

    def __init__(self, schema: Any) -> None:
        self._is_named = schema.has_input_names()
        self._types = {
            spec.name if self._is_named else place: spec.type
            for place, spec in enumerate(schema.inputs)
        }
        self._width = len(self._types)
        self._labels = self._labels_of(self._types)

    def _labels_of(self, names: Iterable[Any]) -> pd.Index[Any]:
        labels = list(names)
        return pd.Index(labels, dtype=object) if self._is_named else pd.RangeIndex(len(labels))

    def frame_of(self, tensors: list[Tensor]) -> pd.DataFrame:
        """Make a frame of a tensor for each column, or of one for all of them, in their order."""
        first = tensors[0]
        if len(tensors) == 1 and first.name not in self._types:
            values = first.values
            width = values.shape[1] if values.ndim == 2 else values.ndim
            if width == self._width:
                return self._of_all(first, values.reshape(len(values), width))
            if width > 1:
                named = _shown(first.name)
                raise InvalidInput(f"Input {named} has {width} columns, the model {self._width}")
        if not self._is_named:
            return self._of_each(dict(enumerate(tensors)))
        by_name: dict[Any, Tensor] = {tensor.name: tensor for tensor in tensors}
        if by_name.keys() == self._types.keys():  # in another order, perhaps
            by_name = {name: by_name[name] for name in self._types}
        return self._of_each(by_name)

    def _of_all(self, tensor: Tensor, values: Array) -> pd.DataFrame:
        if tensor.datatype != BYTES:
            return pd.DataFrame(values, columns=self._labels.view(), copy=False)
        columns = [Tensor(tensor.name, BYTES, part, tensor.parameters) for part in values.T]
        return self._of_each(dict(zip(self._types, columns, strict=True)))

    def _of_each(self, tensors: Mapping[Any, Tensor]) -> pd.DataFrame:
        columns = [_column(tensor, self._types.get(name)) for name, tensor in tensors.items()]
        return _framed(columns, self._labels_of(tensors))


def _framed(columns: list[Any], labels: pd.Index[Any]) -> pd.DataFrame:
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise InvalidInput("The inputs have several numbers of rows")
    return frame_from(columns, labels, pd.RangeIndex(lengths.pop()))


def _column(tensor: Tensor, kind: Any) -> Array:
    """Give what a frame keeps for a column; ``kind`` is MLflow's type, None for a stranger."""
    values = tensor.values
    if values.ndim == 2 and values.shape[1] == 1 and not hasattr(kind, "dtype"):
        values = values.reshape(-1)
    if values.ndim != 1:
        return _cells(tensor, values, kind)
    name = getattr(kind, "name", None)
    if tensor.datatype == BYTES:
        read = _READ_BYTES.get(str(tensor.parameters.get(CONTENT_TYPE, ""))) or _BYTES_OF.get(name)
        return (read or _texts_or_bytes)(tensor.name, values)
    return values


def _cells(tensor: Tensor, values: Array, kind: Any) -> Array:
    """Give a column of lists, as MLflow's ``Array`` is; nothing else holds more dimensions."""
    if values.ndim < 2 or (kind is not None and not hasattr(kind, "dtype")):
        raise InvalidInput(f"Input {_shown(tensor.name)} is a column: its shape is [n] or [n, 1]")
    if tensor.datatype == BYTES:
        values = _texts_or_bytes(tensor.name, values)
    return objects_of(list(values), (len(values),))


# Tensors


def _array(schema: Any, payload: Tensors) -> tuple[str, Any]:
    return AS_IS, _as_spec(_one(payload), schema.inputs[0].type)


def _arrays(schema: Any, payload: Tensors) -> tuple[str, Any]:
    types = {spec.name: spec.type for spec in schema.inputs}
    tensors = payload.tensors
    if len(tensors) == len(types) == 1 and tensors[0].name not in types:
        return AS_IS, {name: _as_spec(tensors[0], dtype) for name, dtype in types.items()}
    return AS_IS, {tensor.name: _as_spec(tensor, types.get(tensor.name)) for tensor in tensors}


def _as_spec(tensor: Tensor, dtype: Any) -> Array:
    """Give a tensor as its spec's type where that loses nothing; MLflow refuses the others."""
    values = tensor.values
    if dtype is None:
        return values
    if tensor.datatype == BYTES:
        return _strings(tensor, np.dtype(dtype))
    if values.dtype != dtype and np.can_cast(values.dtype, dtype, "safe"):
        return values.astype(dtype)
    return values


def _strings(tensor: Tensor, dtype: np.dtype[Any]) -> Array:
    name, values = tensor.name, tensor.values
    if dtype.kind == "O":
        return _content(tensor)
    if dtype.kind == "M":
        return _dates(name, values)
    if dtype.kind not in "SU":  # some of which MLflow lets pass, as ragged arrays
        raise InvalidInput(f"Input {_shown(name)} takes {dtype.name}, not {BYTES}")
    elements = _texts(name, values) if dtype.kind == "U" else _bytes(name, values)
    longest = max((len(element) for element in elements.reshape(-1)), default=0)
    size = padding.CHARACTER_SIZE if dtype.kind == "U" else 1
    padding.check(elements.size, longest, size, f"Input {_shown(name)}")
    return elements.astype(dtype.kind)


# No signature


def _untyped(payload: Tensors) -> tuple[str, Any]:
    tensors, content_type = payload.tensors, payload.content_type
    if content_type == "pd":
        return TABLE, _untyped_frame(payload)
    if content_type == "dict" or (not content_type and len(tensors) > 1):
        return AS_IS, {tensor.name: _content(tensor) for tensor in tensors}
    if content_type not in ("", "np", *_READ_BYTES):
        known = ", ".join(("pd", "np", "dict", *_READ_BYTES))
        raise InvalidInput(f"The request's content_type is none of {known}")
    return AS_IS, _content(_one(payload), content_type)


def _untyped_frame(payload: Tensors) -> pd.DataFrame:
    labels = pd.Index([tensor.name for tensor in payload.tensors], dtype=object)
    return _framed([_column(tensor, None) for tensor in payload.tensors], labels)


def _content(tensor: Tensor, default: str = "") -> Array:
    """Give a tensor as its own content type says: BYTES without one are text if all can be."""
    content_type = tensor.parameters.get(CONTENT_TYPE) or default
    if tensor.datatype != BYTES:
        return tensor.values
    read = _READ_BYTES.get(content_type if isinstance(content_type, str) else "")
    return (read or _texts_or_bytes)(tensor.name, tensor.values)


def _records(payload: Tensors) -> tuple[str, Any]:
    """Give what a model takes whose type hint is a list of dicts, or of objects."""
    return AS_IS, _untyped_frame(payload).to_dict(orient="records")


def _list(payload: Tensors) -> tuple[str, Any]:
    """Give what a model takes whose type hint is a list."""
    values = _content(_one(payload))
    if values.ndim == 2 and values.shape[1] == 1 and payload.tensors[0].datatype == BYTES:
        values = values.reshape(-1)
    return AS_IS, values.tolist()


def _one(payload: Tensors) -> Tensor:
    if len(payload.tensors) != 1:
        raise InvalidInput(f"The model takes one input, not {len(payload.tensors)}")
    return payload.tensors[0]


def _shown(name: str) -> str:
    return repr(name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}...")


# BYTES


def _texts_or_bytes(name: str, values: Array) -> Array:
    texts = texts_of(values)
    return _bytes(name, values) if texts is None else texts


def _texts(name: str, values: Array) -> Array:
    texts = texts_of(values)
    if texts is None:
        raise InvalidInput(f"Input {_shown(name)} holds what is not valid UTF-8")
    return texts


def _bytes(_: str, values: Array) -> Array:
    return objects_of(elements_of(values), values.shape)


def _decoded(name: str, values: Array) -> Array:
    try:
        decoded = [base64.b64decode(element, validate=True) for element in elements_of(values)]
    except binascii.Error:
        raise InvalidInput(f"Input {_shown(name)} holds what is not base64") from None
    return objects_of(decoded, values.shape)


def _dates(name: str, values: Array) -> Array:
    """Give dates as NumPy's, in UTC where they name a zone, for NumPy knows none."""
    texts = _texts(name, values).reshape(-1)
    try:
        dates = pd.to_datetime(texts, utc=True, **_ISO_8601)  # of a list, it makes NumPy's strings
    except (ValueError, OverflowError):
        raise InvalidInput(f"Input {_shown(name)} holds what is not a date of ISO 8601") from None
    found: Array = dates.tz_localize(None).to_numpy().astype("datetime64[ns]")
    return found.reshape(values.shape)


_READ_BYTES: dict[str, Callable[[str, Array], Array]] = {
    "str": _texts,
    "base64": _decoded,
    "datetime": _dates,
}
"""By the content type that a client gives."""
_BYTES_OF: dict[str | None, Callable[[str, Array], Array]] = {
    "string": _texts,
    "binary": _bytes,
    "datetime": _dates,
}
"""By MLflow's type of a column."""
