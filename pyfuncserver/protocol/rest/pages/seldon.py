"""Seldon's REST beside predictions: liveness, readiness, and what the model takes and gives."""

from __future__ import annotations

from pyfuncserver.codec import json, seldon
from pyfuncserver.errors import NotReady
from pyfuncserver.model.call import Reply
from pyfuncserver.model.seldon_metadata import metadata_of
from pyfuncserver.protocol.rest.handler import Handler
from pyfuncserver.protocol.rest.seldon import CONTENT_TYPE


class Ping(Handler):
    """``GET /health/ping``: the process answers."""

    def get(self) -> None:
        self.send(Reply(b"pong", 200), "text/plain; charset=UTF-8")


class Status(Handler):
    """``GET /health/status``: predictions can be answered; a message without data, as Seldon's."""

    def get(self) -> None:
        if not self.around.scoreboard.is_ready:
            raise NotReady("The model is not ready.")
        message = seldon.answer_of([], seldon.NOTHING)
        self.send(Reply(json.dumps(seldon.body_of(message)), 200), CONTENT_TYPE)


class Metadata(Handler):
    """``GET /metadata``"""

    def get(self, model: str = "", version: str = "") -> None:
        models = self.around.models
        asked = models.demand_loaded(models.key_of(model, version) if model else models.default)
        body = metadata_of(asked.identity, asked.description)
        self.send(Reply(json.dumps(body), 200), CONTENT_TYPE)


PAGES = (
    ("/health/ping", Ping),
    ("/health/status", Status),
    ("/api/v1.0/health/status", Status),
    ("/metadata", Metadata),
    ("/api/v1.0/metadata", Metadata),
)
