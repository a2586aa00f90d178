"""The supervisor: starts, watches, replaces, reloads and stops processes, and runs no user code.

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
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

from pyfuncserver.config import Config
from pyfuncserver.errors import CRASH_LOOP_STATUS, StartupError
from pyfuncserver.fleet import FOREVER, Fleet, Generation, Load, Loading, RestartBudget, Worker
from pyfuncserver.metrics import directory
from pyfuncserver.model import addresses
from pyfuncserver.orders import Action, Change, Orders, Outcomes, put
from pyfuncserver.ports import Ports
from pyfuncserver.scoreboard import Reload, Restart, Scoreboard, State
from pyfuncserver.spawner import Spawner
from pyfuncserver.utils import cgroups, processes

log = logging.getLogger(__name__)

BOOT_ATTEMPTS = 3
FORK_DEADLINE_S = 10.0
RETRY_DELAY_S = 1.0
LONGEST_RETRY_DELAY_S = 60.0
KILL_MARGIN_S = 2.0
STACK_S = 2.0
OOM_MEMORY_S = 10.0
LONG_LOAD_S = 60.0
"""A load that goes on is told of again after that."""
STRANGERS_KEPT = 100
MONITOR_STOP_S = 30.0
HOST_STOP_S = 5.0
LONGEST_TURN_S = 1.0
LATE_TURN_S = 3.0


def slots_of(config: Config) -> int:
    """Count the places for workers.

    Two generations may stand side by side, each with replacements or with workers that drain; one
    more place is kept for the host of each.
    """
    return 4 * config.workers + 2


class Phase(Enum):
    """Where the daemon stands between serving and its end."""

    SERVING = "it serves"
    ANNOUNCED = "it says that it is not ready, and serves (DRAIN_DELAY_SEC)"
    DRAINING = "the workers finish what they have (DRAIN_TIMEOUT_SEC)"
    CLOSING = "the monitor pushes what is left, and the host runs the model's exit functions"


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
        self._outcomes = Outcomes()
        self._spawner = Spawner(config, ports, scoreboard, self._outcomes, metrics_dir)
        self._fleet = Fleet(scoreboard.size)
        self._needs_fetching = addresses.is_remote(config.address)
        self._budget = RestartBudget(config.max_restarts, config.restart_window_sec)
        self._unread = b""
        self._reasons: dict[int, str] = {}
        self._loads: dict[int, Load] = {}
        """By the processes that load; what one is at when it dies has ended it."""
        self._deadly: dict[str, str] = {}
        """See :attr:`Orders.deadly`. All generations' orders have this one, as it is now."""
        self._current: Generation | None = None
        self._next: Generation | None = None
        self._retired: list[Generation] = []
        self._monitor_pid = 0
        self._boot_failures = 0
        self._not_before = 0.0
        self._was_ready = False
        self._wants_reload = False
        self._changes: deque[Change] = deque()
        """What clients have asked for and is not begun yet."""
        self._phase = Phase.SERVING
        self._phase_ends = FOREVER
        self._end: Exception = Stop(0)
        self._monitor_not_before = 0.0
        self._superseded: Generation | None = None
        """A reload that was taken back, for another to take its place."""
        self._strangers: dict[int, tuple[float, int]] = {}
        """When and how processes ended that were none of ours as far as we knew."""
        self._oom_kills = cgroups.oom_kills()
        self._recent_oom_kills: deque[float] = deque()
        self._turned_at = self._watched_since = time.monotonic()

    def run(self) -> int:
        """Serve until stopped.

        Raises: StartupError where the model cannot be served, or cannot be served any longer.
        """
        with _signals() as (wakeup, selector):
            selector.register(self._spawner.reports, selectors.EVENT_READ)
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
            if not self._fleet.has_ready:
                raise StartupError(f"the system refuses a process or a pipe: {error}") from None
            log.error("the system refuses a process or a pipe, trying again: %s", error)
            self._not_before = now + RETRY_DELAY_S

    def _converge(self, now: float) -> None:
        self._watch(now)
        self._close_retired(now)
        if self._phase is not Phase.SERVING:
            self._stop_in_steps(now)
            if self._phase is Phase.ANNOUNCED and self._current and now >= self._not_before:
                self._staff(self._current)
            return
        if not self._monitor_pid and self._config.needs_monitor and now >= self._monitor_not_before:
            self._scoreboard.beat_monitor()
            self._monitor_pid = self._spawner.start_monitor()
        self._promote(now)
        self._answer_clients()
        self._relieve(now)
        if now < self._not_before:
            return
        if self._current is not None and (self._wants_reload or self._may_change()):
            self._reload(self._current)
        elif self._next is None and not (self._current and self._current.can_start_workers):
            self._load_again()
        for generation in self._generations():
            self._staff(generation)

    def _staff(self, generation: Generation) -> None:
        """Start the workers that are missing, as far as there are places."""
        if not generation.can_start_workers:
            return
        staying = [worker for worker in self._fleet.of(generation) if worker.is_staying]
        wanted = self._config.workers
        if self._needs_fetching and not generation.located:
            wanted = 1  # the first one fetches, and all load what it has brought
        for slot in self._free_slots()[: max(0, wanted - len(staying))]:
            must_warm_up = generation.is_reload and generation is self._next
            worker = self._spawner.start_worker(generation, slot, must_warm_up)
            if worker is None:
                return
            self._fleet.workers.append(worker)
            self._show(worker)

    def _promote(self, now: float) -> None:
        """Let the next generation take over when all its workers are ready."""
        if self._next is None:
            return
        ready = [worker for worker in self._fleet.of(self._next) if worker.is_ready]
        if len(ready) < self._config.workers:
            return
        old, self._current, self._next = self._current, self._next, None
        # Where a worker of these loads again for itself, what it can serve is better than nothing.
        self._current.orders = replace(self._current.orders, required=frozenset())
        self._scoreboard.set_unloaded(self._config.model_name in self._current.orders.absent)
        self._scoreboard.set_generation(self._current.number)
        if self._current.is_reload:
            self._scoreboard.count(Reload.DONE)
            log.info("generation %d has taken over", self._current.number)
        if old is not None:
            # Those who still wait for what served before wait for this now.
            self._current.tickets, old.tickets = [*old.tickets, *self._current.tickets], []
            self._retired.append(old)
            for worker in self._fleet.of(old):
                self._drain(worker, now)
        self._announce()

    def _answer_clients(self) -> None:
        """Tell who waits for what serves now, when no connection meets those before any more."""
        current = self._current
        if current is None or not (current.tickets or current.orders.asked):
            return
        before = [worker for it in self._retired for worker in self._fleet.of(it)]
        if all(worker.is_closed for worker in before):
            self._settle(current, Reload.DONE)

    def _relieve(self, now: float) -> None:
        """Let workers go that were to be replaced, as far as replacements are ready."""
        for generation in self._generations():
            ready = [worker for worker in self._fleet.of(generation) if worker.is_ready]
            surplus = max(0, len(ready) - self._config.workers)
            for worker in [w for w in ready if w.leaving is not None][:surplus]:
                assert worker.leaving is not None
                self._scoreboard.count(worker.leaving)
                log.info(
                    "worker %d (pid %d) is replaced: %s",
                    worker.slot, worker.pid, worker.leaving.value,
                )  # fmt: skip
                self._drain(worker, now)
                self._write_ready_file()

    def _announce(self) -> None:
        ports = [f"HTTP on {self._ports.http_port}"]
        if self._ports.grpc_port is not None:
            ports.append(f"gRPC on {self._ports.grpc_port}")
        if self._ports.metrics_port is not None:
            ports.append(f"metrics on {self._ports.metrics_port}")
        if not self._was_ready:
            log.info("%s is ready: %s", addresses.shown(self._config.title), ", ".join(ports))
        self._was_ready = True
        self._write_ready_file()

    def _write_ready_file(self) -> None:
        if not self._config.ready_file or not self._was_ready or self._phase is not Phase.SERVING:
            return
        assert self._current is not None
        workers = self._fleet.of(self._current)
        if not any(worker.is_ready for worker in workers):
            self._remove_ready_file()
            return
        state = {
            "pid": os.getpid(),
            "http_port": self._ports.http_port,
            "grpc_port": self._ports.grpc_port,
            "metrics_port": self._ports.metrics_port,
            "generation": self._current.number,
            "workers": sorted(worker.pid for worker in workers if worker.is_ready),
        }
        path = Path(self._config.ready_file)
        try:
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            draft.write_text(json.dumps(state), encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            log.error("READY_FILE=%s cannot be written: %s", path, error)

    def _seconds_to_wait(self, now: float) -> float:
        deadlines = [self._phase_ends, now + LONGEST_TURN_S]
        if now < self._not_before:
            deadlines.append(self._not_before)
        if timeout_s := self._config.heartbeat_timeout_sec:
            deadlines.append(now + timeout_s / 5)
        deadlines += [worker.ends_by for worker in self._fleet]
        return max(0.0, min(deadlines) - now + 0.001)

    # Loading

    def _load_again(self) -> None:
        """Load the model, for the first time or because nobody is left who could fork it."""
        if not self._has_place_for_a_generation():
            return
        orders = Orders()
        if self._current is not None:
            log.warning("loading the model anew, since its host is gone")
            # While somebody serves, no model of those is given up.
            required = self._current.served if self._fleet.has_ready else ()
            orders = replace(self._current.orders, required=frozenset(required), asked="")
        self._next = self._load(False, orders)

    def _may_change(self) -> bool:
        """Tell whether a change waits; one begins when no other is under way."""
        return bool(self._changes) and self._next is None

    def _reload(self, current: Generation) -> None:
        """Load the models beside those that serve, where memory allows.

        A reload takes the place of one that is under way, and serves those who wait for that.
        """
        if self._next is not None:
            self._take_back(self._next)
        if not self._has_place_for_a_generation():  # the last one still drains
            return
        orders, tickets = self._next_orders(current)
        needed, available = self._bytes_of_a_load(), cgroups.memory_available_bytes()
        if available is not None and needed > available:
            self._begin_reload()
            self._refuse_reload(current, tickets, needed, available)
            return
        self._next = self._load(True, orders)
        self._next.tickets = tickets
        self._begin_reload()
        log.info("loading generation %d beside generation %d", self._next.number, current.number)

    def _take_back(self, generation: Generation) -> None:
        """Give the next generation up, for a reload that takes its place."""
        if generation.is_reload:
            self._scoreboard.count(Reload.SUPERSEDED)
            self._superseded = generation
        self._abandon_next()

    def _next_orders(self, current: Generation) -> tuple[Orders, list[int]]:
        """Give what the next generation is to serve, and the tickets of those who wait for it."""
        before = self._superseded or current
        orders, tickets = before.orders, before.tickets if self._superseded else []
        if not self._wants_reload:
            change = self._changes[0]
            orders, tickets = orders.after(change.action, change.name), change.tickets
        return replace(orders, required=frozenset(current.served)), tickets

    def _begin_reload(self) -> None:
        """Count a reload, and forget the wish for it."""
        self._scoreboard.count_reload()
        self._superseded = None
        if self._wants_reload:
            self._wants_reload = False
        else:
            self._changes.popleft()

    def _refuse_reload(
        self, current: Generation, tickets: list[int], needed: int, available: int
    ) -> None:
        self._scoreboard.count(Reload.REFUSED)
        for ticket in tickets:
            self._outcomes.settle(ticket, Reload.REFUSED)
        log.error(
            "reload refused: a second copy of the model takes about %d MB and %d MB are free; "
            "generation %d serves on",
            needed >> 20, available >> 20, current.number,
        )  # fmt: skip

    def _settle(self, generation: Generation, end: Reload, why: str = "") -> None:
        """Tell those who had asked for a reload how it has ended."""
        for ticket in generation.tickets:
            self._outcomes.settle(ticket, end, why)
        generation.tickets = []
        generation.orders = replace(generation.orders, asked="")

    def _load(self, is_reload: bool, orders: Orders) -> Generation:
        number = self._current.number + 1 if self._current is not None else 1
        taken = {generation.host_name for generation in self._all_generations()}
        name = next(f"host{n}" for n in range(1, len(taken) + 2) if f"host{n}" not in taken)
        orders = replace(orders, deadly=self._deadly)
        return self._spawner.load(number, self._free_slots()[0], name, is_reload, orders)

    def _has_place_for_a_generation(self) -> bool:
        return len(self._free_slots()) > self._config.workers

    def _free_slots(self) -> list[int]:
        return self._fleet.free_slots(self._current, self._next)

    def _bytes_of_a_load(self) -> int:
        """Estimate what a load takes by what the one that serves has taken."""
        assert self._current is not None
        if self._current.host_pid:
            return processes.anonymous_bytes(self._current.host_pid)
        workers = self._fleet.of(self._current)
        return sum(processes.anonymous_bytes(w.pid) for w in workers if w.is_staying and w.pid)

    def _abandon_next(self) -> None:
        """Take a load back that nobody waits for any more."""
        assert self._next is not None
        abandoned, self._next = self._next, None
        abandoned.reserved = -1
        self._retired.append(abandoned)
        if abandoned.loading is Loading.UNDECIDED and abandoned.host_pid:
            processes.kill_with_children(abandoned.host_pid)
        now = time.monotonic()
        for worker in self._fleet.of(abandoned):
            self._drain(worker, now)  # some of them may serve already

    def _fail_reload(self, why: str) -> None:
        assert self._current is not None
        assert self._next is not None
        log.error("reload failed: %s; generation %d serves on", why, self._current.number)
        self._scoreboard.count(Reload.FAILED)
        self._settle(self._next, Reload.FAILED, why)
        self._abandon_next()

    # Watching

    def _watch(self, now: float) -> None:
        """Find workers that were never forked, that have stopped beating, or that do not end."""
        if now - self._turned_at > LATE_TURN_S:  # we stood still ourselves, and so did all others
            self._watched_since = now
        self._turned_at = now
        self._watch_monitor(now)
        self._watch_loads(now)
        for worker in self._fleet:
            if not worker.pid:
                if now > worker.asked_at + FORK_DEADLINE_S:
                    self._give_host_up(worker)
            elif now > worker.ends_by:
                log.error("worker %d (pid %d) does not end; killing it", worker.slot, worker.pid)
                worker.ends_by = FOREVER
                _kill(worker.pid, signal.SIGKILL)
            elif worker.is_ready:
                self._watch_beats(worker, now)

    def _watch_monitor(self, now: float) -> None:
        timeout_s = self._config.heartbeat_timeout_sec
        silent_s = min(self._scoreboard.monitor_silent_s, now - self._watched_since)
        if self._monitor_pid and timeout_s and silent_s > timeout_s:
            log.error("the monitor has not beaten for %.1f s; killing it", silent_s)
            self._scoreboard.beat_monitor()
            _kill(self._monitor_pid, signal.SIGKILL)

    def _watch_loads(self, now: float) -> None:
        for pid, load in self._loads.items():
            if now > load.told_at + LONG_LOAD_S:
                load.told_at, took_s = now, now - load.began_at
                log.warning("pid %d has been loading %s for %.0f s", pid, load.full_name, took_s)

    def _watch_beats(self, worker: Worker, now: float) -> None:
        timeout_s = self._config.heartbeat_timeout_sec
        silent_s = min(self._scoreboard.silent_s(worker.slot), now - self._watched_since)
        if not timeout_s or silent_s <= timeout_s:
            return
        log.error(
            "worker %d (pid %d) has not beaten for %.1f s (HEARTBEAT_TIMEOUT_SEC); "
            "killing it, its stack follows",
            worker.slot, worker.pid, silent_s,
        )  # fmt: skip
        worker.is_stuck = True
        worker.ends_by = now + STACK_S
        _kill(worker.pid, signal.SIGABRT)
        self._write_ready_file()

    def _give_host_up(self, worker: Worker) -> None:
        log.error("worker %d was never forked; killing the model host", worker.slot)
        self._forget(worker)
        if worker.generation.host_pid:
            _kill(worker.generation.host_pid, signal.SIGKILL)

    # Hearing

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._ask_for_reload("SIGHUP")
        if number not in (signal.SIGTERM, signal.SIGINT):
            return
        name = signal.Signals(number).name
        if self._phase is not Phase.SERVING:
            log.warning("%s again: stopping at once", name)
            raise Stop(128 + number)
        log.info("%s: stopping", name)
        self._begin_to_stop(self._config.drain_delay_sec if self._fleet.has_ready else 0)

    def _ask_for_reload(self, who: str) -> None:
        if self._phase is not Phase.SERVING:
            log.warning("%s: nothing is reloaded, the daemon is stopping", who)
            return
        log.info("%s: reloading %s", who, addresses.shown(self._config.address))
        self._deadly.clear()  # all are tried again
        self._wants_reload = True

    def _hear_and_bury(self) -> None:
        """Collect the dead, then read what they had said, then draw the conclusions."""
        dead = list(_reap())
        for report in self._read_reports():
            self._on_report(report)
        self._note_oom_kills(time.monotonic())
        for pid, status in dead:
            is_oom = status == signal.SIGKILL and bool(self._recent_oom_kills)
            if is_oom:
                self._recent_oom_kills.popleft()
            self._on_death(pid, status, is_oom)

    def _note_oom_kills(self, now: float) -> None:
        """Remember for a while what the kernel has killed: its victims take a moment to end."""
        before, self._oom_kills = self._oom_kills, cgroups.oom_kills()
        self._recent_oom_kills.extend([now] * max(0, self._oom_kills - before))
        while self._recent_oom_kills and self._recent_oom_kills[0] < now - OOM_MEMORY_S:
            self._recent_oom_kills.popleft()

    def _read_reports(self) -> Iterator[dict[str, Any]]:
        while True:
            try:
                data = os.read(self._spawner.reports, 65536)
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
            self._on_loaded(pid, event == "loaded", report)
        elif event == "located":
            self._on_located(pid, report["slot"], report["path"])
        elif event == "loads":
            self._on_load(pid, report["name"], report["model"])
        elif event == "serves":
            self._on_model(pid, report["slot"], report["model"])
        else:
            worker = self._fleet.in_slot(report["slot"])
            if worker is None or (worker.pid and worker.pid != pid):
                log.debug("a report from a worker that is forgotten: %s", report)
                if event == "started":
                    _kill(pid, signal.SIGKILL)
            else:
                self._on_worker_report(worker, event, report)

    def _on_worker_report(self, worker: Worker, event: str, report: dict[str, Any]) -> None:
        if event == "not_forked":
            self._forget(worker)
            self._on_boot_failure(worker.generation, report["reason"])
            return
        worker.pid = report["pid"]
        if event == "started":
            self._on_started(worker)
        elif event == "ready":
            self._on_ready(worker)
        elif event == "closed":
            worker.is_closed = True
        elif event == "replace":
            worker.leaving = worker.leaving or Restart(report["reason"])
        elif event == "change":
            self._on_change(worker, Action(report["action"]), report["name"], report["ticket"])

    def _on_load(self, pid: int, name: str, full_name: str) -> None:
        """Note what a process loads now; no name says that it is done."""
        if full_name:
            now = time.monotonic()
            self._loads[pid] = Load(name, full_name, began_at=now, told_at=now)
        else:
            self._loads.pop(pid, None)

    def _on_model(self, pid: int, slot: int, model: str) -> None:
        """Note what a host has loaded, or a worker that loads for itself."""
        generation = self._generation_of(pid, slot)
        if generation is not None:
            generation.served.add(model)
            self._deadly.pop(model, None)

    def _on_located(self, pid: int, slot: int, path: str) -> None:
        """Let what follows of a generation load what its first process has fetched."""
        generation = self._generation_of(pid, slot)
        if generation is not None:
            generation.located = path

    def _generation_of(self, pid: int, slot: int) -> Generation | None:
        """Find the generation of a host, or of a worker that loads for itself."""
        for generation in self._all_generations():
            if generation.host_pid == pid:
                return generation
        worker = self._fleet.in_slot(slot)
        return None if worker is None or worker.pid != pid else worker.generation

    def _on_change(self, worker: Worker, action: Action, name: str, ticket: int) -> None:
        """Remember what a client wants; who wants the same waits for the same."""
        log.info("a client of worker %d: %s %s", worker.slot, action.value, name)
        put(self._changes, action, name, ticket)
        is_loading = self._next is not None and self._next.orders.wanted == name
        if is_loading and action is Action.UNLOAD:  # it may be a load that never ends
            self._fail_reload(f"{name} was unloaded before it had been loaded")

    def _on_started(self, worker: Worker) -> None:
        self._show(worker)
        if worker.is_condemned:
            _kill(worker.pid, signal.SIGKILL)
        died_at, status = self._strangers.pop(worker.pid, (-FOREVER, 0))
        if died_at > worker.asked_at:  # it ended before we knew it
            self._on_death(worker.pid, status, is_oom=False)

    def _on_loaded(self, pid: int, can_fork: bool, report: dict[str, Any]) -> None:
        generation = self._next
        if generation is None or generation.host_pid != pid:
            return
        generation.reserved = -1
        if can_fork:
            generation.loading = Loading.FORKED
            return
        # The host has become the first worker.
        generation.loading = Loading.SEPARATE
        worker = Worker(report["slot"], generation, time.monotonic(), generation.host_pid)
        generation.host_pid = 0
        self._spawner.close_commands(generation)
        self._fleet.workers.append(worker)
        self._show(worker)

    def _on_ready(self, worker: Worker) -> None:
        if worker.state is not State.STARTING:
            return
        worker.state = State.READY
        self._boot_failures = 0
        self._show(worker)
        if self._phase in (Phase.DRAINING, Phase.CLOSING):
            self._drain(worker, time.monotonic())
        self._write_ready_file()

    # Burying

    def _on_death(self, pid: int, status: int, is_oom: bool) -> None:
        reason, load = self._reasons.pop(pid, ""), self._loads.pop(pid, None)
        how = processes.describe_exit(status, out_of_memory=is_oom)
        if reason or not self._config.model_repository:
            load = None  # no model of several has ended it
        if load is not None:
            reason = f"the model {load.full_name} cannot be loaded: the process that tried it {how}"
        worker = self._fleet.with_pid(pid)
        if worker is not None:
            cause = Restart(processes.cause_of(status, is_oom))
            if worker.is_stuck:
                cause, how = Restart.STUCK, "was killed since its loop had stopped"
            self._on_worker_death(worker, cause, "" if status == 0 else how, reason, load)
        elif pid == self._monitor_pid:
            self._monitor_pid = 0
            if self._phase is Phase.SERVING:
                log.error("the monitor %s; starting another", how)
                self._monitor_not_before = time.monotonic() + RETRY_DELAY_S
        elif any(generation.host_pid == pid for generation in self._all_generations()):
            self._on_host_death(pid, reason or f"the model host {how}", load)
        else:
            log.debug("an adopted process %d %s", pid, how)
            self._strangers[pid] = time.monotonic(), status
            if len(self._strangers) > STRANGERS_KEPT:
                del self._strangers[next(iter(self._strangers))]

    def _on_worker_death(
        self, worker: Worker, cause: Restart, how: str, reason: str, load: Load | None
    ) -> None:
        """Draw the conclusions.

        ``how`` it ended is empty for an orderly end; the ``reason`` is what it had said itself, or
        the ``load`` that it did not survive.
        """
        self._forget(worker)
        is_stopping = self._phase in (Phase.DRAINING, Phase.CLOSING)
        if is_stopping or worker.state is State.DRAINING:
            if how and not worker.is_condemned:
                log.error("worker %d (pid %d) was not done: it %s", worker.slot, worker.pid, how)
            return
        how = how or "ended without being told to"
        if worker.state is State.STARTING:
            why = reason or f"worker {worker.slot} (pid {worker.pid}) {how} before it was ready"
            self._on_boot_failure(worker.generation, why, load)
            return
        self._scoreboard.count(cause)
        log.error("worker %d (pid %d) %s; replacing it", worker.slot, worker.pid, how)
        self._write_ready_file()
        if not self._budget.spend(time.monotonic()):
            self._give_up(
                f"more than {self._budget.limit} workers have died within "
                f"{self._budget.window_s:g} s (MAX_RESTARTS, RESTART_WINDOW_SEC); "
                f"the last one {how}",
                CRASH_LOOP_STATUS,
            )

    def _on_host_death(self, pid: int, how: str, load: Load | None) -> None:
        generation = next(g for g in self._all_generations() if g.host_pid == pid)
        generation.host_pid = 0
        self._spawner.close_commands(generation)
        directory.retire(self._metrics_dir, generation.host_name)
        for worker in self._fleet.of(generation):
            if not worker.pid:  # it will never be forked
                self._forget(worker)
        if self._phase is not Phase.SERVING or generation in self._retired:
            return
        if generation is self._next:
            if not generation.is_reload:
                self._abandon_next()
            self._on_boot_failure(generation, how, load)
        else:
            log.error("%s; its workers go on", how)

    def _on_boot_failure(self, generation: Generation, why: str, load: Load | None = None) -> None:
        """A load or a start that failed: fatal where nobody serves, else tried again later.

        Where it was the ``load`` of a model that nobody demands, the others are loaded without.
        """
        if generation in self._retired and generation.is_reload:
            return
        self._scoreboard.count_boot_failure()
        if self._phase is not Phase.SERVING:
            log.error("%s", why)
            self._not_before = time.monotonic() + RETRY_DELAY_S
            return
        if load is not None and self._can_do_without(generation, load):
            self._do_without(generation, load.full_name, why)
            return
        if generation is self._next and generation.is_reload:
            self._fail_reload(why)
            return
        self._boot_failures += 1
        has_failed_often = self._boot_failures >= BOOT_ATTEMPTS
        if self._current is None and (has_failed_often or not self._fleet.has_ready):
            raise StartupError(why)
        if has_failed_often and not self._fleet.has_ready:
            self._give_up(why, status=1)
            return
        delay_s = 0.0
        if self._boot_failures > 1:
            delay_s = min(RETRY_DELAY_S * 2 ** (self._boot_failures - 2), LONGEST_RETRY_DELAY_S)
        self._not_before = time.monotonic() + delay_s
        log.error("%s; trying again in %.0f s", why, delay_s)

    def _can_do_without(self, generation: Generation, load: Load) -> bool:
        """Tell whether the others are worth more than a model that a process has died of.

        One that was served may have met with something that passes: that is tried again.
        """
        if generation.orders.demands(load.name, load.full_name):
            return False
        has_failed_often = self._boot_failures + 1 >= BOOT_ATTEMPTS
        is_new = load.full_name not in generation.served
        return is_new or (has_failed_often and not self._fleet.has_ready)

    def _do_without(self, generation: Generation, model: str, why: str) -> None:
        """Have the other models loaded: by the next worker, or by another host."""
        log.error("%s; the others are loaded without it", why)
        self._deadly[model] = why
        if generation is self._next and generation.loading is Loading.UNDECIDED:
            self._take_back(generation)
            self._wants_reload = True

    def _give_up(self, why: str, status: int) -> None:
        """End the daemon, when those who can still answer have answered."""
        log.critical("giving up: %s", why)
        self._end = StartupError(why, status)
        self._begin_to_stop(delay_s=0)

    def _forget(self, worker: Worker) -> None:
        self._fleet.workers.remove(worker)
        self._scoreboard.clear_slot(worker.slot)
        directory.retire(self._metrics_dir, str(worker.slot))

    def _show(self, worker: Worker) -> None:
        self._scoreboard.set_slot(worker.slot, worker.pid, worker.state, worker.generation.number)

    # Ending

    def _drain(self, worker: Worker, now: float) -> None:
        """Ask a worker to finish. One that has not come up has nothing to finish."""
        if worker.state is State.STARTING:
            self._condemn(worker)
        elif worker.state is State.READY:
            worker.state = State.DRAINING
            worker.ends_by = now + self._config.drain_timeout_sec + KILL_MARGIN_S
            self._show(worker)  # first, for by that the worker knows that it is us
            _kill(worker.pid, signal.SIGTERM)

    def _condemn(self, worker: Worker) -> None:
        """Kill a worker of which nothing is needed any more, as soon as it has a pid."""
        worker.is_condemned = True
        worker.state = State.DRAINING
        self._show(worker)
        if worker.pid:
            _kill(worker.pid, signal.SIGKILL)

    def _close_retired(self, now: float) -> None:
        """End a host when its last worker has ended, which may use what the host has made."""
        for generation in list(self._retired):
            if self._fleet.of(generation):
                continue
            if not generation.host_pid:
                self._retired.remove(generation)
            elif generation.ends_by is FOREVER:
                generation.ends_by = now + HOST_STOP_S
                self._spawner.close_commands(generation)
            elif now > generation.ends_by:
                _kill(generation.host_pid, signal.SIGKILL)

    def _begin_to_stop(self, delay_s: float) -> None:
        self._enter(Phase.ANNOUNCED, delay_s)
        self._scoreboard.set_draining()
        self._remove_ready_file()

    def _enter(self, phase: Phase, seconds: float) -> None:
        """Enter a phase that lasts so long at most."""
        self._phase = phase
        self._phase_ends = time.monotonic() + seconds

    def _stop_in_steps(self, now: float) -> None:
        """Workers first; then, with nothing more to count, the monitor; then all that is left."""
        is_over = now >= self._phase_ends
        live = [worker for worker in self._fleet if worker.pid]
        if self._phase is Phase.ANNOUNCED and is_over:
            self._enter(Phase.DRAINING, self._config.drain_timeout_sec + KILL_MARGIN_S)
            self._scoreboard.set_closing()
            for worker in live:
                self._drain(worker, now)
            self._kill_loading_host()
            is_over = False
        if self._phase is Phase.DRAINING and (is_over or not live):
            for worker in live:
                log.error("worker %d (pid %d) does not end; killing it", worker.slot, worker.pid)
                _kill(worker.pid, signal.SIGKILL)
            self._enter(Phase.CLOSING, MONITOR_STOP_S if self._monitor_pid else HOST_STOP_S)
            if self._monitor_pid:
                _kill(self._monitor_pid, signal.SIGTERM)
            for generation in self._all_generations():
                self._spawner.close_commands(generation)
        if self._phase is Phase.CLOSING:
            hosts = [g.host_pid for g in self._all_generations() if g.host_pid]
            left = [pid for pid in (self._monitor_pid, *hosts) if pid]
            if left and now < self._phase_ends:
                return
            if left:
                log.error("the monitor or the model host does not end; killing it: %s", left)
            raise self._end

    def _generations(self) -> list[Generation]:
        return [g for g in (self._current, self._next) if g is not None]

    def _all_generations(self) -> list[Generation]:
        return [*self._generations(), *self._retired]

    def _kill_loading_host(self) -> None:
        """End a load that nobody waits for any more."""
        if self._next and self._next.loading is Loading.UNDECIDED and self._next.host_pid:
            processes.kill_with_children(self._next.host_pid)

    def _kill_all(self) -> None:
        """Leave nothing behind: our children, and what they had started and we have adopted."""
        self._scoreboard.set_closing()
        self._remove_ready_file()
        for generation in self._all_generations():
            self._spawner.close_commands(generation)
        deadline = time.monotonic() + KILL_MARGIN_S
        while (children := processes.children()) and time.monotonic() < deadline:
            for pid in children:
                _kill(pid, signal.SIGKILL)
            list(_reap())
            time.sleep(0.005)

    def _remove_ready_file(self) -> None:
        if self._config.ready_file and self._was_ready:
            try:
                Path(self._config.ready_file).unlink(missing_ok=True)
            except OSError as error:
                log.error("READY_FILE=%s cannot be removed: %s", self._config.ready_file, error)


def _kill(pid: int, number: int) -> None:
    assert pid > 0, "that would be a whole group of processes"
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
