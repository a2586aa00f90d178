"""The messages of ``inference.GRPCInferenceService``, and their tensors and parameters.

Many client packages put a ``package inference`` of their own into protobuf's default pool. Ours is
in a pool of its own, so that a model may import any of them, whenever it likes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError, Message

from pyfuncserver.codec import contents, tensors
from pyfuncserver.codec import messages as descriptors
from pyfuncserver.codec.tensors import Tensor

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
METHOD = "ModelInfer"

INT64_MIN, INT64_MAX, UINT64_MAX = -(2**63), 2**63 - 1, 2**64 - 1
_MODEL_NAME, _MODEL_VERSION = b"\x0a", b"\x12"
"""The tags of a request's first two fields (numbers 1 and 2, length-delimited)."""

Parameters = dict[str, bool | int | float | str]


def file_set() -> FileDescriptorSet:
    """Give the compiled ``protos/inference``."""
    return descriptors.file_set("inference.binpb")


@lru_cache(maxsize=1)
def messages() -> Any:
    """Give the message classes by name."""
    return descriptors.classes_of(file_set(), PACKAGE)


def parse(name: str, data: bytes) -> Any:
    """Parse a message of that name. Raises: ValueError where the bytes are none."""
    try:
        message: Message = getattr(messages(), name).FromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a {name}: {error}") from None
    return message


def asked_model(data: bytes) -> tuple[str, str]:
    """Give the name and version of the model that a ``ModelInferRequest`` asks for.

    Where they stand first and are short, as every protobuf library writes them, the rest is not
    read; a message that repeats them further behind tells others, so ask it again when it is read.
    Raises: ValueError where it has to be read and cannot be.
    """
    name, at = _leading(data, 0, _MODEL_NAME)
    version, at = _leading(data, at, _MODEL_VERSION)
    if name and data[at : at + 1] not in (_MODEL_NAME, _MODEL_VERSION):
        try:
            return name.decode(), version.decode()
        except UnicodeDecodeError:
            raise ValueError("not a ModelInferRequest: a name is no UTF-8") from None
    request = parse("ModelInferRequest", data)
    return request.model_name, request.model_version


def _leading(data: bytes, at: int, tag: bytes) -> tuple[bytes, int]:
    """Give a text that is shorter than 128 bytes, and where it ends; nothing where none is here."""
    start = at + 2
    if data[at : at + 1] != tag or len(data) < start or data[at + 1] > 127:
        return b"", at
    end = start + data[at + 1]
    return (b"", at) if end > len(data) else (data[start:end], end)


def inputs_of(request: Any) -> list[Tensor]:
    """Give the tensors of a ``ModelInferRequest``, raw or typed.

    Raises: ValueError where they are not as the protocol says.
    """
    raw = request.raw_input_contents
    inputs = request.inputs
    if not raw:
        return [_tensor(place, head, _typed) for place, head in enumerate(inputs)]
    if len(raw) != len(inputs):
        raise ValueError(f"{len(inputs)} inputs have {len(raw)} raw_input_contents")
    return [
        _tensor(place, head, _from_raw, data)
        for place, (head, data) in enumerate(zip(inputs, raw, strict=True))
    ]


def _tensor(place: int, head: Any, read: Any, *data: bytes) -> Tensor:
    try:
        values = read(head, tuple(head.shape), *data)
        return Tensor(head.name, head.datatype, values, parameters_of(head.parameters))
    except ValueError as error:
        raise ValueError(f"inputs[{place}]: {error}") from None


def _from_raw(head: Any, shape: tuple[int, ...], data: bytes) -> np.ndarray[Any, Any]:
    if head.HasField("contents"):
        raise ValueError("it has contents beside raw_input_contents")
    return tensors.from_raw(head.datatype, shape, data)


def _typed(head: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return tensors.shaped(contents.read(head.contents, head.datatype), shape)


def is_raw(request: Any) -> bool:
    """Tell whether a request brings raw values, and so wants them back."""
    return bool(request.raw_input_contents)


def response_of(head: Mapping[str, str], outputs: Sequence[Tensor], raw: bool) -> Any:
    """Make a ``ModelInferResponse``; ``head`` has ``model_name``, ``model_version`` and ``id``.

    It is raw also where a tensor has no typed contents: FP16.
    Raises: ValueError or TypeError for parameters that the protocol does not have.
    """
    response = messages().ModelInferResponse(**head)
    is_raw = raw or not all(contents.can_hold(tensor.datatype) for tensor in outputs)
    for tensor in outputs:
        output = response.outputs.add(
            name=tensor.name, datatype=tensor.datatype, shape=tensor.values.shape
        )
        put_parameters(output.parameters, tensor.parameters)
        if is_raw:
            response.raw_output_contents.append(tensors.to_raw(tensor))
        else:
            contents.write(output.contents, tensor.datatype, tensor.values)
    return response


def parameters_of(given: Any) -> Parameters:
    """Give a map of ``InferParameter`` as a dict. Raises: ValueError for one without a value."""
    if not given:
        return {}
    return {name: _value_of(parameter) for name, parameter in given.items()}


def _value_of(parameter: Any) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    if kind is None:
        raise ValueError("a parameter has no value")
    return getattr(parameter, kind)


def put_parameters(field: Any, values: Mapping[str, Any]) -> None:
    """Write a dict into a map of ``InferParameter``.

    Raises: ValueError or TypeError for what is neither text, boolean nor a number of 64 bits.
    """
    for name, value in values.items():
        setattr(field[name], _kind_of(value), value)


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "bool_param"
    if isinstance(value, int):
        return "int64_param" if value <= INT64_MAX else "uint64_param"
    return "double_param" if isinstance(value, float) else "string_param"
