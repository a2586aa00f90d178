"""A model that needs what only conda installs, and where its activation script says that it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from models import Controlled


class Native(Controlled):
    """Also tells what it has read: `{"do": "data"}`."""

    def __init__(self) -> None:
        self.data = Path(os.environ["NATIVE_DATA"], "data.txt").read_text()

    def infer(self, request: Any, **kwargs: Any) -> Any:
        return {"data": self.data} if request["do"] == "data" else super().infer(request, **kwargs)


set_model(Native())
