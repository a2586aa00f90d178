"""KServe V1: which models there are, and whether they are ready."""

from __future__ import annotations

from pyfuncserver.codec import json
from pyfuncserver.errors import NotReady, UnknownModel
from pyfuncserver.model.call import Reply
from pyfuncserver.protocol.rest.handler import Handler


class Models(Handler):
    """``GET /v1/models``"""

    def get(self) -> None:
        self.send(Reply(json.dumps({"models": [self.around.model.full_name]}), 200))


class Readiness(Handler):
    """``GET /v1/models/{full_name}``"""

    def get(self, full_name: str) -> None:
        if full_name != self.around.model.full_name:
            raise UnknownModel(full_name)
        if not self.around.scoreboard.is_ready:
            raise NotReady(f"Model with full name {full_name} is not ready.")
        self.send(Reply(json.dumps({"name": full_name, "ready": True}), 200))


PAGES = (("/v1/models", Models), ("/v1/models/{full_name}", Readiness))
