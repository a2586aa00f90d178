"""MLflow's scoring protocol: whether it is ready, and which MLflow serves the model."""

from __future__ import annotations

import sys
from functools import cache
from importlib import metadata

from pyfuncserver.errors import NotReady
from pyfuncserver.model.call import Reply
from pyfuncserver.protocol.rest.handler import Handler
from pyfuncserver.protocol.rest.scoring import CONTENT_TYPE


class Ping(Handler):
    """``GET /ping`` and ``GET /health``: a line's end, once there is a model to answer."""

    def get(self) -> None:
        if not self.around.scoreboard.is_ready:
            raise NotReady("The model is not ready.")
        self.send(Reply(b"\n", 200), CONTENT_TYPE)


class Version(Handler):
    """``GET /version``: MLflow's."""

    def get(self) -> None:
        self.send(Reply(mlflow_version().encode(), 200), CONTENT_TYPE)


@cache
def mlflow_version() -> str:
    """Give the version of MLflow, without importing what is not there yet: it is large."""
    loaded = getattr(sys.modules.get("mlflow.version"), "VERSION", None)
    if loaded is not None:
        return str(loaded)
    try:
        return metadata.version("mlflow")
    except metadata.PackageNotFoundError:
        return metadata.version("mlflow-skinny")


PAGES = (("/ping", Ping), ("/health", Ping), ("/version", Version))
