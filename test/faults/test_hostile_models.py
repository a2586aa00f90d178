"""Models that hang, crash, leave and eat: answered, counted, named in the log, and served again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from groups import MemoryGroup
from harness import Daemon, predict_values, wait_until
from load import BOTH, HttpLine, Lost, Refused, UpiLine, command
from processes import is_alive

RESTARTS = "pyfuncserver_worker_restarts_total"
LIMIT_S = 2.0
MARGIN_S = {"full": 0.5, "quick": 10.0}
"""What an answer may take longer than it must; the quick form runs where others do, too."""
SILENCE_S = 3.0
MEGABYTE = 1 << 20

Do = Callable[[Daemon, str], str]


def do_over_http(daemon: Daemon, name: str) -> str:
    """Have the model do it; give what the client saw."""
    try:
        return str(daemon.predict({"do": name, "number": 0}).status)
    except OSError:
        return "closed"


def do_over_upi(daemon: Daemon, name: str) -> str:
    try:
        daemon.upi(command(name))
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


BY_PROTOCOL = pytest.mark.parametrize(
    ("do", "timed_out", "lost"),
    [(do_over_http, "504", "closed"), (do_over_upi, "DEADLINE_EXCEEDED", "UNAVAILABLE")],
    ids=["http", "upi"],
)


def served_after_s(daemon: Daemon) -> float:
    """Ask over both protocols, each of which has to answer; give how long that took."""
    began = time.monotonic()
    with (
        contextlib.closing(HttpLine(daemon, {})) as http,
        contextlib.closing(UpiLine(daemon, command(""), wait_for_ready=True)) as upi,
    ):
        assert http.ask(1)["value"] == upi.ask(2)["value"] == 1
    return time.monotonic() - began


def wait_for_restart(daemon: Daemon, reason: str) -> None:
    """Wait until one worker was replaced, check that it was for this reason, and that two serve."""
    wait_until(lambda: daemon.metric(RESTARTS) == 1, 30, "a replaced worker")
    assert daemon.metric(RESTARTS, reason=reason) == 1
    wait_until(lambda: sum(map(is_alive, daemon.worker_pids())) == 2, 30, "two workers")


@BY_PROTOCOL
def test_a_model_that_hangs(
    witness_model: Path,
    do: Do,
    timed_out: str,
    lost: str,
    figures: Callable[[str], None],
    is_full: bool,
) -> None:
    env = {**BOTH, "WORKERS": "2", "PREDICT_TIMEOUT_SEC": str(LIMIT_S)}
    with Daemon(witness_model, env=env) as daemon:
        began = time.monotonic()
        answer = do(daemon, "hang")
        took_s = time.monotonic() - began
        figures(f"{answer} after {took_s:.2f} s, served {served_after_s(daemon):.2f} s later")
        assert answer == timed_out
        assert LIMIT_S <= took_s < LIMIT_S + MARGIN_S["full" if is_full else "quick"]
        wait_for_restart(daemon, "timeout")
        assert " in hang\n" in daemon.log()


@BY_PROTOCOL
def test_a_model_that_keeps_all_others_from_running(
    witness_model: Path,
    do: Do,
    timed_out: str,
    lost: str,
    figures: Callable[[str], None],
    is_full: bool,
) -> None:
    env = {
        **BOTH,
        "WORKERS": "2",
        "PREDICT_TIMEOUT_SEC": str(LIMIT_S),
        "HEARTBEAT_TIMEOUT_SEC": str(SILENCE_S),
    }
    with Daemon(witness_model, env=env) as daemon:
        began = time.monotonic()
        answer = do(daemon, "hold_the_gil")
        took_s = time.monotonic() - began
        figures(f"{answer} after {took_s:.2f} s, served {served_after_s(daemon):.2f} s later")
        assert answer == lost
        # Its stack is written before it is killed, for which it has two seconds.
        assert took_s < SILENCE_S + 2 + MARGIN_S["full" if is_full else "quick"]
        wait_for_restart(daemon, "stuck")
        assert " in hold_the_gil\n" in daemon.log()


@BY_PROTOCOL
@pytest.mark.parametrize(
    ("act", "reason", "said"),
    [("segfault", "crash", "SIGSEGV"), ("exit", "exit", "exited with status 3")],
)
def test_a_model_that_ends_its_process(
    witness_model: Path,
    do: Do,
    timed_out: str,
    lost: str,
    act: str,
    reason: str,
    said: str,
    figures: Callable[[str], None],
) -> None:
    with Daemon(witness_model, env={**BOTH, "WORKERS": "2"}) as daemon:
        answer = do(daemon, act)
        took_s = served_after_s(daemon)
        assert answer == lost
        wait_for_restart(daemon, reason)
        (line,) = [line for line in daemon.log_lines() if "replacing it" in line]
        assert said in line
        figures(f"{answer}, served {took_s:.2f} s later; logged: {line.split(' ', 3)[-1]}")


@BY_PROTOCOL
def test_a_model_that_eats_memory_until_the_limit_kills_it(
    memory_group: MemoryGroup,
    witness_model: Path,
    do: Do,
    timed_out: str,
    lost: str,
    figures: Callable[[str], None],
) -> None:
    env = {**BOTH, "WORKERS": "2"}
    with Daemon(witness_model, env=env, command_prefix=memory_group.prefix) as daemon:
        memory_group.limit(memory_group.used() + 150 * MEGABYTE)
        answer = do(daemon, "eat")
        took_s = served_after_s(daemon)
        assert answer == lost
        wait_for_restart(daemon, "out_of_memory")
        (line,) = [line for line in daemon.log_lines() if "replacing it" in line]
        assert "memory" in line
        figures(f"{answer}, served {took_s:.2f} s later; logged: {line.split(' ', 3)[-1]}")


def test_a_model_that_ends_its_process_at_every_request(
    witness_model: Path, figures: Callable[[str], None]
) -> None:
    env = {**BOTH, "WORKERS": "2", "MAX_RESTARTS": "5"}
    with Daemon(witness_model, env=env) as daemon, daemon.channel() as channel:
        busy = daemon.upi(command(""), channel=channel).prediction_context[0].integer_value
        patient = predict_values(channel).future(command("sleep", seconds=6.0), timeout=30)
        wait_until(lambda: daemon.metric("pyfuncserver_requests_in_flight", dialect="upi") == 1, 30)
        deaths = 0
        while daemon.worker_pids():
            deaths += end_another(daemon, busy)
        answer = patient.result()
        assert answer.prediction_context[0].integer_value == busy
        status = daemon.wait()
        (line,) = [line for line in daemon.log_lines() if line.startswith("pyfuncserver: ")]
        figures(f"status {status} after {deaths} deaths; said: {line}")
        assert deaths == 6
        assert status == 3
        assert "MAX_RESTARTS" in line


def end_another(daemon: Daemon, spared: int) -> bool:
    """Have the model end the worker that takes the next connection, unless it is the spared one."""
    with contextlib.closing(HttpLine(daemon, {})) as line:
        try:
            line.ask(1)
        except (Refused, Lost, OSError):
            return False
        if line.worker == spared:
            return False
        victim = line.worker
        line.command = {"do": "exit"}
        with pytest.raises((Lost, OSError)):
            line.ask(2)
    wait_until(lambda: not is_alive(victim), 30, "the end of the worker")
    return True
