"""Streamed answers to ``POST /invocations``: a JSON body with ``"stream": true``.

MLflow's scoring server answers as a whole whatever the body says. Its AgentServer
(``mlflow.genai.agent_server``) streams at this path, and the Databricks client of
``mlflow.deployments`` reads it so: each part a line ``data: JSON``, at last ``data: [DONE]``. An
error is ``data: {"error": TEXT}``; ours has the keys of MLflow's other errors beside that one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyfuncserver.codec import json
from pyfuncserver.errors import ServingError
from pyfuncserver.protocol.rest import sse

KEY = "stream"
_DONE = sse.event(b"[DONE]")


def takes_stream(body: Any) -> bool:
    """Take the wish for parts out of a parsed body; tell whether it was there."""
    if not isinstance(body, dict) or body.get(KEY) is not True:
        return False
    del body[KEY]
    return True


class ScoringParts:
    """See :class:`~pyfuncserver.model.call.Parts`.

    ``dumps`` and ``error_body`` are those of the path's other answers.
    """

    content_type = sse.CONTENT_TYPE
    headers = sse.HEADERS

    def __init__(
        self, dumps: Callable[[Any], bytes], error_body: Callable[[int, str], bytes]
    ) -> None:
        self._dumps = dumps
        self._error_body = error_body

    def part(self, value: Any) -> bytes:
        return sse.json_event(value, self._dumps)

    def end(self) -> bytes:
        return _DONE

    def error(self, error: ServingError) -> bytes:
        body = json.loads(self._error_body(error.http_status, str(error)))
        return sse.event(json.dumps({**body, "error": str(error)})) + _DONE
