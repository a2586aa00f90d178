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
from pyfuncserver.ports import Ports
from pyfuncserver.protocol.rest.app import Surroundings, application
from pyfuncserver.protocol.rest.front import HttpFront
from pyfuncserver.scoreboard import Scoreboard
from pyfuncserver.utils import logs

log = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 5


def run(config: Config, ports: Ports, scoreboard: Scoreboard, lifeline: int) -> int:
    """Serve until told to stop; then push once more and take the pushed group away."""
    logs.set_role("monitor")
    instruments.install("monitor")
    return asyncio.run(_serve(config, ports, scoreboard, lifeline))


async def _serve(config: Config, ports: Ports, scoreboard: Scoreboard, lifeline: int) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)

    def lose_supervisor() -> None:
        loop.remove_reader(lifeline)
        scoreboard.set_draining()
        stopping.set()

    loop.add_reader(lifeline, lose_supervisor)
    front = None
    if not config.speaks_http:
        around = Surroundings(
            model=config.full_name,
            scoreboard=scoreboard,
            slow_work=ThreadPoolExecutor(1, thread_name_prefix="exposition"),
        )
        front = HttpFront(application(around), ports.http)
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
        await front.drain(DRAIN_TIMEOUT_S, last=scoreboard.is_draining)
    return 0
