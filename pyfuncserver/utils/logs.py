"""Logs: one line an event, with the process's role and the id of the request at hand.

A traceback follows its event on lines that begin with ``  | ``, so that every line that begins
with a time is an event of its own.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from contextvars import ContextVar, Token

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_role = ["supervisor"]
_handler = logging.StreamHandler()


def mark(request_id: str) -> Token[str]:
    """Mark every line logged from now on, by us or by the model, with the request's id."""
    return _request_id.set(request_id)


def unmark(token: Token[str]) -> None:
    """Mark lines as before the :func:`mark` that gave the token; on the same thread."""
    _request_id.reset(token)


class EventFormatter(logging.Formatter):
    """``2026-01-01T00:00:00.000Z LEVEL role pid logger request_id=... message``"""

    @staticmethod
    def converter(seconds: float | None) -> time.struct_time:
        return time.gmtime(seconds)

    def format(self, record: logging.LogRecord) -> str:
        request_id = _request_id.get()
        mark = f" request_id={request_id}" if request_id else ""
        when = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z"
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        line = f"{when} {record.levelname} {_role[0]} {os.getpid()} {record.name}{mark} {message}"
        for attached in (self._traceback(record), record.stack_info):
            if attached:
                line += "".join(f"\n  | {part}" for part in attached.splitlines())
        return line

    def _traceback(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


def configure(level: str) -> None:
    """Send every log line of this process to standard error; call it before anything is loaded."""
    _handler.setStream(sys.stderr)
    _handler.setFormatter(EventFormatter())
    logging.basicConfig(level=level, handlers=[_handler], force=True)
    logging.captureWarnings(True)
    # The request is logged once, by the service; Tornado would say it again in its own words.
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
    # Of every malformed request; they are counted.
    logging.getLogger("tornado.general").setLevel(logging.WARNING)


def restore(level: str) -> None:
    """Configure again where the user's code has taken our handler away while it loaded."""
    if _handler not in logging.getLogger().handlers:
        configure(level)


def set_role(role: str) -> None:
    """Name this process in its log lines, e.g. ``worker-0``."""
    _role[0] = role
