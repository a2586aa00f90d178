"""``tensorflow.TensorProto`` and arrays, without TensorFlow: numbers, booleans and strings."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyfuncserver.codec.tensors import shaped

Array = np.ndarray[Any, Any]

_STRING = 7
# tensorflow/core/framework/types.proto and tensor.proto: which field holds the values of a type.
_TYPES: dict[int, tuple[str, str]] = {
    1: ("float32", "float_val"),
    2: ("float64", "double_val"),
    3: ("int32", "int_val"),
    4: ("uint8", "int_val"),
    5: ("int16", "int_val"),
    6: ("int8", "int_val"),
    9: ("int64", "int64_val"),
    10: ("bool", "bool_val"),
    17: ("uint16", "int_val"),
    19: ("float16", "half_val"),
    22: ("uint32", "uint32_val"),
    23: ("uint64", "uint64_val"),
}
_NUMBERS = {name: number for number, (name, _) in _TYPES.items()}


def array_of(tensor: Any) -> Array:
    """Give a tensor's values. Raises: ValueError where they are not to be read."""
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank:
        raise ValueError("a tensor's shape has no free dimension")
    # The last value might stand for all that are missing (tensor.proto): such a tensor is not read,
    # for the client's own message would not bound it.
    try:
        return shaped(_values(tensor), shape)
    except ValueError as error:
        raise ValueError(f"data.tftensor: {error}") from None


def _values(tensor: Any) -> Array:
    if tensor.dtype == _STRING:
        return np.array(list(tensor.string_val), dtype=object)
    if tensor.dtype not in _TYPES:
        raise ValueError(f"type {tensor.dtype} is not read")
    name, field = _TYPES[tensor.dtype]
    if tensor.tensor_content:
        return _from_bytes(tensor.tensor_content, name)
    values = getattr(tensor, field)
    if field == "half_val":  # the bits of each, in the lower half of an int32
        return np.array(values, "int32").astype("uint16").view("float16")
    found = np.array(values).astype(name)
    if field == "int_val" and not np.array_equal(found, values):
        raise ValueError(f"a value is none of {name}")
    return found


def _from_bytes(content: bytes, name: str) -> Array:
    if name == "bool":  # NumPy counts with whatever a byte of its own holds
        flags: Array = np.frombuffer(content, "uint8") != 0
        return flags
    dtype = np.dtype(name)
    if len(content) % dtype.itemsize:
        raise ValueError(f"the content is no number of {name}")
    return np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype)


def fill(tensor: Any, array: Array) -> None:
    """Write an array of numbers into an empty tensor. Raises: ValueError for another type."""
    if array.dtype.name not in _NUMBERS:
        raise ValueError(f"no tensor holds {array.dtype}")
    tensor.dtype = _NUMBERS[array.dtype.name]
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
