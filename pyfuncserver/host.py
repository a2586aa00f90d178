"""The process that loads the model: a host that forks workers which share it, or one worker.

Everything of the user's runs here and below, never in the supervisor.
"""

from __future__ import annotations

import atexit
import faulthandler
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

from pyfuncserver import worker
from pyfuncserver.config import ModelLoading
from pyfuncserver.errors import StartupError
from pyfuncserver.metrics import instruments
from pyfuncserver.model import addresses, loader
from pyfuncserver.model.roster import Roster, gather
from pyfuncserver.utils import heap, logs, processes
from pyfuncserver.worker import Place

log = logging.getLogger(__name__)


def run(place: Place, name: str, commands: int | None) -> int:
    """Load the model, then serve it, or fork workers as ``commands`` asks. Gives an exit status.

    ``name`` is a host's identity in the metrics directory; a worker's is its slot.
    """
    is_host = commands is not None
    reports = place.reports
    logs.set_role("model-host" if is_host else f"worker-{place.slot}")
    faulthandler.enable(worker.STANDARD_ERROR)
    # While the user's code loads nobody watches the lifeline; the kernel does it instead.
    processes.die_with_parent(signal.SIGKILL)
    instruments.install(name if is_host else str(place.slot))

    def tell(event: str, model: str, full_name: str) -> None:
        reports.send(event, slot=place.slot, name=model, model=full_name)

    try:
        address = _locate(place)
        roster = gather(place.config, address, place.orders, tell)
        place = replace(place, address=address)
        worker.preload(place.config)
        heap.settle()
        logs.restore(place.config.log_level.value)
        _take_signals_back()
        if commands is not None:
            if _may_fork(place.config.model_loading):
                reports.send("loaded")
                return _fork_on_command(place, roster, commands)
            reports.send("unforkable", slot=place.slot)
        processes.die_with_parent(0)
        return worker.run(place, roster)
    except StartupError as error:
        reports.fail(str(error))
        return 1
    finally:
        # The loader owns what the model has made (temporary files, connections); its forks do not.
        atexit._run_exitfuncs()
        processes.kill_children()


def _locate(place: Place) -> str:
    """Give where the models are on this machine, and tell it where they had to be fetched."""
    config = place.config
    if place.address != config.address:  # another process of this generation was first
        addresses.hold(Path(place.address))
        return place.address
    path = str(loader.locate(config.address, config.model_cache_dir))
    if addresses.is_remote(config.address):
        place.reports.send("located", slot=place.slot, path=path)
    return path


def _take_signals_back() -> None:
    """Undo what the model may have done: a handler that reaps children would take our forks."""
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


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


def _fork_on_command(place: Place, roster: Roster, commands: int) -> int:
    """Fork a worker for each line that comes, until nobody can send any.

    A line holds a slot, and whether (1 or 0) the worker must be able to answer the model's example.
    """
    # From here on the end of the commands tells that the supervisor is gone.
    processes.die_with_parent(0)
    pending = b""
    while True:
        data = os.read(commands, 4096)
        if not data:
            return 0
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            slot, must_warm_up = map(int, line.split())
            there = replace(place, slot=slot, must_warm_up=bool(must_warm_up))
            _fork_worker(there, roster, commands)


def _fork_worker(place: Place, roster: Roster, commands: int) -> None:
    def be_worker() -> int:
        os.close(commands)
        try:
            return worker.run(place, roster)
        except StartupError as error:
            place.reports.fail(str(error))
            return 1
        finally:
            processes.kill_children()

    def tell(pid: int) -> None:
        # Not the worker itself, which may not live long enough to say so.
        place.reports.send("started", pid=pid, slot=place.slot)

    try:
        processes.fork_orphan(be_worker, tell)
    except OSError as error:
        why = f"worker {place.slot} cannot be forked: {error}"
        place.reports.send("not_forked", slot=place.slot, reason=why)
