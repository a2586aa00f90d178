"""The supervisor: starts, watches, replaces and stops processes, and runs no user code.

It is one thread with one loop over three things: signals, reports from its children, and time.
Everything is decided in :meth:`Supervisor._converge`, which compares what is with what should be.

Workers that the model host forks are adopted by the supervisor at once (it is their subreaper), so
it hears of every death itself, with its status, whether or not the host still lives.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pyfuncserver.config import Config, ModelLoading
from pyfuncserver.errors import StartupError
from pyfuncserver.metrics import directory
from pyfuncserver.ports import Ports
from pyfuncserver.scoreboard import Scoreboard, State
from pyfuncserver.utils import processes

log = logging.getLogger(__name__)

BOOT_ATTEMPTS = 3
FORK_DEADLINE_S = 30.0
RETRY_DELAY_S = 1.0
LONGEST_RETRY_DELAY_S = 60.0
KILL_MARGIN_S = 2.0
MONITOR_STOP_S = 30.0
HOST_STOP_S = 5.0


def slots_of(config: Config) -> int:
    """Count the places for workers: two generations may stand side by side, and one is reserved."""
    return 2 * config.workers + 1


class Loading(Enum):
    """How the workers of one generation come to their model."""

    UNDECIDED = "the host still loads"
    FORKED = "the host forks them"
    SEPARATE = "each loads its own"


class Phase(Enum):
    """Where the daemon stands between serving and its end."""

    SERVING = "it serves"
    ANNOUNCED = "it says that it is not ready, and serves (DRAIN_DELAY_SEC)"
    DRAINING = "the workers finish what they have (DRAIN_TIMEOUT_SEC)"
    CLOSING = "the monitor pushes what is left, and the host runs the model's exit functions"


@dataclass(eq=False)
class Generation:
    """One load of the model, and the host that did it."""

    number: int
    loading: Loading
    host_pid: int = 0
    commands: int = -1
    """Descriptor by which the host is told to fork."""
    reserved: int = -1
    """The slot that is kept for the host until it has decided not to serve itself."""

    @property
    def can_start_workers(self) -> bool:
        return self.loading is Loading.SEPARATE or (
            self.loading is Loading.FORKED and self.host_pid != 0
        )


@dataclass(eq=False)
class Worker:
    """One worker process; ``pid`` is 0 until the host has forked it."""

    slot: int
    generation: Generation
    asked_at: float
    pid: int = 0
    state: State = State.STARTING
    is_condemned: bool = False
    """It was killed before it served; how it ended is no news."""


class Stop(Exception):
    """Ends the loop with an exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Supervisor:
    """Owns the process tree of one daemon. :meth:`run` returns its exit status."""

    def __init__(
        self, config: Config, ports: Ports, scoreboard: Scoreboard, metrics_dir: Path
    ) -> None:
        self._config = config
        self._ports = ports
        self._scoreboard = scoreboard
        self._metrics_dir = metrics_dir
        self._reports, self._reports_in = os.pipe()
        self._lifeline, self._lifeline_in = os.pipe()
        os.set_blocking(self._reports, False)
        self._unread = b""
        self._reasons: dict[int, str] = {}
        self._workers: list[Worker] = []
        self._current: Generation | None = None
        self._next: Generation | None = None
        self._monitor_pid = 0
        self._boot_failures = 0
        self._not_before = 0.0
        self._was_ready = False
        self._phase = Phase.SERVING
        self._phase_ends = float("inf")
        self._is_adopting = processes.become_subreaper()

    def run(self) -> int:
        """Serve until stopped. Raises: StartupError where the model cannot be served."""
        with _signals() as (wakeup, selector):
            selector.register(self._reports, selectors.EVENT_READ)
            try:
                while True:
                    self._try_to_converge(time.monotonic())
                    selector.select(self._seconds_to_wait(time.monotonic()))
                    for number in _drained(wakeup):
                        self._on_signal(number)
                    self._hear_and_bury()
            except Stop as stop:
                return stop.status
            finally:
                self._kill_all()

    # What should be

    def _try_to_converge(self, now: float) -> None:
        """Converge; what the system refuses now (processes, descriptors) it may grant later."""
        try:
            self._converge(now)
        except OSError as error:
            if not any(worker.state is State.READY for worker in self._workers):
                raise StartupError(f"the system refuses a process or a pipe: {error}") from None
            log.error("the system refuses a process or a pipe, trying again: %s", error)
            self._not_before = now + RETRY_DELAY_S

    def _converge(self, now: float) -> None:
        if self._phase is not Phase.SERVING:
            self._stop_in_steps(now)
            return
        if not self._monitor_pid:
            self._start_monitor()
        self._promote()
        for worker in list(self._workers):
            if not worker.pid and now > worker.asked_at + FORK_DEADLINE_S:
                log.error("worker %d was never forked", worker.slot)
                self._forget(worker)
        if now < self._not_before:
            return
        if self._next is None and (self._current is None or not self._current.can_start_workers):
            self._load_next()
        for generation in self._generations():
            if generation.can_start_workers:
                for _ in range(self._config.workers - len(self._serving(generation))):
                    self._start_worker(generation)

    def _load_next(self) -> None:
        """Load the model, for the first time or because nobody is left who could fork it."""
        if self._current is None:
            self._next = self._load(1)
        elif len(self._workers) <= self._config.workers:  # else places have to become free first
            log.warning("loading the model anew, since its host is gone")
            self._next = self._load(self._current.number + 1)

    def _serving(self, generation: Generation) -> list[Worker]:
        """List a generation's workers, less those that are on their way out."""
        return [
            worker
            for worker in self._workers
            if worker.generation is generation and worker.state is not State.DRAINING
        ]

    def _promote(self) -> None:
        """Let the next generation take over when all its workers are ready."""
        if self._next is None:
            return
        ready = [w for w in self._serving(self._next) if w.state is State.READY]
        if len(ready) < self._config.workers:
            return
        old, self._current, self._next = self._current, self._next, None
        self._scoreboard.set_generation(self._current.number)
        if old is not None:
            for worker in self._serving(old):
                self._drain(worker)
        self._announce()

    def _announce(self) -> None:
        ports = [f"HTTP on {self._ports.http_port}"]
        if self._ports.grpc_port is not None:
            ports.append(f"gRPC on {self._ports.grpc_port}")
        if not self._was_ready:
            log.info("%s is ready: %s", self._config.full_name, ", ".join(ports))
        self._was_ready = True
        self._write_ready_file()

    def _write_ready_file(self) -> None:
        if not self._config.ready_file or not self._was_ready:
            return
        state = {
            "pid": os.getpid(),
            "http_port": self._ports.http_port,
            "grpc_port": self._ports.grpc_port,
            "workers": sorted(w.pid for w in self._workers if w.state is State.READY),
        }
        path = Path(self._config.ready_file)
        try:
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            draft.write_text(json.dumps(state), encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            log.error("READY_FILE=%s cannot be written: %s", path, error)

    def _seconds_to_wait(self, now: float) -> float:
        deadlines = [self._phase_ends]
        if now < self._not_before:
            deadlines.append(self._not_before)
        deadlines += [w.asked_at + FORK_DEADLINE_S for w in self._workers if not w.pid]
        return max(0.0, min(60.0, min(deadlines) - now + 0.001))

    # Starting

    def _load(self, number: int) -> Generation:
        """Begin a generation: by a host, or by workers that each load for themselves."""
        config = self._config
        if config.workers == 1 or config.model_loading is ModelLoading.WORKER:
            return Generation(number, Loading.SEPARATE)
        if not self._is_adopting:
            log.warning("this system has no subreapers: each worker loads its own model")
            return Generation(number, Loading.SEPARATE)
        # The slot is for a host that finds it must not fork: then it serves as a worker itself.
        slot = self._free_slot()
        commands, commands_in = os.pipe()
        try:
            host_pid = self._fork(
                lambda: self._run_host(slot, number, commands), but_close=(commands_in,)
            )
        except OSError:
            os.close(commands_in)
            raise
        finally:
            os.close(commands)
        return Generation(number, Loading.UNDECIDED, host_pid, commands_in, reserved=slot)

    def _run_host(self, slot: int, generation: int, commands: int | None) -> int:
        # Imported by the child alone: the supervisor never has the weight of what this brings.
        from pyfuncserver import host, worker

        place = worker.Place(self._config, self._ports, self._scoreboard, slot, self._lifeline)
        return host.run(place, generation, host.Reports(self._reports_in), commands)

    def _start_worker(self, generation: Generation) -> None:
        slot = self._free_slot()
        worker = Worker(slot, generation, time.monotonic())
        directory.retire(self._metrics_dir, str(slot))
        if generation.loading is Loading.FORKED:
            try:
                os.write(generation.commands, f"{slot}\n".encode())
            except BrokenPipeError:
                log.debug("the host has just died; its burial follows")
                return
        else:
            worker.pid = self._fork(lambda: self._run_host(slot, generation.number, None))
        self._workers.append(worker)
        self._show(worker)

    def _free_slot(self) -> int:
        """Find a place; there is one, for no more than two generations stand side by side."""
        taken = {worker.slot for worker in self._workers}
        taken.update(generation.reserved for generation in self._generations())
        return next(n for n in range(self._scoreboard.size) if n not in taken)

    def _start_monitor(self) -> None:
        if not self._config.needs_monitor:
            return

        def child() -> int:
            from pyfuncserver import monitor

            return monitor.run(self._config, self._ports, self._scoreboard, self._lifeline)

        directory.retire(self._metrics_dir, "monitor")
        self._monitor_pid = self._fork(child)

    def _fork(self, child: Callable[[], int], but_close: tuple[int, ...] = ()) -> int:
        """Fork a child that keeps no descriptor by which others know that the supervisor lives."""

        def clean_child() -> int:
            commands = [g.commands for g in self._generations() if g.commands >= 0]
            for descriptor in (self._lifeline_in, self._reports, *commands, *but_close):
                os.close(descriptor)
            return child()

        return processes.fork(clean_child)

    # Hearing

    def _on_signal(self, number: int) -> None:
        if number not in (signal.SIGTERM, signal.SIGINT):
            return
        name = signal.Signals(number).name
        if self._phase is not Phase.SERVING:
            log.warning("%s again: stopping at once", name)
            raise Stop(128 + number)
        log.info("%s: stopping", name)
        is_serving = any(worker.state is State.READY for worker in self._workers)
        self._enter(Phase.ANNOUNCED, self._config.drain_delay_sec if is_serving else 0)
        self._scoreboard.set_draining()
        self._remove_ready_file()

    def _hear_and_bury(self) -> None:
        """Collect the dead, then read what they had said, then draw the conclusions."""
        dead = list(_reap())
        for report in self._read_reports():
            self._on_report(report)
        for pid, status in dead:
            self._on_death(pid, status)

    def _read_reports(self) -> Iterator[dict[str, Any]]:
        while True:
            try:
                data = os.read(self._reports, 65536)
            except BlockingIOError:
                return
            *lines, self._unread = (self._unread + data).split(b"\n")
            for line in lines:
                try:
                    yield json.loads(line)
                except ValueError:
                    log.warning("a report that is none: %r", line[:200])

    def _on_report(self, report: dict[str, Any]) -> None:
        event, pid = report["event"], report["pid"]
        if event == "failed":
            self._reasons[pid] = report["reason"]
        elif event in ("loaded", "unforkable"):
            self._on_loaded(report["generation"], event == "loaded", report)
        else:
            worker = self._in_slot(report["slot"])
            if worker is None or (worker.pid and worker.pid != pid):
                log.debug("a report from a worker that is forgotten: %s", report)
                if event == "started":
                    _kill(pid, signal.SIGKILL)
            elif event == "not_forked":
                self._forget(worker)
                self._not_before = time.monotonic() + RETRY_DELAY_S
            elif event == "started":
                worker.pid = pid
                self._show(worker)
            elif event == "ready":
                self._on_ready(worker)

    def _on_loaded(self, number: int, can_fork: bool, report: dict[str, Any]) -> None:
        generation = self._next
        if generation is None or generation.number != number:
            return
        generation.reserved = -1
        if can_fork:
            generation.loading = Loading.FORKED
            return
        # The host has become the first worker.
        generation.loading = Loading.SEPARATE
        worker = Worker(report["slot"], generation, time.monotonic(), generation.host_pid)
        generation.host_pid = 0
        self._close_commands(generation)
        self._workers.append(worker)
        self._show(worker)

    def _on_ready(self, worker: Worker) -> None:
        if worker.state is not State.STARTING:
            return
        worker.state = State.READY
        self._boot_failures = 0
        self._show(worker)
        if self._phase in (Phase.DRAINING, Phase.CLOSING):
            self._drain(worker)
        self._write_ready_file()

    # Burying

    def _on_death(self, pid: int, status: int) -> None:
        reason = self._reasons.pop(pid, "")
        how = processes.describe_exit(status)
        worker = next((w for w in self._workers if w.pid == pid), None)
        if worker is not None:
            self._on_worker_death(worker, status, reason or how)
        elif pid == self._monitor_pid:
            self._monitor_pid = 0
            if self._phase is Phase.SERVING:
                log.error("the monitor %s; starting another", how)
                self._not_before = time.monotonic() + RETRY_DELAY_S
        elif any(generation.host_pid == pid for generation in self._generations()):
            self._on_host_death(pid, reason or f"the model host {how}")
        else:
            log.debug("an adopted process %d %s", pid, how)

    def _on_worker_death(self, worker: Worker, status: int, how: str) -> None:
        self._forget(worker)
        if self._phase is not Phase.SERVING or worker.state is State.DRAINING:
            if status and not worker.is_condemned:
                log.error("worker %d (pid %d) %s", worker.slot, worker.pid, how)
            return
        if worker.state is State.STARTING:
            self._on_boot_failure(how)
            return
        self._scoreboard.count_restart(by_signal=os.WIFSIGNALED(status))
        log.error("worker %d (pid %d) %s; replacing it", worker.slot, worker.pid, how)
        self._write_ready_file()

    def _on_host_death(self, pid: int, how: str) -> None:
        generation = self._next if self._next and self._next.host_pid == pid else self._current
        assert generation is not None
        generation.host_pid = 0
        self._close_commands(generation)
        directory.retire(self._metrics_dir, f"host{generation.number % 2}")
        if self._phase is not Phase.SERVING:
            return
        if generation is self._next:
            for worker in self._serving(generation):
                self._drain(worker)
            self._next = None
            self._on_boot_failure(how)
        else:
            log.error("%s; its workers go on", how)

    def _on_boot_failure(self, why: str) -> None:
        """A load or a start that failed: fatal unless somebody serves, or might with more luck."""
        self._boot_failures += 1
        is_serving = any(worker.state is State.READY for worker in self._workers)
        is_reload = self._current is not None and self._next is not None
        if not is_serving or (self._boot_failures >= BOOT_ATTEMPTS and not is_reload):
            raise StartupError(why)
        delay_s = min(RETRY_DELAY_S * 2**self._boot_failures, LONGEST_RETRY_DELAY_S)
        self._not_before = time.monotonic() + delay_s
        log.error("%s; trying again in %.0f s, the others serve on", why, delay_s)

    def _forget(self, worker: Worker) -> None:
        self._workers.remove(worker)
        self._scoreboard.clear_slot(worker.slot)
        directory.retire(self._metrics_dir, str(worker.slot))

    def _in_slot(self, slot: int) -> Worker | None:
        return next((worker for worker in self._workers if worker.slot == slot), None)

    def _show(self, worker: Worker) -> None:
        self._scoreboard.set_slot(worker.slot, worker.pid, worker.state, worker.generation.number)

    # Stopping

    def _drain(self, worker: Worker) -> None:
        """Ask a worker to finish. One that has not come up has nothing to finish."""
        if worker.pid:
            worker.is_condemned = worker.state is not State.READY
            _kill(worker.pid, signal.SIGKILL if worker.is_condemned else signal.SIGTERM)
            worker.state = State.DRAINING
            self._show(worker)

    def _enter(self, phase: Phase, seconds: float) -> None:
        """Enter a phase that lasts so long at most."""
        self._phase = phase
        self._phase_ends = time.monotonic() + seconds

    def _stop_in_steps(self, now: float) -> None:
        """Workers first; then, with nothing more to count, the monitor; then all that is left."""
        is_over = now >= self._phase_ends
        live = [worker for worker in self._workers if worker.pid]
        if self._phase is Phase.ANNOUNCED and is_over:
            self._enter(Phase.DRAINING, self._config.drain_timeout_sec + KILL_MARGIN_S)
            for worker in live:
                self._drain(worker)
            self._kill_loading_host()
            is_over = False
        if self._phase is Phase.DRAINING and (is_over or not live):
            for worker in live:
                log.error("worker %d (pid %d) does not end; killing it", worker.slot, worker.pid)
                _kill(worker.pid, signal.SIGKILL)
            self._enter(Phase.CLOSING, MONITOR_STOP_S if self._monitor_pid else HOST_STOP_S)
            if self._monitor_pid:
                _kill(self._monitor_pid, signal.SIGTERM)
            for generation in self._generations():
                self._close_commands(generation)
        if self._phase is Phase.CLOSING:
            hosts = [g.host_pid for g in self._generations() if g.host_pid]
            left = [pid for pid in (self._monitor_pid, *hosts) if pid]
            if left and now < self._phase_ends:
                return
            if left:
                log.error("the monitor or the model host does not end; killing it: %s", left)
            raise Stop(0)

    def _generations(self) -> list[Generation]:
        return [g for g in (self._current, self._next) if g is not None]

    def _kill_loading_host(self) -> None:
        """End a load that nobody waits for any more."""
        if self._next is not None and self._next.loading is Loading.UNDECIDED:
            _kill(self._next.host_pid, signal.SIGKILL)

    def _kill_all(self) -> None:
        """Leave nothing behind: our children, and what they had started and we have adopted."""
        self._scoreboard.set_draining()
        self._remove_ready_file()
        for generation in self._generations():
            self._close_commands(generation)
        deadline = time.monotonic() + KILL_MARGIN_S
        while (children := processes.children()) and time.monotonic() < deadline:
            for pid in children:
                _kill(pid, signal.SIGKILL)
            list(_reap())
            time.sleep(0.005)

    def _close_commands(self, generation: Generation) -> None:
        if generation.commands >= 0:
            os.close(generation.commands)
            generation.commands = -1

    def _remove_ready_file(self) -> None:
        if self._config.ready_file and self._was_ready:
            try:
                Path(self._config.ready_file).unlink(missing_ok=True)
            except OSError as error:
                log.error("READY_FILE=%s cannot be removed: %s", self._config.ready_file, error)


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        log.debug("process %d is gone already", pid)


def _reap() -> Iterator[tuple[int, int]]:
    """Give each child that has ended, and its wait status."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


@contextmanager
def _signals() -> Iterator[tuple[socket.socket, selectors.BaseSelector]]:
    """Turn signals into bytes on a socket; handlers only note the signal."""
    wakeup, wakeup_in = socket.socketpair()
    with wakeup, wakeup_in, selectors.DefaultSelector() as selector:
        for end in (wakeup, wakeup_in):
            end.setblocking(False)
        selector.register(wakeup, selectors.EVENT_READ)
        before = {n: signal.signal(n, lambda *_: None) for n in processes.SIGNALS_OF_OURS}
        old = signal.set_wakeup_fd(wakeup_in.fileno(), warn_on_full_buffer=False)
        try:
            yield wakeup, selector
        finally:
            signal.set_wakeup_fd(old)
            for number, handler in before.items():
                signal.signal(number, handler)


def _drained(wakeup: socket.socket) -> list[int]:
    """Give the signals that have come, each once: a wrapper that forwards may double them."""
    try:
        return sorted(set(wakeup.recv(4096)))
    except BlockingIOError:
        return []
