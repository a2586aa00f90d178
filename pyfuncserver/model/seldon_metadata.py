"""What a model takes and gives, in Seldon's words: the schema of its ``/metadata``, version 1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyfuncserver.model.description import Description, TensorMetadata
from pyfuncserver.model.identity import Identity

Metadata = dict[str, Any]


def metadata_of(identity: Identity, description: Description) -> Metadata:
    """Describe a model."""
    signature = description.signature
    return {
        "name": identity.name,
        "versions": [identity.version],
        "platform": description.platform,
        "inputs": _parts(getattr(signature, "inputs", None), description.inputs),
        "outputs": _parts(getattr(signature, "outputs", None), description.outputs),
        "custom": {},
    }


def _parts(schema: Any, tensors: Iterable[TensorMetadata]) -> list[Metadata]:
    """Describe an array of columns as one part, and tensors each by itself."""
    if schema is None:
        return []
    if schema.is_tensor_spec():
        return [
            {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
            for tensor in tensors
        ]
    columns: Metadata = {"shape": [len(schema.inputs)]}
    if schema.has_input_names():
        columns = {"names": schema.input_names(), **columns}
    return [{"messagetype": "ndarray", "schema": columns}]


def output_names(description: Description) -> tuple[str, ...]:
    """Give the names of the outputs, as far as the signature has any."""
    outputs = getattr(description.signature, "outputs", None)
    return tuple(outputs.input_names()) if outputs is not None and outputs.has_input_names() else ()
