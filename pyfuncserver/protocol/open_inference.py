"""What the Open Inference Protocol says alike over REST and gRPC."""

from __future__ import annotations

from collections.abc import Sequence

from pyfuncserver.codec.tensors import Tensor
from pyfuncserver.errors import InvalidInput, UnknownModel
from pyfuncserver.model.call import RequestedOutput
from pyfuncserver.model.catalogue import Catalogue
from pyfuncserver.protocol.reloading import Reloader

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


def index(models: Catalogue, is_ready: bool, wants_ready: bool) -> list[dict[str, str]]:
    """List the models of the repository and their states; or only those that are ready."""
    entries = []
    for entry in models:
        reason = entry.why_not or ("" if is_ready else "The server is not ready")
        if reason and wants_ready:
            continue
        identity, state = entry.identity, "UNAVAILABLE" if reason else "READY"
        entries.append(
            {"name": identity.name, "version": identity.version, "state": state, "reason": reason}
        )
    return entries


def asked_name(models: Catalogue, reloader: Reloader, name: str) -> str:
    """Give the name of the model that is to be loaded or unloaded, in all its versions.

    Raises: UnknownModel for what neither is there nor could be loaded
    """
    key = models.key_of(name)
    if key in models:
        return models[key].identity.name
    if not reloader.exists(name):
        raise UnknownModel(name)
    return name
