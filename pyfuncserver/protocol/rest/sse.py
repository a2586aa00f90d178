"""Server-sent events: how a model's answer goes out part by part.

The frame is that of the HTML standard, section 9.2, with ``data`` alone: clients of MLflow and of
Triton read no other field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyfuncserver.codec import json
from pyfuncserver.model.failure import model_failed

CONTENT_TYPE = "text/event-stream; charset=utf-8"
HEADERS: tuple[tuple[str, str], ...] = (("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no"))
"""Nobody between us and the client is to keep events back; the second is nginx's."""


def event(data: bytes) -> bytes:
    """Frame a line."""
    return b"data: %b\n\n" % data


def json_event(value: Any, dumps: Callable[[Any], bytes] = json.dumps) -> bytes:
    """Frame what a model has made, as JSON. Raises: ModelFailed where there is none of it."""
    try:
        return event(dumps(value))
    except Exception as error:  # whatever the model's own objects do when they are read
        raise model_failed("A part of the model's answer is not valid JSON", error) from error
