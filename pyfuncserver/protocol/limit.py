"""A bound that a setting gives."""

from __future__ import annotations

from typing import NamedTuple


class Limit(NamedTuple):
    """How many bytes a message may have, and which setting says so."""

    size: int
    setting: str
