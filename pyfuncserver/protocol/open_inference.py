"""What the Open Inference Protocol says alike over REST and gRPC."""

from __future__ import annotations

from collections.abc import Sequence

from pyfuncserver.codec.tensors import Tensor
from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.call import RequestedOutput

SERVER = "pyfuncserver"
EXTENSIONS = ("binary_tensor_data", "model_repository")


def requested(found: list[Tensor], wanted: Sequence[RequestedOutput]) -> list[Tensor]:
    """Give the outputs that are asked for, in that order; all of them where none is.

    Raises: InvalidInput for one that the model does not have
    """
    if not wanted:
        return found
    by_name = {tensor.name: tensor for tensor in found}
    for place, output in enumerate(wanted):
        if output.name not in by_name:
            names = ", ".join(by_name)
            raise InvalidInput(f"outputs[{place}] is none of the model's outputs: {names}")
    return [by_name[output.name] for output in wanted]
