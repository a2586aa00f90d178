"""How a dialect tells of what failed before, or beside, a prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Makes an error's body."""

    content_type: str
    body: Callable[[int, str], bytes]
    """Takes the HTTP status and what is wrong."""
