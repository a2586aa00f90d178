"""Which transport serves, and on which loop it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from tornado.web import Application

from pyfuncserver.config import Config, HttpTransport
from pyfuncserver.protocol.rest.prediction import Route
from pyfuncserver.protocol.rest.transport.connection import Limits, Transport
from pyfuncserver.utils.tls import ServerTls

log = logging.getLogger(__name__)


def transport(
    config: Config,
    application: Application,
    routes: dict[bytes, Route],
    tls: ServerTls | None = None,
    when_refused: Callable[[int], None] = lambda _: None,
) -> Transport:
    """Give the transport that is configured; Tornado's where the other cannot be imported.

    ``routes`` are predictions by their paths, which our own transport takes past the application.
    ``when_refused`` is told the status of each request that gets no further than its framing.
    """
    limits = Limits.of(config)
    if is_native(config):
        from pyfuncserver.protocol.rest.transport.native import NativeTransport

        return NativeTransport(application, routes, limits, tls, when_refused)
    from pyfuncserver.protocol.rest.transport.tornado import TornadoTransport

    return TornadoTransport(application, limits=limits, tls=tls, when_refused=when_refused)


def is_native(config: Config) -> bool:
    """Tell whether our own transport is asked for and can be had."""
    if config.http_transport is not HttpTransport.HTTPTOOLS:
        return False
    try:
        import httptools  # noqa: F401
        import uvloop  # noqa: F401
    except ImportError as error:
        log.warning("HTTP_TRANSPORT=httptools cannot be had, Tornado's serves instead: %s", error)
        return False
    return True


def run(config: Config, main: Coroutine[Any, Any, int]) -> int:
    """Run to the end on a new loop: uvloop's for our own transport, else asyncio's.

    Tornado's transport stays on the loop that it was always tried on.
    """
    if not is_native(config):
        return asyncio.run(main)
    import uvloop

    return int(uvloop.run(main))
