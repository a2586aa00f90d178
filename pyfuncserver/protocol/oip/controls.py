"""What ``GRPCInferenceService`` answers beside predictions: readiness, metadata, the repository."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pyfuncserver import __version__
from pyfuncserver.codec import inference
from pyfuncserver.errors import ClientGone, InvalidInput
from pyfuncserver.model.catalogue import Catalogue
from pyfuncserver.model.description import TensorMetadata
from pyfuncserver.orders import Action
from pyfuncserver.protocol.oip.naming import key_of
from pyfuncserver.protocol.open_inference import EXTENSIONS, SERVER, asked_name, index
from pyfuncserver.protocol.reloading import LONGEST_LOAD_S, POLL_INTERVAL_S, Reloader
from pyfuncserver.protocol.servicer import Control, Errand, Patience

Fields = dict[str, Any]
"""Of the response."""

GUARDED = frozenset({"RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"})
"""Those for which a client needs its token."""


class Controls:
    """The methods by their names; each makes its response's fields of its request."""

    def __init__(self, models: Catalogue, reloader: Reloader) -> None:
        self._models = models
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
        }
        return {name: _control(name, method) for name, method in methods.items()}

    def errands(self) -> dict[str, Errand]:
        """Give the methods that wait: a model takes its time to load."""
        return {
            "RepositoryModelLoad": self._errand("RepositoryModelLoad", Action.LOAD, "isLoaded"),
            "RepositoryModelUnload": self._errand(
                "RepositoryModelUnload", Action.UNLOAD, "isUnloaded"
            ),
        }

    def _errand(self, name: str, action: Action, done: str) -> Errand:
        def errand(body: bytes, patience: Patience) -> bytes:
            return _control(name, partial(self._change, action, done, patience))(body)

        return errand

    def _model_ready(self, request: Any) -> Fields:
        entry = self._models.demand(key_of(self._models, request.name, request.version))
        return {"ready": entry.is_loaded and self._scoreboard.is_ready}

    def _server_metadata(self, _: Any) -> Fields:
        return {"name": SERVER, "version": __version__, "extensions": EXTENSIONS}

    def _model_metadata(self, request: Any) -> Fields:
        asked = key_of(self._models, request.name, request.version)
        entry = self._models.demand_loaded(asked)
        versions = self._models.versions_of(entry.identity.name)
        return {
            "name": entry.identity.name,
            "versions": [one.identity.version for one in versions if one.is_loaded],
            "platform": entry.description.platform,
            "inputs": [_metadata(tensor) for tensor in entry.description.inputs],
            "outputs": [_metadata(tensor) for tensor in entry.description.outputs],
        }

    def _index(self, request: Any) -> Fields:
        if request.repository_name:
            return {}
        return {"models": index(self._models, self._scoreboard.is_ready, request.ready)}

    def _change(self, action: Action, done: str, patience: Patience, request: Any) -> Fields:
        """Have a model loaded, or unloaded; until all workers have done so, nothing changes.

        Raises: as :meth:`Reloader.change`; UnknownModel, InvalidInput, ClientGone
        """
        # In field 2, or where KServe's SDK has it, in field 1.
        name: str = request.model_name or request.repository_name
        key_of(self._models, name)
        if request.parameters and action is Action.LOAD:
            raise InvalidInput("The model is loaded as the server is set: there are no parameters")
        ticket = self._reloader.begin(action, asked_name(self._models, self._reloader, name))
        until = min(patience.deadline, time.monotonic() + LONGEST_LOAD_S)
        while not self._reloader.is_over(ticket, until):
            if not patience.is_wanted():
                raise ClientGone
            time.sleep(POLL_INTERVAL_S)
        return {"model_name": name, done: True}


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
