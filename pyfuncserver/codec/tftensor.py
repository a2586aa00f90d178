"""``tensorflow.TensorProto`` and arrays, without TensorFlow: numbers, booleans and strings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

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
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise ValueError("a tensor's shape has no free dimension")
    if tensor.dtype == _STRING:
        return _filled(np.array(list(tensor.string_val), dtype=object), shape)
    if tensor.dtype not in _TYPES:
        raise ValueError(f"tensors of type {tensor.dtype} are not read")
    name, field = _TYPES[tensor.dtype]
    if tensor.tensor_content:
        return _from_bytes(tensor.tensor_content, np.dtype(name).newbyteorder("<"), shape)
    values = getattr(tensor, field)
    if field == "half_val":  # the bits of each, in the lower half of an int32
        return _filled(np.array(values, "int32").astype("uint16").view("float16"), shape)
    found = np.array(values).astype(name)
    if field == "int_val" and not np.array_equal(found, values):
        raise ValueError(f"a tensor's value is none of {name}")
    return _filled(found, shape)


def _from_bytes(content: bytes, dtype: np.dtype[Any], shape: list[int]) -> Array:
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError("a tensor's content does not fill its shape")
    return np.frombuffer(content, dtype).astype(dtype.newbyteorder("=")).reshape(shape)


def _filled(values: Array, shape: list[int]) -> Array:
    """Shape values, the last of which stands for all that are missing, as tensor.proto says."""
    missing = math.prod(shape) - len(values)
    if missing < 0 or (missing and not len(values)):
        raise ValueError("a tensor's values do not fill its shape")
    if missing:
        # The client's own message bounds a shape that is written out; this one would not be.
        raise ValueError("a tensor whose values are not all there is not read")
    return values.reshape(shape)


def fill(tensor: Any, array: Array) -> None:
    """Write an array of numbers into an empty tensor. Raises: ValueError for another type."""
    if array.dtype.name not in _NUMBERS:
        raise ValueError(f"no tensor holds {array.dtype}")
    tensor.dtype = _NUMBERS[array.dtype.name]
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
