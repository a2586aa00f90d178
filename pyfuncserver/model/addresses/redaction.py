"""Keep credentials out of what is logged, raised or named.

An address may carry a user's name and password, or a signed query string; the errors of libraries
quote addresses.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

HIDDEN = "***"
SHORTEST_SECRET = 4
SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
    "DATABRICKS_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)

# Up to the last @ of the authority; or where a password holds a slash that should be encoded.
_USER = re.compile(r"(?<=://)(?:[^\s/'\"<>]*@|[^\s/:'\"<>]*:(?!\d+(?:[/\s'\"<>]|$))[^\s'\"<>]*@)")
_QUERY = re.compile(r"\?[^\s'\"<>)?=&]+=[^\s'\"<>)]*")
_HEADER = re.compile(
    r"(?i)(\b(?:authorization|x-amz-security-token)['\"]?\s*[:=]\s*b?['\"]?)[^'\"\n]+"
)


def shown(text: str) -> str:
    """Give an address, or a text that quotes some, without what is secret in it."""
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    text = _USER.sub(f"{HIDDEN}@", text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    return _QUERY.sub(f"?{HIDDEN}", text)


def _secrets() -> list[str]:
    found = (os.environ.get(name, "") for name in SECRET_VARIABLES)
    return sorted((text for text in found if len(text) >= SHORTEST_SECRET), key=len, reverse=True)


class _Redacting(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = shown(record.getMessage()), ()
        if record.exc_info:  # its text quotes addresses, too, and is made later
            record.msg += f" ({shown(repr(record.exc_info[1]))})"
            record.exc_info = None
        return True


@contextmanager
def redacted_logs() -> Iterator[None]:
    """Redact every line that any library logs meanwhile (urllib3 tells whole URLs)."""
    redacting = _Redacting()
    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(redacting)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(redacting)
