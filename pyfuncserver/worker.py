"""What one worker runs: a loop, the front ends, and the model it has.

The loop is this process's main thread; predictions run on threads of their own, so that probes,
signals and the lifeline are served whatever the model does.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pyfuncserver.codec import inference, upi
from pyfuncserver.config import Config
from pyfuncserver.errors import PredictionTimedOut, ServingError, StartupError
from pyfuncserver.metrics import instruments
from pyfuncserver.metrics.meters import Where
from pyfuncserver.model import addresses, repository
from pyfuncserver.model.exchange import Entrance
from pyfuncserver.model.lanes import Lanes
from pyfuncserver.model.pyfunc import PyFuncRunner
from pyfuncserver.model.roster import Roster
from pyfuncserver.model.service import InferenceService, Stand
from pyfuncserver.orders import NO_ORDERS, Action, Orders, Outcomes
from pyfuncserver.ports import Ports
from pyfuncserver.protocol.reloading import Reloader
from pyfuncserver.protocol.rest.app import application, predictions
from pyfuncserver.protocol.rest.cloudevents import Origin
from pyfuncserver.protocol.rest.front import HttpFront
from pyfuncserver.protocol.rest.handler import Surroundings
from pyfuncserver.protocol.rest.transport import choice
from pyfuncserver.protocol.rest.transport.connection import Limits
from pyfuncserver.reports import Reports
from pyfuncserver.scoreboard import BEAT_INTERVAL_S, Restart, Scoreboard
from pyfuncserver.utils import logs, processes, tls, tracing
from pyfuncserver.utils.tokens import Tokens
from pyfuncserver.utils.tracing import Tracing

if TYPE_CHECKING:
    from pyfuncserver.model.spans import Spans

log = logging.getLogger(__name__)

STANDARD_ERROR = 2
FAREWELL_S = 0.5
"""So long before the end of a drain an answer in parts is cut, for its client to be told."""
LONGEST_WARM_UP_S = 60.0
"""Where PREDICT_TIMEOUT_SEC does not say how long a prediction may take."""


@dataclass(frozen=True)
class Place:
    """What a worker is given by the supervisor: where it stands and whom it hears."""

    config: Config
    ports: Ports
    scoreboard: Scoreboard
    reports: Reports
    slot: int
    lifeline: int
    """A descriptor at whose end the supervisor is gone."""
    address: str = ""
    """Where the models are."""
    must_warm_up: bool = False
    """A model that cannot answer its own example is not to take over from one that serves."""
    orders: Orders = NO_ORDERS
    """What is to be served of what is found."""
    outcomes: Outcomes = field(default_factory=Outcomes)
    """What became of what clients have asked for."""


def run(place: Place, roster: Roster) -> int:
    """Serve until told to stop, then drain. Gives the exit status: 0, or 1 if requests were cut.

    Raises: StartupError where a port cannot be bound, or the model fails at its own example.
    """
    logs.set_role(f"worker-{place.slot}")
    instruments.set_identity(str(place.slot))
    processes.forget_signals_in_forks()
    return choice.run(place.config, _Worker(place, roster).serve())


class _Errand:
    """A job of our own for a model's one thread."""

    needs_thread = False

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def run(self, _: Where) -> None:
        self._work()

    def finish(self) -> None:
        """Tell nobody: who waits for it is told by the work itself."""

    def time_out(self) -> None:
        """Tell nobody, for the same reason."""


class _Worker:
    def __init__(self, place: Place, roster: Roster) -> None:
        self._place = place
        self._roster = roster
        self._meters = meters = instruments.Instruments()
        config = place.config
        for key, runner in roster.runners.items():
            identity = roster.catalogue[key].identity
            meters.model.labels(
                identity.name, identity.version, key,
                config.project, runner.kind.value, runner.loader_module,
            ).set(1)  # fmt: skip

        self._tls = tls.of(config.tls_cert, config.tls_key, config.tls_client_ca)
        self._tokens = Tokens(config.token_file) if config.token_file else None
        self._tracing = Tracing(config.title) if config.tracing else None
        self._spans = _spans(self._tracing)
        self._lanes = {
            key: Lanes(config, runner, meters, self._on_stuck)
            for key, runner in roster.runners.items()
        }
        reloader = Reloader(
            place.scoreboard, place.outcomes, self._ask_for_change, self._could_load
        )
        self._http = None
        if config.speaks_http:
            self._http_service = self._service({k: it.http for k, it in self._lanes.items()})
            self._http = self._http_front(self._http_service, reloader)
        self._rpc = None
        if config.speaks_upi:
            from pyfuncserver.protocol.grpc_services import servicers  # only where gRPC is spoken
            from pyfuncserver.protocol.rpc.front import RpcFront

            assert place.ports.grpc_port is not None
            self._rpc = RpcFront(
                self._service({k: it.grpc for k, it in self._lanes.items()}),
                servicers(config, roster.catalogue, reloader, meters.count_feedback),
                config,
                place.ports.grpc_port,
                is_ready=lambda: place.scoreboard.is_ready,
                authorize=self._tokens.accepts if self._tokens is not None else None,
                tls=self._tls,
            )
        self._stopping = asyncio.Event()
        self._is_leaving = False
        self._lifetime = _lifetime(config)

    def _service(self, lanes: Mapping[str, Entrance]) -> InferenceService:
        stands = {key: Stand(self._roster.runners[key], lane) for key, lane in lanes.items()}
        models, logs_all = self._roster.catalogue, self._place.config.access_log
        return InferenceService(stands, self._meters, logs_all, models, self._spans)

    def _could_load(self, name: str) -> bool:
        """Tell whether the repository may have a model of this name, though it be a new one."""
        config = self._place.config
        if not config.model_repository:
            return False
        if addresses.is_remote(config.address):  # only who fetches it again knows
            return repository.could_have(name)
        return repository.has(Path(self._place.address), name)

    def _http_front(self, service: InferenceService, reloader: Reloader) -> HttpFront:
        around = Surroundings(
            models=self._roster.catalogue,
            scoreboard=self._place.scoreboard,
            slow_work=ThreadPoolExecutor(1, thread_name_prefix="exposition"),
            service=service,
            tokens=self._tokens,
            reloader=reloader,
            origin=Origin.of(self._place.config),
            has_docs=self._place.config.docs_enabled,
            passes_payload=self._place.config.payload_passthrough,
            count_feedback=self._meters.count_feedback,
            metrics_path=self._place.config.http_metrics_path,
            logs_all=self._place.config.logs_pages,
            max_body_size=self._place.config.max_body_size,
        )
        config = self._place.config
        transport = choice.transport(
            config, application(around), predictions(around), self._tls, self._count_refusal
        )
        return HttpFront(transport, self._place.ports.http, Limits.of(config))

    def _count_refusal(self, status: int) -> None:
        self._meters.refusals.labels(str(status)).inc()

    async def serve(self) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        loop.add_reader(self._place.lifeline, self._lose_supervisor)
        for key, runner in self._roster.runners.items():
            if runner.has_example:
                await self._warm_up(key, runner)
            if self._stopping.is_set():
                return 0
        if self._rpc is not None:
            self._rpc.start()
        if self._http is not None:
            for lanes in self._lanes.values():
                lanes.use_loop(loop)
            self._http.start()
        self._place.scoreboard.beat(self._place.slot)
        self._place.reports.send("ready", slot=self._place.slot)
        pulse = asyncio.ensure_future(self._pulse())
        pulse.add_done_callback(_tell_of_failure)
        await self._stopping.wait()
        is_clean = await self._drain()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
        pulse.cancel()
        return 0 if is_clean else 1

    def _on_sigterm(self) -> None:
        """End, if it was the supervisor; else let it put another worker in this one's place."""
        if self._place.scoreboard.is_leaving(self._place.slot):
            self._stopping.set()
        elif not self._place.scoreboard.is_draining:  # else the supervisor's word is to come
            log.warning("SIGTERM from somebody else than the supervisor")
            self._ask_for_replacement(Restart.SIGNAL)

    async def _warm_up(self, key: str, runner: PyFuncRunner) -> None:
        """Have a model answer its own example, so that no client waits for a first call.

        Raises: StartupError where it fails and must not.
        """
        log.info("warming up %s with the model's input example", key)
        started = time.monotonic()
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        failures: list[ServingError] = []

        def answer() -> None:
            try:
                runner.warm_up()
            except ServingError as failure:
                failures.append(failure)
            finally:
                loop.call_soon_threadsafe(done.set)

        # A daemon thread, and not the loop: should it hang, the lifeline and SIGTERM are still
        # heard, and nobody waits for it.
        own_thread = self._lanes[key].own_thread
        if own_thread is None:
            threading.Thread(target=answer, name="warm-up", daemon=True).start()
        else:
            own_thread.submit(_Errand(answer))
        waits = [asyncio.ensure_future(event.wait()) for event in (done, self._stopping)]
        limit_s = self._place.config.predict_timeout_sec or LONGEST_WARM_UP_S
        await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self._stopping.is_set():
            return
        if not done.is_set():
            failures.append(PredictionTimedOut(limit_s))
            log.error("the model does not answer its own input example within %g s", limit_s)
        if not failures:
            log.info("warmed up in %.2f s", time.monotonic() - started)
        elif self._place.must_warm_up and self._is_at_issue(key):
            raise StartupError(f"{key}: {failures[0]} (at the model's own input example)")

    def _is_at_issue(self, key: str) -> bool:
        """Tell whether it may be for this model that the models are loaded anew."""
        return self._place.orders.asked in ("", self._roster.catalogue[key].identity.name)

    def _lose_supervisor(self) -> None:
        log.error("the supervisor is gone; draining")
        asyncio.get_running_loop().remove_reader(self._place.lifeline)
        self._place.scoreboard.set_closing()
        self._stopping.set()

    async def _pulse(self) -> None:
        """Beat, as long as the loop turns; and see what has become due meanwhile."""
        while True:
            self._place.scoreboard.beat(self._place.slot)
            # The supervisor has decided: gRPC health turns before the drain starts.
            if self._rpc is not None and self._place.scoreboard.is_draining:
                self._rpc.tell_not_serving()
            if self._predictions() >= self._lifetime:
                self._ask_for_replacement(Restart.RECYCLED)
            await asyncio.sleep(BEAT_INTERVAL_S)

    def _predictions(self) -> int:
        return sum(lanes.started for lanes in self._lanes.values())

    def _on_stuck(self) -> None:
        """A prediction outran its limit: show where it hangs. Called on a lane's thread."""
        self._ask_for_replacement(Restart.TIMEOUT)
        log.error("a prediction hangs (PREDICT_TIMEOUT_SEC); the stacks of all threads follow")
        faulthandler.dump_traceback(STANDARD_ERROR, all_threads=True)

    def _ask_for_replacement(self, reason: Restart) -> None:
        """Ask once; until a replacement serves, this worker does."""
        if not self._is_leaving:
            self._is_leaving = True
            self._place.reports.send("replace", slot=self._place.slot, reason=reason.value)

    def _ask_for_change(self, action: Action, name: str, ticket: int) -> None:
        slot = self._place.slot
        self._place.reports.send("change", slot=slot, action=action.value, name=name, ticket=ticket)

    def _is_last(self) -> bool:
        return self._place.scoreboard.is_closing

    async def _drain(self) -> bool:
        timeout_s = self._place.config.drain_timeout_sec
        started = time.monotonic()
        drains = []
        cuts: list[int] = []
        fronts = [front for front in (self._http, self._rpc) if front is not None]
        closed: list[bool] = []

        def note_closed() -> None:
            closed.append(True)
            if len(closed) < len(fronts):
                return
            try:
                self._place.reports.send("closed", slot=self._place.slot)  # twice does no harm
            except BrokenPipeError:
                log.debug("nobody is there to be told that this worker takes no connection")

        if self._http is not None:
            drains.append(self._http.drain(timeout_s, self._is_last(), note_closed))
            left_s = timeout_s - min(FAREWELL_S, timeout_s / 4)
            asyncio.get_running_loop().call_later(
                left_s, lambda: cuts.append(self._http_service.cut_streams())
            )
        if self._rpc is not None:
            drains.append(asyncio.to_thread(self._rpc.drain, timeout_s, self._is_last, note_closed))
        ends = await asyncio.gather(*drains, return_exceptions=True)
        for error in ends:
            if isinstance(error, BaseException):
                log.error("a drain has failed", exc_info=error)
        is_clean = all(end is True for end in ends) and not any(cuts)
        took_s = time.monotonic() - started
        if is_clean:
            log.info("drained in %.2f s", took_s)
        else:
            log.error("open requests were cut off after %.2f s (DRAIN_TIMEOUT_SEC)", took_s)
        return is_clean


def _tell_of_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the pulse has stopped; this worker will be replaced", exc_info=error)


def _spans(tracing: Tracing | None) -> Spans | None:
    if tracing is None:
        return None
    from pyfuncserver.model.spans import Spans  # only where there are any

    return Spans(tracing.tracer)


def _lifetime(config: Config) -> float:
    """Give the number of predictions after which a worker is to be replaced."""
    if not config.max_requests:
        return math.inf
    return config.max_requests + random.randint(0, config.max_requests_jitter)


def preload(config: Config) -> None:
    """Import what a worker needs, so that workers share it instead of importing it each.

    Call it when the model has been loaded: which UPI messages are used depends on what it brings.
    """
    if config.tracing:
        tracing.preload()
        import_module("pyfuncserver.model.spans")
    if config.speaks_upi:
        import_module("pyfuncserver.protocol.rpc.front")  # grpc starts nothing when imported
        import_module("pyfuncserver.protocol.grpc_services")
        upi.messages()
        inference.messages()
