"""KServe V1: which models there are, and whether they are ready."""

from __future__ import annotations

from pyfuncserver.codec import json
from pyfuncserver.errors import NotReady
from pyfuncserver.model.call import Reply
from pyfuncserver.protocol.rest.handler import Handler


class Models(Handler):
    """``GET /v1/models``"""

    def get(self) -> None:
        names = [entry.identity.full_name for entry in self.around.models if entry.is_loaded]
        self.send(Reply(json.dumps({"models": names}), 200))


class Readiness(Handler):
    """``GET /v1/models/{full_name}``"""

    def get(self, full_name: str) -> None:
        models = self.around.models
        models.demand_loaded(models.full_key_of(full_name))
        if not self.around.scoreboard.is_ready:
            raise NotReady(f"Model with full name {full_name} is not ready.")
        self.send(Reply(json.dumps({"name": full_name, "ready": True}), 200))


PAGES = (("/v1/models", Models), ("/v1/models/{full_name}", Readiness))
