"""The lanes of one model: where its calls run and wait, in one worker."""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop
from collections.abc import Callable

from pyfuncserver.config import Config
from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.model.assembly import Assembly
from pyfuncserver.model.batch import Batcher, Ticket
from pyfuncserver.model.batch_size import BatchSize, FixedSize, MeasuredSize
from pyfuncserver.model.batching import BatchingLane
from pyfuncserver.model.lane import Lane
from pyfuncserver.model.pyfunc import PyFuncRunner

log = logging.getLogger(__name__)


class Lanes:
    """A lane for each protocol, or one for both: where calls are put together, or have one thread.

    ``when_stuck`` is called where a prediction has outrun its limit.
    """

    def __init__(
        self,
        config: Config,
        runner: PyFuncRunner,
        instruments: Instruments,
        when_stuck: Callable[[], None],
    ) -> None:
        self._config = config
        self._when_stuck = when_stuck
        self.own_thread: Lane | None = None
        """The lane of the one thread that runs everything, where the model belongs to one."""
        if config.has_fixed_thread or runner.belongs_to_thread:
            self.own_thread = self._lane(1)
        self._shared: Lane | BatchingLane | None = self.own_thread
        if config.batches and runner.is_divisible:
            self._shared = self._batching_lane(runner, instruments)
        elif config.batches:
            log.warning("BATCH_MAX_SIZE is without effect: this model's calls cannot be divided")
        self._for_loop: Lane | None = None
        if self._shared is not None:
            self.http: Lane | BatchingLane = self._shared
            self.grpc: Lane | BatchingLane = self._shared
            return
        self.http = lane = self._lane(int(config.threads))
        self.grpc = self._lane(config.grpc_concurrency)
        if not config.predict_timeout_sec:  # nobody answers for what hangs on the loop
            self._for_loop = lane

    def _lane(self, width: int, depth: int | None = None) -> Lane:
        config = self._config
        depth = config.max_queue if depth is None else depth
        return Lane(width, depth, config.predict_timeout_sec, self._when_stuck)

    def _batching_lane(self, runner: PyFuncRunner, instruments: Instruments) -> BatchingLane:
        """Make the one lane of all protocols, where calls are put together."""
        config, size = self._config, _batch_size(self._config)
        width = 1 if self.own_thread is not None else int(config.threads)
        batches = self._lane(width, width)
        if self.own_thread is not None:
            self.own_thread = batches
        assembly: Assembly[Ticket] = Assembly(size, config.batch_max_delay_ms / 1000)
        batcher = Batcher(runner, size)
        return BatchingLane(batches, width, config.max_queue, batcher, assembly, instruments)

    @property
    def started(self) -> int:
        """Count the predictions that have begun so far."""
        if self._shared is not None:  # a batching lane's own jobs are batches
            return self._shared.started
        return self.http.started + self.grpc.started

    def use_loop(self, loop: AbstractEventLoop) -> None:
        """Let what is short run on the loop, where it may."""
        if self._for_loop is not None:
            self._for_loop.use_loop(loop)


def _batch_size(config: Config) -> BatchSize:
    if config.batch_max_size == "auto":
        return MeasuredSize()
    return FixedSize(config.batch_max_size)
