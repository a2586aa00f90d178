"""The Open Inference Protocol (V2): health, metadata, and the repository."""

from __future__ import annotations

from typing import Any

from pyfuncserver import __version__
from pyfuncserver.codec import json
from pyfuncserver.errors import InvalidInput, NotReady, Unauthenticated, Unsupported
from pyfuncserver.model.call import Reply
from pyfuncserver.model.catalogue import Entry
from pyfuncserver.model.description import TensorMetadata
from pyfuncserver.orders import Action
from pyfuncserver.protocol.open_inference import EXTENSIONS, SERVER, asked_name, index
from pyfuncserver.protocol.rest import deadline
from pyfuncserver.protocol.rest.handler import Handler
from pyfuncserver.protocol.rest.prediction import AUTHORIZATION
from pyfuncserver.protocol.rest.v2 import CONTENT_TYPE

MOST_CONTROL_BYTES = 2**16
"""What asks for no prediction is short."""


class Page(Handler):
    """What V2's pages share."""

    def answer(self, body: Any, status: int = 200) -> None:
        self.send(Reply(json.dumps(body), status), CONTENT_TYPE)

    def asked(self, model: str, version: str = "") -> Entry:
        """Give the entry of a model. Raises: UnknownModel"""
        return self.around.models.demand(self.around.models.key_of(model, version))


class Server(Page):
    """``GET /v2``"""

    def get(self) -> None:
        self.answer({"name": SERVER, "version": __version__, "extensions": EXTENSIONS})


class Live(Page):
    """``GET /v2/health/live``"""

    def get(self) -> None:
        self.answer({"live": True})


class Ready(Page):
    """``GET /v2/health/ready``"""

    def get(self) -> None:
        is_ready = self.around.scoreboard.is_ready
        self.answer({"ready": is_ready}, 200 if is_ready else 503)


class Models(Page):
    """``GET /v2/models``"""

    def get(self) -> None:
        names = dict.fromkeys(e.identity.name for e in self.around.models if e.is_loaded)
        self.answer({"models": list(names)})


class Model(Page):
    """``GET /v2/models/{model}``, where there is a model in this process."""

    def get(self, model: str, version: str = "") -> None:
        models, entry = self.around.models, self.asked(model, version)
        if self.around.service is None:
            raise Unsupported("This port has no metadata of the model: it serves only health")
        described = models.demand_loaded(entry.identity.full_name).description
        versions = models.versions_of(entry.identity.name)
        self.answer(
            {
                "name": entry.identity.name,
                "versions": [one.identity.version for one in versions if one.is_loaded],
                "platform": described.platform,
                "inputs": [_plain(tensor) for tensor in described.inputs],
                "outputs": [_plain(tensor) for tensor in described.outputs],
            }
        )


class ModelReady(Page):
    """``GET /v2/models/{model}/ready``"""

    def get(self, model: str, version: str = "") -> None:
        is_ready = self.asked(model, version).is_loaded and self.around.scoreboard.is_ready
        self.answer({"name": model, "ready": is_ready}, 200 if is_ready else 503)


def _plain(tensor: TensorMetadata) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


# The repository


class Repository(Page):
    """What changes, or tells of, the models that there are: for those who have the token."""

    allowed = "POST"

    def prepare(self) -> None:
        super().prepare()
        self.body = bytearray()
        if self.around.service is None and self.request.method == self.allowed:
            raise Unsupported("This port serves only health")
        tokens = self.around.tokens
        if tokens is not None and not tokens.accepts(self.request.headers.get(AUTHORIZATION)):
            raise Unauthenticated

    def data_received(self, chunk: bytes) -> None:
        if len(self.body) <= MOST_CONTROL_BYTES:  # and one chunk more, which is bounded
            self.body += chunk

    def told(self) -> dict[str, Any]:
        """Give what the body says. Raises: InvalidInput"""
        if len(self.body) > MOST_CONTROL_BYTES:
            raise InvalidInput(f"The request has more than {MOST_CONTROL_BYTES} bytes")
        if not self.body:
            return {}
        try:
            found = json.loads(self.body)
        except json.JSONDecodeError as error:
            raise InvalidInput(f"The request is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise InvalidInput("Expected a JSON object")
        return found

    async def change(self, action: Action, model: str) -> None:
        """Have a model loaded or unloaded, and answer when that has been done."""
        reloader = self.around.reloader
        if reloader is None:
            raise NotReady("No model can be loaded from here")
        name = asked_name(self.around.models, reloader, model)
        until = deadline.of(self.request.headers.get(deadline.HEADER))
        await reloader.change(action, name, until)
        self.answer({})


class Index(Repository):
    """``POST /v2/repository/index``"""

    def post(self) -> None:
        wants_ready = self.told().get("ready", False)
        if not isinstance(wants_ready, bool):
            raise InvalidInput('"ready" must be true or false')
        is_ready = self.around.scoreboard.is_ready
        self.answer(index(self.around.models, is_ready, wants_ready))


class Load(Repository):
    """``POST /v2/repository/models/{model}/load``: the model is loaded, again or anew.

    The answer comes when all workers have it; until then the old one serves, and after a load that
    has failed.
    """

    async def post(self, model: str) -> None:
        if self.told().get("parameters"):
            raise InvalidInput("The model is loaded as the server is set: there are no parameters")
        await self.change(Action.LOAD, model)


class Unload(Repository):
    """``POST /v2/repository/models/{model}/unload``: no worker has it any more."""

    async def post(self, model: str) -> None:
        self.told()
        await self.change(Action.UNLOAD, model)


_MODEL = "/v2/models/{model}"
_VERSION = f"{_MODEL}/versions/{{version}}"
_REPOSITORY = "/v2/repository"

PAGES = (
    ("/v2", Server),
    ("/v2/health/live", Live),
    ("/v2/health/ready", Ready),
    ("/v2/models", Models),
    *((path, Model) for path in (_MODEL, _VERSION)),
    *((f"{path}/ready", ModelReady) for path in (_MODEL, _VERSION)),
    (f"{_REPOSITORY}/index", Index),
    (f"{_REPOSITORY}/models/{{model}}/load", Load),
    (f"{_REPOSITORY}/models/{{model}}/unload", Unload),
)
