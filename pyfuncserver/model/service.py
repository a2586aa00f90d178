"""The InferenceService: the one place for which model, metrics, and what a failure becomes."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping, Sequence

from pyfuncserver.errors import InternalError, ServingError, UnknownModel
from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.model.call import Dialect, ModelRunner, Reply, Request
from pyfuncserver.utils import logs

log = logging.getLogger(__name__)


class InferenceService:
    """Answers requests in any dialect with the models of this process. Thread-safe."""

    def __init__(self, runners: Mapping[str, ModelRunner], instruments: Instruments) -> None:
        self._runners = runners
        self._instruments = instruments

    @property
    def models(self) -> Sequence[str]:
        return list(self._runners)

    def handle(self, dialect: Dialect, request: Request) -> Reply:
        """Answer a request, to its end, on this thread; never raises."""
        started = time.monotonic()
        in_flight = self._instruments.in_flight.labels(dialect.name)
        in_flight.inc()
        try:
            with logs.request(request.id):
                reply, fault = self._answer(dialect, request)
                took_s = time.monotonic() - started
                log.info(
                    "%s %s status=%s in %.1f ms%s",
                    dialect.name, request.model, reply.status, took_s * 1000, fault,
                )  # fmt: skip
        finally:
            in_flight.dec()
        self._instruments.requests.labels(dialect.name, str(reply.status)).inc()
        self._instruments.duration.labels(dialect.name).observe(took_s)
        return reply

    def _answer(self, dialect: Dialect, request: Request) -> tuple[Reply, str]:
        """Give the reply, and what went wrong, if anything did."""
        try:
            runner = self._runner(request.model)
            return dialect.encode(runner.predict(dialect.decode(request))), ""
        except ServingError as error:
            failure = error
        except Exception as error:  # ours: the top of what a request runs
            failure = InternalError(uuid.uuid4().hex)
            log.error("an internal error, error_id=%s", failure.error_id, exc_info=error)
        self._instruments.errors.labels(dialect.name, failure.kind.label).inc()
        return dialect.error(failure), f": {failure}"

    def _runner(self, model: str) -> ModelRunner:
        runner = self._runners.get(model)
        if runner is None:
            raise UnknownModel(model)
        return runner
