"""What one worker runs: a loop, the front ends, and the model it has.

The loop is this process's main thread; predictions run on threads of their own, so that probes,
signals and the lifeline are served whatever the model does.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module

from pyfuncserver.codec import upi
from pyfuncserver.config import Config
from pyfuncserver.metrics import instruments
from pyfuncserver.model.pyfunc import PyFuncRunner
from pyfuncserver.model.service import InferenceService
from pyfuncserver.ports import Ports
from pyfuncserver.protocol.rest.app import Surroundings, application
from pyfuncserver.protocol.rest.front import HttpFront
from pyfuncserver.scoreboard import Scoreboard
from pyfuncserver.utils import logs, processes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """What a worker is given by the supervisor: where it stands and whom it hears."""

    config: Config
    ports: Ports
    scoreboard: Scoreboard
    slot: int
    lifeline: int
    """A descriptor at whose end the supervisor is gone."""


def run(place: Place, runner: PyFuncRunner, when_ready: Callable[[], None]) -> int:
    """Serve until told to stop, then drain. Gives the exit status: 0, or 1 if requests were cut.

    Raises: StartupError where a port cannot be bound.
    """
    logs.set_role(f"worker-{place.slot}")
    instruments.set_identity(str(place.slot))
    processes.forget_signals_in_forks()
    return asyncio.run(_Worker(place, runner).serve(when_ready))


class _Worker:
    def __init__(self, place: Place, runner: PyFuncRunner) -> None:
        self._place = place
        config = place.config
        meters = instruments.Instruments()
        meters.model.labels(
            config.model_name,
            config.model_version,
            config.full_name,
            config.project,
            runner.kind.value,
            runner.loader_module,
        ).set(1)
        service = InferenceService({config.full_name: runner}, meters)
        self._http = self._http_front(service) if config.speaks_http else None
        self._upi = None
        if config.speaks_upi:
            from pyfuncserver.protocol.upi.front import UpiFront  # only where gRPC is spoken

            assert place.ports.grpc_port is not None
            self._upi = UpiFront(
                service,
                config.full_name,
                place.ports.grpc_port,
                config.grpc_concurrency,
                config.grpc_options,
            )
        self._stopping = asyncio.Event()
        self._is_orphan = False

    def _http_front(self, service: InferenceService) -> HttpFront:
        around = Surroundings(
            model=self._place.config.full_name,
            scoreboard=self._place.scoreboard,
            slow_work=ThreadPoolExecutor(1, thread_name_prefix="exposition"),
            service=service,
            predictions=ThreadPoolExecutor(1, thread_name_prefix="predict"),
        )
        return HttpFront(application(around), self._place.ports.http)

    async def serve(self, when_ready: Callable[[], None]) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_reader(self._place.lifeline, self._lose_supervisor)
        if self._upi is not None:
            self._upi.start()
        if self._http is not None:
            self._http.start()
        when_ready()
        watch = asyncio.ensure_future(self._watch_readiness())
        await self._stopping.wait()
        watch.cancel()
        is_clean = await self._drain()
        if self._is_orphan:
            processes.kill_children()
        return 0 if is_clean else 1

    def _lose_supervisor(self) -> None:
        log.error("the supervisor is gone; draining")
        self._is_orphan = True
        asyncio.get_running_loop().remove_reader(self._place.lifeline)
        self._place.scoreboard.set_draining()
        self._stopping.set()

    async def _watch_readiness(self) -> None:
        """Pass on what the supervisor has decided: gRPC health turns before the drain starts."""
        while self._upi is not None:
            if self._place.scoreboard.is_draining:
                self._upi.tell_not_serving()
                return
            await asyncio.sleep(0.1)

    async def _drain(self) -> bool:
        timeout_s = self._place.config.drain_timeout_sec
        started = time.monotonic()
        last = self._place.scoreboard.is_draining
        drains = []
        if self._http is not None:
            drains.append(self._http.drain(timeout_s, last))
        if self._upi is not None:
            drains.append(asyncio.to_thread(self._upi.drain, timeout_s, last))
        is_clean = all(await asyncio.gather(*drains))
        took_s = time.monotonic() - started
        if is_clean:
            log.info("drained in %.2f s", took_s)
        else:
            log.error("open requests were cut off after %.2f s (DRAIN_TIMEOUT_SEC)", took_s)
        return is_clean


def preload(config: Config) -> None:
    """Import what a worker needs, so that workers share it instead of importing it each.

    Call it when the model has been loaded: which UPI messages are used depends on what it brings.
    """
    if config.speaks_upi:
        import_module("pyfuncserver.protocol.upi.front")  # grpc starts nothing when imported
        upi.messages()
