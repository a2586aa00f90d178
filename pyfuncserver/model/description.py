"""What a model says of itself: its signature, its example, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Description:
    """What is known of a model when it has been loaded."""

    loader_module: str = ""
    """The module of the flavour that has loaded it: ``mlflow.sklearn``."""
    signature: Any = None
    """Its ``mlflow.models.ModelSignature``, or None."""
    example: Any = None
    """Its input example, as MLflow hands it to the model, or None."""
