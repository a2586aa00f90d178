"""What ``GRPCInferenceService`` answers beside predictions: readiness, metadata, the repository."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pyfuncserver import __version__
from pyfuncserver.codec import inference
from pyfuncserver.errors import ClientGone, InvalidInput, UnknownModel, Unsupported
from pyfuncserver.model.description import Description, TensorMetadata
from pyfuncserver.model.identity import Identity
from pyfuncserver.protocol.oip.naming import key_of
from pyfuncserver.protocol.open_inference import EXTENSIONS, SERVER
from pyfuncserver.protocol.reloading import LONGEST_LOAD_S, POLL_INTERVAL_S, Reloader
from pyfuncserver.protocol.servicer import Control, Errand, Patience

Fields = dict[str, Any]
"""Of the response."""

NOT_READY = "The server is not ready"
GUARDED = frozenset({"RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"})
"""Those for which a client needs its token."""


class Controls:
    """The methods by their names; each makes its response's fields of its request."""

    def __init__(self, identity: Identity, description: Description, reloader: Reloader) -> None:
        self._identity = identity
        self._description = description
        self._scoreboard = reloader.scoreboard
        self._reloader = reloader

    def by_name(self) -> dict[str, Control]:
        methods: dict[str, Callable[[Any], Fields]] = {
            "ServerLive": lambda _: {"live": True},
            "ServerReady": lambda _: {"ready": self._scoreboard.is_ready},
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "RepositoryIndex": self._index,
            "RepositoryModelUnload": self._unload,
        }
        return {name: _control(name, method) for name, method in methods.items()}

    def errands(self) -> dict[str, Errand]:
        """Give the method that waits: a model takes its time to load."""
        name = "RepositoryModelLoad"
        return {
            name: lambda body, patience: _control(name, partial(self._load, patience))(body),
        }

    def _model_ready(self, request: Any) -> Fields:
        self._demand(request.name, request.version)
        return {"ready": self._scoreboard.is_ready}

    def _server_metadata(self, _: Any) -> Fields:
        return {"name": SERVER, "version": __version__, "extensions": EXTENSIONS}

    def _model_metadata(self, request: Any) -> Fields:
        self._demand(request.name, request.version)
        return {
            "name": self._identity.name,
            "versions": [self._identity.version],
            "platform": self._description.platform,
            "inputs": [_metadata(tensor) for tensor in self._description.inputs],
            "outputs": [_metadata(tensor) for tensor in self._description.outputs],
        }

    def _index(self, request: Any) -> Fields:
        is_ready = self._scoreboard.is_ready
        if request.repository_name or (request.ready and not is_ready):
            return {}
        state, reason = ("READY", "") if is_ready else ("UNAVAILABLE", NOT_READY)
        model = {"name": self._identity.name, "version": self._identity.version}
        return {"models": [{**model, "state": state, "reason": reason}]}

    def _load(self, patience: Patience, request: Any) -> Fields:
        """Have the model loaded again; until all workers have the new one, the old one serves.

        Raises: as :meth:`Reloader.reload`; ClientGone
        """
        name = self._asked(request)
        if request.parameters:
            raise InvalidInput("The model is loaded as the server is set: there are no parameters")
        watch = self._reloader.begin()
        until = min(patience.deadline, time.monotonic() + LONGEST_LOAD_S)
        while not self._reloader.is_over(watch, until):
            if not patience.is_wanted():
                raise ClientGone
            time.sleep(POLL_INTERVAL_S)
        return {"model_name": name, "isLoaded": True}

    def _unload(self, request: Any) -> Fields:
        self._asked(request)
        raise Unsupported("The model cannot be unloaded: this server is there for it alone")

    def _asked(self, request: Any) -> str:
        """Give the model's name as it came: in field 2, or where KServe's SDK has it, in field 1.

        Raises: UnknownModel, InvalidInput
        """
        name: str = request.model_name or request.repository_name
        self._demand(name)
        return name

    def _demand(self, name: str, version: str = "") -> None:
        """Raise UnknownModel for any but this model, and InvalidInput for what is no name."""
        key = key_of(self._identity, name, version)
        if key != self._identity.full_name:
            raise UnknownModel(key)


def _metadata(tensor: TensorMetadata) -> Fields:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


def _control(name: str, method: Callable[[Any], Fields]) -> Control:
    response = getattr(inference.messages(), f"{name}Response")

    def control(body: bytes) -> bytes:
        try:
            request = inference.parse(f"{name}Request", body)
        except ValueError as error:
            raise InvalidInput(str(error)) from None
        answer: bytes = response(**method(request)).SerializeToString()
        return answer

    return control
