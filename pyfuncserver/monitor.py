"""The monitor of a daemon without HTTP workers: metrics and health, and the push thread.

It runs no user code, so it answers whatever the workers do; what it answers is the scoreboard's.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from concurrent.futures import ThreadPoolExecutor

from pyfuncserver.config import Config
from pyfuncserver.metrics import exposition, instruments
from pyfuncserver.metrics.pusher import Pusher
from pyfuncserver.model.identity import Identity
from pyfuncserver.ports import Ports
from pyfuncserver.protocol.rest.app import application
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
    front = None
    if not config.speaks_http:
        around = Surroundings(
            model=Identity.of(config),
            scoreboard=scoreboard,
            slow_work=ThreadPoolExecutor(1, thread_name_prefix="exposition"),
        )
        secured = tls.of(config.tls_cert, config.tls_key, config.tls_client_ca)
        transport = choice.transport(config, application(around), {}, secured)
        front = HttpFront(transport, ports.http, Limits.of(config))
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
    if front is not None:
        await front.drain(DRAIN_TIMEOUT_S, last=scoreboard.is_closing)
    beating.cancel()
    return 0
