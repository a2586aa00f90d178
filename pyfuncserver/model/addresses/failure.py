"""Which error passes by itself, and any error as one line.

MLflow, boto3, Google's and other libraries each have errors of their own, and which of them are
installed is not known here: so an error is known by the status that it carries, or by its name.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterator
from typing import Any

from pyfuncserver.model.addresses.redaction import shown

LONGEST_CAUSE = 600
# RFC 9110, sections 15.5.9 and 15.6; RFC 6585, section 4
_PASSING_STATUS = frozenset({408, 429})
_PASSING_NAMES = frozenset(
    {
        *("ConnectionError", "TimeoutError", "IncompleteRead"),  # Python's; requests', botocore's
        *("Timeout", "ChunkedEncodingError", "ContentDecodingError"),  # requests'
        *("ProtocolError", "MaxRetryError", "ReadTimeoutError"),  # urllib3's
        *("HTTPClientError", "IncompleteReadError", "RetriesExceededError"),  # botocore's, boto3's
        *("TransportError", "RetryError", "DataCorruption"),  # Google's
    }
)
_EXTRAS = {"boto3": "s3", "botocore": "s3", "google": "gcs"}
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_MOST_LINKS = 20


class Unfetchable(Exception):
    """Why a model cannot be fetched, in words that follow its address."""


class Incomplete(ConnectionError):
    """A file has come with fewer bytes, or more, than it has in the store."""


def passes(error: BaseException) -> bool:
    """Tell whether it may go well another time: a broken connection, a server that is busy."""
    links = list(_chain(error))
    if any(isinstance(link, ssl.SSLCertVerificationError) for link in links):
        return False
    status = _status_of(error)
    if status is not None:
        return status in _PASSING_STATUS or status >= 500
    return any(kind.__name__ in _PASSING_NAMES for link in links for kind in type(link).__mro__)


def cause_of(error: BaseException, cache: object) -> str:
    """Say in one line what went wrong, without anything that is secret."""
    if isinstance(error, Unfetchable):
        return shown(str(error))
    text = " ".join(str(error).split()) or "no reason given"
    for link in _chain(error):
        if isinstance(link, ModuleNotFoundError) and link.name:
            return _missing(link.name)
        if isinstance(link, OSError) and link.errno in _NO_ROOM:
            return f"the disk of {cache} is full (MODEL_CACHE_DIR)"
    meaning = {401: "access is refused: ", 403: "access is refused: ", 404: "it does not exist: "}
    prefix = meaning.get(_status_of(error) or 0, "")
    text = shown(f"{prefix}{type(error).__name__}: {text}")
    return text if len(text) <= LONGEST_CAUSE else f"{text[:LONGEST_CAUSE]}..."


def _missing(module: str) -> str:
    extra = _EXTRAS.get(module.partition(".")[0])
    what = f"pip install 'pyfuncserver[{extra}]'" if extra else "install it beside the server"
    return f"the package {module} is needed and not installed: {what}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Give an error and what it comes from, the latest first."""
    link: BaseException | None = error
    for _ in range(_MOST_LINKS):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _status_of(error: BaseException) -> int | None:
    """Find the HTTP status of the answer that an error tells of."""
    for link in _chain(error):
        response: Any = getattr(link, "response", None)
        if isinstance(response, dict):  # botocore's ClientError
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        elif response is not None:  # of requests, as Google's libraries have, too
            status = getattr(response, "status_code", None)
        else:
            status = getattr(link, "code", None)  # google.api_core
        if isinstance(status, int) and 400 <= status <= 599:
            return int(status)
    return None
