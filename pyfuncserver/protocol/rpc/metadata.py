"""A gRPC call's metadata."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

AUTHORIZATION = "authorization"

Authorize = Callable[[str | None], bool]
"""Tells whether what a client sent as ``authorization`` lets it in."""


def value_of(metadata: Any, name: str) -> str | None:
    """Give the value of a key; the last one, where it is there several times."""
    found = None
    for key, value in metadata or ():
        if key == name:
            found = str(value)
    return found
