"""The Open Inference Protocol (V2): health, metadata, and the repository of the one model."""

from __future__ import annotations

from typing import Any

from pyfuncserver import __version__
from pyfuncserver.codec import json
from pyfuncserver.errors import InvalidInput, NotReady, Unauthenticated, UnknownModel, Unsupported
from pyfuncserver.model.call import Reply
from pyfuncserver.model.description import TensorMetadata
from pyfuncserver.protocol.open_inference import EXTENSIONS, SERVER
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

    def check(self, model: str, version: str = "") -> None:
        """Raises: UnknownModel where it is not the one that is there"""
        key = self.around.model.key_of(model, version)
        if key != self.around.model.full_name:
            raise UnknownModel(key)


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
        self.answer({"models": [self.around.model.name]})


class Model(Page):
    """``GET /v2/models/{model}``, where there is a model in this process."""

    def get(self, model: str, version: str = "") -> None:
        self.check(model, version)
        if self.around.service is None:
            raise Unsupported("This port has no metadata of the model: it serves only health")
        described = self.around.description
        self.answer(
            {
                "name": self.around.model.name,
                "versions": [self.around.model.version],
                "platform": described.platform,
                "inputs": [_plain(tensor) for tensor in described.inputs],
                "outputs": [_plain(tensor) for tensor in described.outputs],
            }
        )


class ModelReady(Page):
    """``GET /v2/models/{model}/ready``"""

    def get(self, model: str, version: str = "") -> None:
        self.check(model, version)
        is_ready = self.around.scoreboard.is_ready
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


class Index(Repository):
    """``POST /v2/repository/index``"""

    def post(self) -> None:
        wants_ready = self.told().get("ready", False)
        if not isinstance(wants_ready, bool):
            raise InvalidInput('"ready" must be true or false')
        is_ready = self.around.scoreboard.is_ready
        entry = {
            "name": self.around.model.name,
            "version": self.around.model.version,
            "state": "READY" if is_ready else "UNAVAILABLE",
            "reason": "" if is_ready else "The server is not ready",
        }
        self.answer([entry] if is_ready or not wants_ready else [])


class Load(Repository):
    """``POST /v2/repository/models/{model}/load``: the model is loaded again.

    The answer comes when all workers have the new one; until then the old one serves, and after a
    load that has failed.
    """

    async def post(self, model: str) -> None:
        self.check(model)
        if self.told().get("parameters"):
            raise InvalidInput("The model is loaded as the server is set: there are no parameters")
        if self.around.reloader is None:
            raise NotReady("The model cannot be loaded again from here")
        await self.around.reloader.reload(deadline.of(self.request.headers.get(deadline.HEADER)))
        self.answer({})


class Unload(Repository):
    """``POST /v2/repository/models/{model}/unload``: this server has one model, always."""

    def post(self, model: str) -> None:
        self.check(model)
        raise Unsupported("The model cannot be unloaded: this server is there for it alone")


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
