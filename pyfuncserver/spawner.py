"""How the supervisor's children are made: what each inherits, and what it must not keep."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from pyfuncserver.config import Config, ModelLoading
from pyfuncserver.fleet import Generation, Loading, Worker
from pyfuncserver.metrics import directory
from pyfuncserver.orders import Orders, Outcomes
from pyfuncserver.ports import Ports
from pyfuncserver.scoreboard import Scoreboard
from pyfuncserver.utils import heap, processes

log = logging.getLogger(__name__)


class Spawner:
    """Forks hosts, workers and the monitor. The supervisor's side of both pipes is here."""

    def __init__(
        self,
        config: Config,
        ports: Ports,
        scoreboard: Scoreboard,
        outcomes: Outcomes,
        metrics_dir: Path,
    ) -> None:
        self._config = config
        self._ports = ports
        self._scoreboard = scoreboard
        self._outcomes = outcomes
        self._metrics_dir = metrics_dir
        self.reports, self._reports_in = os.pipe()
        """Descriptor from which the children's reports are read; it does not block."""
        self._lifeline, self._lifeline_in = os.pipe()
        os.set_blocking(self.reports, False)
        self._commands: set[int] = set()
        self._is_adopting = processes.become_subreaper()

    def load(
        self, number: int, slot: int, host_name: str, is_reload: bool, orders: Orders
    ) -> Generation:
        """Begin a generation: by a host, or by workers that each load for themselves.

        Raises: OSError where the system refuses the process.
        """
        config = self._config
        if config.workers == 1 or config.model_loading is ModelLoading.WORKER:
            return Generation(number, Loading.SEPARATE, is_reload, orders=orders)
        if not self._is_adopting:
            log.warning("this system has no subreapers: each worker loads its own model")
            return Generation(number, Loading.SEPARATE, is_reload, orders=orders)
        # The slot is for a host that finds it must not fork: then it serves as a worker itself.
        generation = Generation(number, Loading.UNDECIDED, is_reload, reserved=slot, orders=orders)
        generation.host_name = host_name
        commands, commands_in = os.pipe()
        self._commands.add(commands_in)
        generation.commands = commands_in
        try:
            generation.host_pid = self._fork(
                lambda: self._run_host(slot, generation, commands, is_reload)
            )
        except OSError:
            self.close_commands(generation)
            raise
        finally:
            os.close(commands)
        return generation

    def start_worker(self, generation: Generation, slot: int, must_warm_up: bool) -> Worker | None:
        """Have a worker forked; None where its host has just died.

        ``must_warm_up`` says that it is no use where it cannot answer the model's example.

        Raises: OSError where the system refuses the process.
        """
        worker = Worker(slot, generation, time.monotonic())
        directory.retire(self._metrics_dir, str(slot))
        if generation.loading is Loading.FORKED:
            try:
                os.write(generation.commands, f"{slot} {must_warm_up:d}\n".encode())
            except BrokenPipeError:
                log.debug("the host has just died; its burial follows")
                return None
        else:
            worker.pid = self._fork(lambda: self._run_host(slot, generation, None, must_warm_up))
        return worker

    def start_monitor(self) -> int:
        """Fork the monitor; give its pid."""

        def child() -> int:
            from pyfuncserver import monitor

            return monitor.run(self._config, self._ports, self._scoreboard, self._lifeline)

        directory.retire(self._metrics_dir, "monitor")
        return self._fork(child)

    def close_commands(self, generation: Generation) -> None:
        """Tell a host that it forks no more; it then ends."""
        if generation.commands >= 0:
            os.close(generation.commands)
            self._commands.discard(generation.commands)
            generation.commands = -1

    def _run_host(
        self, slot: int, generation: Generation, commands: int | None, must_warm_up: bool
    ) -> int:
        # Imported by the child alone: the supervisor never has the weight of what this brings.
        with heap.no_collections():
            from pyfuncserver import host, worker
            from pyfuncserver.reports import Reports

        place = worker.Place(
            self._config,
            self._ports,
            self._scoreboard,
            Reports(self._reports_in),
            slot,
            self._lifeline,
            must_warm_up=must_warm_up,
            address=generation.located or self._config.address,
            orders=generation.orders,
            outcomes=self._outcomes,
        )
        return host.run(place, generation.host_name, commands)

    def _fork(self, child: Callable[[], int]) -> int:
        """Fork a child that keeps no descriptor by which others know that the supervisor lives."""

        def clean_child() -> int:
            for descriptor in (self._lifeline_in, self.reports, *self._commands):
                os.close(descriptor)
            return child()

        return processes.fork(clean_child)
