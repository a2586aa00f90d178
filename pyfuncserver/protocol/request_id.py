"""The id of a request: the client's, where it is fit for a log, else a new one."""

from __future__ import annotations

import re
import uuid

HEADER = "X-Request-Id"
_FIT = re.compile(r"[\x21-\x7e]{1,128}").fullmatch


def take_or_make(given: str | None) -> str:
    """Give the client's id, or a new one where it is missing, too long or not printable ASCII."""
    return given if given and _FIT(given) else uuid.uuid4().hex
