"""Requests of Seldon's REST, and what their errors look like."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Answer, Daemon

PREDICT, FEEDBACK = "/api/v1.0/predictions", "/api/v1.0/feedback"
JSON = {"Content-Type": "application/json"}

SaveSeldon = Callable[[str], Path]


def post(daemon: Daemon, body: Any, path: str = PREDICT, headers: Any = JSON) -> Answer:
    raw = body if isinstance(body, bytes | str) else json.dumps(body)
    return daemon.http("POST", path, raw, headers)


def refused(answer: Answer, status: int, reason: str) -> str:
    """Check an error's shape; give what it says."""
    assert answer.status == status, answer.text
    assert answer.headers["Content-Type"].startswith("application/json")
    found = answer.json()["status"]
    assert (found["status"], found["code"], found["reason"]) == (1, -1, reason)
    return str(found["info"])
