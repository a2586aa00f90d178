"""The model of the image's tests, saved as code, so that any Python can load it in the image."""

from __future__ import annotations

from typing import Any

from mlflow.models import set_model
from models import Controlled


class Hungry(Controlled):
    """Also takes memory: `{"do": "eat", "bytes": N}`."""

    def infer(self, request: Any, **kwargs: Any) -> Any:
        if request["do"] == "eat":
            return {"eaten": len(b"x" * request["bytes"])}
        return super().infer(request, **kwargs)


set_model(Hungry())
