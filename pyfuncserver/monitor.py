"""The monitor of a daemon without HTTP workers: metrics and health, and the push thread.

It runs no user code, so it answers whatever the workers do; what it answers is the scoreboard's.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from tornado.web import Application

from pyfuncserver.config import Config
from pyfuncserver.metrics import exposition, instruments
from pyfuncserver.metrics.pusher import Pusher
from pyfuncserver.model.catalogue import UNLOADED, Catalogue, Entry
from pyfuncserver.model.identity import Identity
from pyfuncserver.ports import Ports
from pyfuncserver.protocol.rest.app import application, metrics_application
from pyfuncserver.protocol.rest.front import HttpFront
from pyfuncserver.protocol.rest.handler import Surroundings
from pyfuncserver.protocol.rest.transport import choice
from pyfuncserver.protocol.rest.transport.connection import Limits
from pyfuncserver.scoreboard import BEAT_INTERVAL_S, Scoreboard
from pyfuncserver.utils import logs, tls

log = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 5


def run(config: Config, ports: Ports, scoreboard: Scoreboard, lifeline: int) -> int:
    """Serve until told to stop; then push once more and take the pushed group away."""
    logs.set_role("monitor")
    instruments.install("monitor")
    return choice.run(config, _serve(config, ports, scoreboard, lifeline))


async def _serve(config: Config, ports: Ports, scoreboard: Scoreboard, lifeline: int) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)

    def lose_supervisor() -> None:
        loop.remove_reader(lifeline)
        scoreboard.set_closing()
        stopping.set()

    async def beat() -> None:
        while True:
            scoreboard.beat_monitor()
            await asyncio.sleep(BEAT_INTERVAL_S)

    loop.add_reader(lifeline, lose_supervisor)
    beating = asyncio.ensure_future(beat())
    fronts = _fronts(config, ports, scoreboard)
    for front in fronts:
        front.start()
    pusher = None
    if config.pushes_metrics:
        pusher = Pusher(
            config.pushgateway_url,
            config.pushgateway_push_interval_sec,
            config.model_name,
            config.model_version,
            exposition.registry(scoreboard),
        )
        pusher.start()
    await stopping.wait()
    if pusher is not None:
        await asyncio.to_thread(pusher.stop)
    for front in fronts:
        await front.drain(DRAIN_TIMEOUT_S, last=scoreboard.is_closing)
    beating.cancel()
    return 0


class _TheModel(Catalogue):
    """The one model of the daemon, of which only the name is known here; it may be unloaded."""

    def __init__(self, identity: Identity, scoreboard: Scoreboard) -> None:
        super().__init__([Entry(identity)], identity.full_name)
        self._scoreboard = scoreboard

    def __iter__(self) -> Iterator[Entry]:
        return map(self._as_it_is, super().__iter__())

    def demand(self, key: str) -> Entry:
        return self._as_it_is(super().demand(key))

    def _as_it_is(self, entry: Entry) -> Entry:
        return replace(entry, why_not=UNLOADED) if self._scoreboard.is_unloaded else entry


def _names(config: Config, scoreboard: Scoreboard) -> Catalogue:
    """Say what can be said of the models here: of one its name, of a repository's nothing."""
    if config.model_repository:
        return Catalogue([], is_repository=True)
    return _TheModel(Identity.of(config), scoreboard)


def _fronts(config: Config, ports: Ports, scoreboard: Scoreboard) -> list[HttpFront]:
    """Make what serves HTTP where the workers do not: their port, and that of the metrics."""
    around = Surroundings(
        models=_names(config, scoreboard),
        scoreboard=scoreboard,
        slow_work=ThreadPoolExecutor(1, thread_name_prefix="exposition"),
        has_docs=config.docs_enabled,
        metrics_path=config.http_metrics_path,
        logs_all=config.logs_pages,
    )
    fronts = []
    if not config.speaks_http:
        fronts.append(_front(config, ports.http, application(around)))
    if ports.metrics is not None:
        there = replace(around, metrics_path=config.metrics_path)
        fronts.append(_front(config, ports.metrics, metrics_application(there)))
    return fronts


def _front(config: Config, listener: socket.socket, served: Application) -> HttpFront:
    secured = tls.of(config.tls_cert, config.tls_key, config.tls_client_ca)
    return HttpFront(choice.transport(config, served, {}, secured), listener, Limits.of(config))
