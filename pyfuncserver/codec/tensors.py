"""The tensors of the Open Inference Protocol (V2), as NumPy arrays.

The datatypes and the two ways in which a tensor's elements travel are those of the specification:
as a list, flat or nested, in row-major order; or raw, in little-endian order, where a BOOL is one
byte and each BYTES element comes after its length, a uint32 ("Binary Tensor Data Extension").

An array of BYTES is one of objects, each a ``bytes`` or a ``str``; the ways in keep what came, raw
elements are ``bytes``. Nothing is allocated before what came has been found to fit the shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

BOOL, BYTES = "BOOL", "BYTES"
DTYPES: dict[str, np.dtype[Any]] = {
    BOOL: np.dtype(np.bool_),
    **{f"UINT{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
    BYTES: np.dtype(object),
}
"""Every datatype, and what an array keeps it as."""

Array = np.ndarray[Any, Any]

LENGTH_SIZE = 4
"""Bytes of the length before an element of BYTES."""
MOST_DIMENSIONS = 32
"""As many as every version of NumPy can hold."""
MOST_OF_NOTHING = 2**20
"""The product of the other sizes where one is 0: no element bounds them, and models loop."""

_RAW = {name: dtype.newbyteorder("<") for name, dtype in DTYPES.items() if name != BYTES}
_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
_INT64_END = 2**63


@dataclass(slots=True)
class Tensor:
    """A named tensor; ``values`` is in its shape already."""

    name: str
    datatype: str
    values: Array
    parameters: dict[str, Any] = field(default_factory=dict)


def datatype_of(array: Array) -> str:
    """Name the datatype of an array; strings and objects are BYTES.

    Raises: ValueError where there is none.
    """
    if array.dtype.kind in "OSU":
        return BYTES
    found = _DATATYPES.get(array.dtype.newbyteorder("="))
    if found is None:
        raise ValueError(f"no datatype holds {array.dtype}")
    return found


def from_raw(datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Array:
    """Make a writable array of raw elements.

    Raises: ValueError that names what is wrong: the datatype, the shape, or the length.
    """
    _check(datatype)
    count = _count(shape)
    if datatype == BYTES:
        return shaped(_objects(_elements(bytes(data), count)), shape)
    dtype = _RAW[datatype]
    if len(data) != count * dtype.itemsize:
        wanted = f"{count} elements of {datatype} are {count * dtype.itemsize} bytes"
        raise ValueError(f"{wanted}, not {len(data)}")
    if datatype == BOOL:  # not a view: NumPy's own booleans are 0 and 1 and nothing else
        return shaped(np.frombuffer(data, np.uint8) != 0, shape)
    return shaped(np.frombuffer(data, dtype).astype(DTYPES[datatype]), shape)


def to_raw(tensor: Tensor) -> bytes:
    """Give the elements of a tensor, raw. Raises: ValueError for a null among BYTES."""
    if tensor.datatype == BYTES:
        return b"".join(_with_lengths(elements_of(tensor.values)))
    return tensor.values.astype(_RAW[tensor.datatype], copy=False).tobytes()


def from_list(datatype: str, shape: Sequence[int], data: Sequence[Any]) -> Array:
    """Make an array of a list of elements, flat or nested.

    A nested one has the shape, except for sizes of 1. Of floats, integers are welcome, and null,
    which is NaN, as it is in our answers; of BYTES, ``str`` and ``bytes``.
    Raises: ValueError that names what is wrong.
    """
    _check(datatype)
    count = _count(shape)
    flat, nesting = _flat(data if isinstance(data, list) else list(data))
    if len(flat) != count:
        raise ValueError(f"the shape has {count} elements, the data {len(flat)}")
    if len(nesting) > 1 and count and _without_ones(nesting) != _without_ones(shape):
        raise ValueError(f"the data are nested as {nesting}, which is not the shape")
    types = set(map(type, flat))
    allowed = _PYTHON_TYPES[DTYPES[datatype].kind]
    if not types <= allowed:
        raise ValueError(f"{datatype} holds no {_names(types - allowed)}")
    return shaped(_CONVERTERS[DTYPES[datatype].kind](flat, datatype), shape)


def shaped(values: Array, shape: Sequence[int]) -> Array:
    """Give a flat array its shape. Raises: ValueError where it does not have the elements."""
    count = _count(shape)
    if values.size != count:
        raise ValueError(f"the shape has {count} elements, the data {values.size}")
    return values.reshape(tuple(shape))


def to_list(values: Array) -> list[Any]:
    """Give the elements as Python's own, flat and in row-major order; BYTES as they are."""
    elements: list[Any] = values.reshape(-1).tolist()
    return elements


def elements_of(values: Array) -> list[bytes]:
    """Give the elements of an array of BYTES as bytes, text as UTF-8.

    Raises: ValueError for what is neither, as a null is, or for text that UTF-8 cannot hold.
    """
    return [_encoded(element) for element in to_list(values)]


def texts_of(values: Array) -> Array | None:
    """Give an array of BYTES as one of ``str``; None where an element is not valid UTF-8.

    Raises: ValueError for what is neither bytes nor text.
    """
    elements = to_list(values)
    if set(map(type, elements)) == {str}:
        return values
    try:
        texts = [e if type(e) is str else _encoded(e).decode() for e in elements]
    except UnicodeDecodeError:
        return None
    return _objects(texts).reshape(values.shape)


def objects_of(elements: list[Any], shape: Sequence[int]) -> Array:
    """Make an array of objects, one for each element, whatever they are."""
    array = np.empty(len(elements), object)
    for place, element in enumerate(elements):  # NumPy would look into what is a sequence
        array[place] = element
    return array.reshape(tuple(shape))


def holds_text(values: Sequence[Any]) -> bool:
    """Tell whether nested lists hold texts or bytes: of those NumPy makes all of one length."""
    cells: Sequence[Any] = values
    while cells:
        if any(issubclass(kind, str | bytes) for kind in set(map(type, cells))):
            return True
        lists = [cell for cell in cells if isinstance(cell, list | tuple)]
        cells = list(chain.from_iterable(lists))
    return False


def _check(datatype: str) -> None:
    if datatype not in DTYPES:
        raise ValueError(f"the datatype is none of {', '.join(DTYPES)}")


def _count(shape: Sequence[int]) -> int:
    """Count the elements of a shape. Raises: ValueError"""
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"a shape has no more than {MOST_DIMENSIONS} dimensions")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("a shape is a list of integers that are not negative")
    count = math.prod(shape)
    if count == 0 and math.prod(size or 1 for size in shape) > MOST_OF_NOTHING:
        raise ValueError("the shape is too large for a tensor without elements")
    return count


def _objects(elements: list[str] | list[bytes]) -> Array:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


# Raw


def _elements(data: bytes, count: int) -> list[bytes]:
    if count * LENGTH_SIZE > len(data):
        raise ValueError(f"{count} elements of {BYTES} are more than {len(data)} bytes")
    found: list[bytes] = []
    place, end = 0, len(data)
    for _ in range(count):
        start = place + LENGTH_SIZE
        place = start + int.from_bytes(data[place:start], "little")
        if start > end or place > end:
            raise ValueError(f"the data end in element {len(found)} of {count}")
        found.append(data[start:place])
    if place != end:
        raise ValueError(f"{end - place} bytes are left after {count} elements")
    return found


def _with_lengths(elements: Iterable[bytes]) -> Iterable[bytes]:
    for element in elements:
        yield len(element).to_bytes(LENGTH_SIZE, "little")
        yield element


def _encoded(element: Any) -> bytes:
    if isinstance(element, str):
        return element.encode()
    if isinstance(element, bytes):
        return element
    raise ValueError(f"{BYTES} holds no {_names([type(element)])}")


# Lists


def _flat(data: list[Any]) -> tuple[list[Any], list[int]]:
    """Give the elements of a nested list, and its shape. Raises: ValueError where it has none."""
    shape = [len(data)]
    while data and type(data[0]) is list:
        if set(map(type, data)) != {list} or len(set(map(len, data))) != 1:
            raise ValueError("the data are nested unevenly")
        shape.append(len(data[0]))
        data = list(chain.from_iterable(data))
    return data, shape


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


_PYTHON_TYPES: dict[str, set[type]] = {
    "b": {bool},
    "u": {int},
    "i": {int},
    "f": {float, int, type(None)},
    "O": {str, bytes},
}
"""What the elements of a list may be, by the kind of the array. No strings for a number: NumPy
would read them, and one long string among many numbers would cost its length for each."""


def _names(types: Iterable[type]) -> str:
    known: dict[type, str] = {
        type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string",
        bytes: "bytes", dict: "object", list: "list",
    }  # fmt: skip
    return ", ".join(sorted(known.get(kind, kind.__name__) for kind in types))


def _booleans(data: list[Any], _: str) -> Array:
    return np.array(data, np.bool_)


def _integers(data: list[int], datatype: str) -> Array:
    dtype = DTYPES[datatype]
    try:
        array = np.array(data, np.int64)
    except OverflowError:
        if datatype == "UINT64" and all(0 <= number < 2 * _INT64_END for number in data):
            return np.array(data, np.uint64)
        raise ValueError(f"a number is out of {datatype}'s range") from None
    bounds = np.iinfo(dtype)
    if data and not (bounds.min <= int(array.min()) and int(array.max()) <= bounds.max):
        raise ValueError(f"a number is out of {datatype}'s range")
    return array.astype(dtype, copy=False)


def _floats(data: list[Any], datatype: str) -> Array:
    try:
        with np.errstate(over="raise"):
            return np.array(data, np.float64).astype(DTYPES[datatype], copy=False)
    except (OverflowError, FloatingPointError):
        raise ValueError(f"a number is out of {datatype}'s range") from None


def _strings(data: list[Any], _: str) -> Array:
    return _objects(data)


_CONVERTERS = {"b": _booleans, "u": _integers, "i": _integers, "f": _floats, "O": _strings}
