"""A prediction's way in over HTTP: what its head means, whichever transport brings it."""

from __future__ import annotations

import http
from collections.abc import Callable
from dataclasses import dataclass

from pyfuncserver.errors import ServingError, Unauthenticated
from pyfuncserver.model.call import Dialect, Reply, Request
from pyfuncserver.model.exchange import Exchange
from pyfuncserver.model.service import InferenceService
from pyfuncserver.protocol.rest import deadline
from pyfuncserver.utils.tokens import Tokens

AUTHORIZATION = "Authorization"
CHALLENGE = ("WWW-Authenticate", "Bearer")
_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}


def phrase(status: int, wished: str = "") -> str:
    """Give a reason phrase that fits into a status line (RFC 9112, section 4)."""
    if wished and wished.isascii() and wished.isprintable():
        return wished
    return _PHRASES.get(status, "Unknown")


@dataclass(frozen=True)
class Route:
    """Where the predictions of one dialect come in."""

    dialect: Dialect
    content_type: str
    service: InferenceService
    tokens: Tokens | None = None
    """What predictions have to bring, if anything."""
    model: str = ""
    """The key of the model, where a transport takes predictions past the application."""

    def admit(self, authorization: str | None, timeout: str | None) -> float:
        """Give the deadline that a head sets.

        Raises: Unauthenticated, InvalidInput
        """
        if self.tokens is not None and not self.tokens.accepts(authorization):
            raise Unauthenticated
        return deadline.of(timeout)

    def refuse(
        self, model: str, id_: str, failure: ServingError, headers: Callable[[], dict[str, str]]
    ) -> Reply:
        """Count and log a request that is refused at its head, and give the reply to it."""
        return self.service.refuse(self.dialect, Request(model, b"", id_, headers), failure)

    def submit(self, request: Request, deliver: Callable[[Reply], None]) -> Exchange:
        """See :meth:`InferenceService.submit`."""
        return self.service.submit(self.dialect, request, deliver)
