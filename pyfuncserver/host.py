"""The process that loads the model: a host that forks workers which share it, or one worker.

Everything of the user's runs here and below, never in the supervisor.
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import select
import signal
from dataclasses import dataclass, replace
from typing import Any

from pyfuncserver import worker
from pyfuncserver.config import ModelLoading
from pyfuncserver.errors import StartupError
from pyfuncserver.metrics import instruments
from pyfuncserver.model import loader
from pyfuncserver.model.pyfunc import PyFuncRunner
from pyfuncserver.utils import logs, processes
from pyfuncserver.worker import Place

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reports:
    """The way up: one JSON line an event, into the pipe that the supervisor reads."""

    descriptor: int

    def send(self, event: str, **details: Any) -> None:
        os.write(self.descriptor, self._line(event, details))

    def fail(self, reason: str) -> None:
        """Tell why this process cannot serve; cut to what a pipe takes in one piece."""
        while len(line := self._line("failed", {"reason": reason})) > select.PIPE_BUF:
            reason = reason[: len(reason) * 3 // 4]
        os.write(self.descriptor, line)

    @staticmethod
    def _line(event: str, details: dict[str, Any]) -> bytes:
        return (json.dumps({"event": event, "pid": os.getpid(), **details}) + "\n").encode()


def run(place: Place, generation: int, reports: Reports, commands: int | None) -> int:
    """Load the model, then serve it, or fork workers as ``commands`` asks. Gives an exit status."""
    is_host = commands is not None
    logs.set_role("model-host" if is_host else f"worker-{place.slot}")
    # While the user's code loads nobody watches the lifeline; the kernel does it instead.
    processes.die_with_parent(signal.SIGKILL)
    instruments.install(f"host{generation % 2}" if is_host else str(place.slot))
    try:
        loaded = loader.load(place.config.model_dir)
        runner = PyFuncRunner(loaded.pyfunc, loaded.loader_module)
        worker.preload(place.config)
        _settle_heap()
        logs.restore(place.config.log_level.value)
        _take_signals_back()
        if commands is not None:
            if _may_fork(place.config.model_loading):
                reports.send("loaded", generation=generation)
                return _fork_on_command(place, runner, reports, commands)
            reports.send("unforkable", generation=generation, slot=place.slot)
        processes.die_with_parent(0)
        return _serve(place, runner, reports)
    except StartupError as error:
        reports.fail(str(error))
        return 1
    finally:
        # The loader owns what the model has made (temporary files, connections); its forks do not.
        atexit._run_exitfuncs()


def _take_signals_back() -> None:
    """Undo what the model may have done: a handler that reaps children would take our forks."""
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _settle_heap() -> None:
    """Take what was loaded out of the collector's sight, so that no collection walks over it.

    It keeps collections short, and pages that nobody writes stay shared after a fork.
    """
    gc.collect()
    gc.freeze()


def _may_fork(wish: ModelLoading) -> bool:
    threads = processes.unsafe_threads()
    if not threads:
        return True
    names = ", ".join(threads)
    if wish is ModelLoading.PRELOAD:
        log.warning("forking in spite of living threads (MODEL_LOADING=preload): %s", names)
        return True
    log.warning(
        "the model cannot be shared, each worker loads its own: threads live after the load: %s",
        names,
    )
    return False


def _serve(place: Place, runner: PyFuncRunner, reports: Reports) -> int:
    return worker.run(place, runner, lambda: reports.send("ready", slot=place.slot))


def _fork_on_command(place: Place, runner: PyFuncRunner, reports: Reports, commands: int) -> int:
    """Fork a worker for each slot number that comes, one a line, until nobody can send any."""
    # From here on the end of the commands tells that the supervisor is gone.
    processes.die_with_parent(0)
    pending = b""
    while True:
        data = os.read(commands, 4096)
        if not data:
            processes.kill_children()
            return 0
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            _fork_worker(replace(place, slot=int(line)), runner, reports, commands)


def _fork_worker(place: Place, runner: PyFuncRunner, reports: Reports, commands: int) -> None:
    def be_worker() -> int:
        reports.send("started", slot=place.slot)
        os.close(commands)
        try:
            return _serve(place, runner, reports)
        except StartupError as error:
            reports.fail(str(error))
            return 1

    try:
        processes.fork_orphan(be_worker)
    except OSError as error:
        log.error("worker %d cannot be forked: %s", place.slot, error)
        reports.send("not_forked", slot=place.slot)
