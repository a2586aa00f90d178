"""The names by which clients ask for a model."""

from __future__ import annotations

import re

from pyfuncserver.config import NAME_PATTERN
from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.catalogue import Catalogue

LONGEST_NAME = 255
"""A refusal repeats the name, and gRPC's trailers have no room for any text."""
_is_name = re.compile(NAME_PATTERN).fullmatch


def key_of(models: Catalogue, name: str, version: str = "") -> str:
    """Give the key of the model that a client asks for; any version, where that is empty.

    Raises: InvalidInput where no model can be called so.
    """
    key = models.key_of(name, version)
    if key not in models:
        for text in (name, version or name):
            if len(text) > LONGEST_NAME or not _is_name(text):
                raise InvalidInput(f"A model's name and version are of {NAME_PATTERN}")
    return key
