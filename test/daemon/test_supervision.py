"""What the supervisor does with workers that hang, models that change, and daemons that loop."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from groups import MemoryGroup
from harness import Daemon, predict_values, wait_until
from load import BOTH, Load, command, http_client, upi_client, wait_for_answers
from processes import is_alive


def pid_of_host(daemon: Daemon) -> int:
    """Give the model host of the newest load, by the log."""
    return [int(line.split()[3]) for line in daemon.log_lines() if "loader loaded" in line][-1]


def reloads(daemon: Daemon, outcome: str) -> float:
    return daemon.metric("pyfuncserver_reloads_total", outcome=outcome)


def generation(daemon: Daemon) -> float:
    return daemon.metric("pyfuncserver_model_generation")


def reload(daemon: Daemon) -> None:
    """Send SIGHUP, and wait until a new generation serves and the old one is gone."""
    before, size = generation(daemon), len(daemon.processes())
    workers = daemon.worker_pids()
    daemon.terminate(signal.SIGHUP)
    wait_until(lambda: generation(daemon) == before + 1, 60, "the next generation")
    wait_until(lambda: len(daemon.processes()) <= size, 60, "the end of the old one")
    # The ready file is written a moment after the generation is counted.
    wait_until(lambda: daemon.worker_pids() and not daemon.worker_pids() & workers, 60)


@pytest.fixture
def place(tmp_path: Path, controlled_model: Path) -> Path:
    """Give a copy of the Controlled model, which a test may replace by another model."""
    path = tmp_path / "model"
    shutil.copytree(controlled_model, path)
    return path


def put(model: Path, place: Path) -> None:
    """Put another model in a place, at once."""
    draft = place.with_name("draft")
    shutil.copytree(model, draft)
    place.rename(place.with_name(f"old-{time.monotonic_ns()}"))
    draft.rename(place)


# Deaths


def exit_one_but(daemon: Daemon, spared: int) -> bool:
    """Have the model end a worker that is not the spared one; False where nobody answers."""
    while True:
        try:
            with contextlib.closing(daemon.connection()) as connection:
                if daemon.predict({"do": "pid"}, connection=connection).json()["pid"] != spared:
                    daemon.predict({"do": "exit"}, connection=connection)
        except ConnectionRefusedError:
            return False
        except (OSError, http.client.HTTPException):
            return True


def test_a_crash_loop_ends_the_daemon_when_the_others_requests_are_answered(
    controlled_model: Path,
) -> None:
    env = {**BOTH, "WORKERS": "2", "MAX_RESTARTS": "3"}
    with Daemon(controlled_model, env=env) as daemon, daemon.channel() as channel:
        call = predict_values(channel)
        spared = call(command("pid")).prediction_context[0].integer_value
        patient = call.future(command("sleep", seconds=4.0), timeout=30)
        wait_until(lambda: daemon.metric("pyfuncserver_requests_in_flight", dialect="upi"), 30)
        for _ in range(4):
            assert exit_one_but(daemon, spared)
        assert patient.result().prediction_context[0].double_value == 4.0
        assert daemon.wait() == 3
        (line,) = [line for line in daemon.log_lines() if line.startswith("pyfuncserver: ")]
        assert "MAX_RESTARTS" in line
        assert "exited with status 3" in line


def test_deaths_out_of_the_window_are_borne(controlled_model: Path) -> None:
    env = {"WORKERS": "2", "MAX_RESTARTS": "1", "RESTART_WINDOW_SEC": "0.2"}
    with Daemon(controlled_model, env=env) as daemon:
        for count in range(1, 4):
            victim = min(daemon.worker_pids())
            os.kill(victim, signal.SIGKILL)
            wait_until(
                lambda count=count: daemon.metric("pyfuncserver_worker_restarts_total") == count, 30
            )
            wait_until(lambda gone=victim: len(daemon.worker_pids() - {gone}) == 2, 30)
            # From when it was heard of, which is what the window is about.
            time.sleep(0.3)
        assert daemon.predict({"do": "pid"}).status == 200


# Hangs


def test_a_worker_that_stands_still_is_replaced(controlled_model: Path) -> None:
    with Daemon(controlled_model, env={"WORKERS": "2", "HEARTBEAT_TIMEOUT_SEC": "2"}) as daemon:
        victim = min(daemon.worker_pids())
        os.kill(victim, signal.SIGSTOP)
        wait_until(lambda: len(daemon.worker_pids() - {victim}) == 2, 30, "a replacement")
        wait_until(lambda: not is_alive(victim), 30, "the end of a stopped process")
        wait_until(lambda: daemon.metric("pyfuncserver_worker_restarts_total", reason="stuck"), 30)
        assert "has not beaten" in daemon.log()


def test_no_beat_is_asked_for_where_the_timeout_is_zero(controlled_model: Path) -> None:
    with Daemon(controlled_model, env={"WORKERS": "2", "HEARTBEAT_TIMEOUT_SEC": "0"}) as daemon:
        victim = min(daemon.worker_pids())
        os.kill(victim, signal.SIGSTOP)
        time.sleep(2)  # to see that nothing happens
        assert victim in daemon.worker_pids()
        os.kill(victim, signal.SIGCONT)


def test_readiness_is_lost_with_the_last_worker_that_beats(controlled_model: Path) -> None:
    env = {"CARAML_PROTOCOL": "UPI_V1", "WORKERS": "2", "HEARTBEAT_TIMEOUT_SEC": "0"}
    with Daemon(controlled_model, env=env) as daemon:
        path = f"/v1/models/{daemon.full_name}"
        first, second = daemon.worker_pids()
        os.kill(first, signal.SIGSTOP)
        time.sleep(6)  # one that has not beaten for five is not counted on
        assert daemon.http("GET", path).status == 200
        os.kill(second, signal.SIGSTOP)
        wait_until(lambda: daemon.http("GET", path).status == 503, 30, "not ready")
        for pid in (first, second):
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: daemon.http("GET", path).status == 200, 30, "ready again")


def test_a_standstill_of_the_whole_daemon_is_nobodys_fault(controlled_model: Path) -> None:
    """What a suspended virtual machine, or SIGSTOP to a whole group, does to it."""
    with Daemon(controlled_model, env={"WORKERS": "2", "HEARTBEAT_TIMEOUT_SEC": "3"}) as daemon:
        before = daemon.worker_pids()
        everyone = [daemon.pid, *daemon.processes()]
        for pid in everyone:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(4.5)
        for pid in everyone:
            os.kill(pid, signal.SIGCONT)
        assert daemon.predict({"do": "pid"}).status == 200
        time.sleep(2)  # in which the supervisor looks a few times
        assert daemon.worker_pids() == before


def test_a_host_that_stands_still_is_given_up(controlled_model: Path) -> None:
    with Daemon(controlled_model, env={"WORKERS": "2"}) as daemon:
        before = daemon.worker_pids()
        os.kill(pid_of_host(daemon), signal.SIGSTOP)
        os.kill(min(before), signal.SIGKILL)
        wait_until(
            lambda: len(daemon.worker_pids()) == 2 and not daemon.worker_pids() & before,
            timeout_s=40,
            what="workers of another load",
        )
        assert "was never forked; killing the model host" in daemon.log()


# Reloads


@pytest.mark.parametrize(
    "env",
    [{"WORKERS": "2"}, {"WORKERS": "1"}, {"WORKERS": "2", "MODEL_LOADING": "worker"}],
    ids=["forked", "one", "separate"],
)
def test_sighup_brings_the_model_that_is_there_now(
    place: Path, legacy_model: Path, env: dict[str, str]
) -> None:
    with Daemon(place, env=env) as daemon:
        before = daemon.worker_pids()
        assert daemon.predict({"do": "echo"}).json() == {"echo": {"do": "echo"}}
        put(legacy_model, place)
        reload(daemon)
        assert "headers" in daemon.predict({"do": "echo"}).json()
        assert not daemon.worker_pids() & before
        assert reloads(daemon, "done") == 1


def test_a_link_may_be_turned_to_another_model(
    tmp_path: Path, controlled_model: Path, legacy_model: Path
) -> None:
    link = tmp_path / "current"
    link.symlink_to(controlled_model)
    with Daemon(link, env={"WORKERS": "2"}) as daemon:
        turned = tmp_path / "next"
        turned.symlink_to(legacy_model)
        turned.replace(link)
        reload(daemon)
        assert "headers" in daemon.predict({"do": "echo"}).json()


def test_a_failing_reload_changes_nothing(place: Path, save_model, controlled_model: Path) -> None:
    broken = save_model("broken", lambda models, path: models.save(models.Broken(), path))
    with Daemon(place, env={"WORKERS": "2"}) as daemon:
        before = daemon.worker_pids()
        for count, bad in enumerate((broken, place.parent), start=1):
            put(bad if bad is broken else empty(place), place)
            daemon.terminate(signal.SIGHUP)
            wait_until(lambda count=count: reloads(daemon, "failed") == count, 30)
        assert daemon.worker_pids() == before
        assert generation(daemon) == 1
        assert daemon.predict({"do": "pid"}).status == 200
        assert "weights are missing" in daemon.log()
        put(controlled_model, place)
        reload(daemon)
        assert reloads(daemon, "done") == 1


def empty(place: Path) -> Path:
    directory = place.with_name("empty")
    directory.mkdir()
    return directory


def test_a_crashing_reload_changes_nothing(place: Path, save_model) -> None:
    crashing = save_model("crashing", lambda models, path: models.save(models.Crashing(), path))
    with Daemon(place, env={"WORKERS": "1"}) as daemon:
        before = daemon.worker_pids()
        put(crashing, place)
        daemon.terminate(signal.SIGHUP)
        wait_until(lambda: reloads(daemon, "failed") == 1, 30)
        assert daemon.worker_pids() == before
        assert "SIGSEGV" in daemon.log()


def test_another_sighup_takes_the_place_of_a_load_that_hangs(
    place: Path, save_model, tmp_path: Path, legacy_model: Path
) -> None:
    mark = tmp_path / "loading"
    slow = save_model("slow_reload", lambda models, path: models.save(models.Slow(str(mark)), path))
    with Daemon(place, env={"WORKERS": "2"}) as daemon:
        put(slow, place)
        daemon.terminate(signal.SIGHUP)
        wait_until(mark.exists, 30, "the slow load")
        put(legacy_model, place)
        reload(daemon)
        assert "headers" in daemon.predict({"do": "echo"}).json()
        assert reloads(daemon, "failed") == 0


def test_stopping_does_not_wait_for_a_reload(place: Path, save_model, tmp_path: Path) -> None:
    mark = tmp_path / "loading"
    slow = save_model("slow_stop", lambda models, path: models.save(models.Slow(str(mark)), path))
    with Daemon(place, env={"WORKERS": "2"}) as daemon:
        put(slow, place)
        daemon.terminate(signal.SIGHUP)
        wait_until(mark.exists, 30, "the slow load")
        daemon.terminate()
        assert daemon.wait(30) == 0
        assert not daemon.processes()


def test_a_host_ends_after_its_last_worker_and_runs_the_models_exit_functions(
    place: Path, save_model, tmp_path: Path, controlled_model: Path
) -> None:
    mark = tmp_path / "mark"
    tidy = save_model("tidy_reload", lambda models, path: models.save(models.Tidy(str(mark)), path))
    put(tidy, place)
    with Daemon(place, env={"WORKERS": "2"}) as daemon:
        assert mark.exists()
        put(controlled_model, place)
        reload(daemon)
        assert not mark.exists()
        assert daemon.predict({"do": "pid"}).status == 200


def test_a_reload_that_would_not_fit_is_refused(memory_group: MemoryGroup, save_model) -> None:
    heavy = save_model("heavy", lambda models, path: models.save(models.Heavy(200), path))
    with Daemon(heavy, env={"WORKERS": "2"}, command_prefix=memory_group.prefix) as daemon:
        memory_group.limit(memory_group.used() + (100 << 20))
        daemon.terminate(signal.SIGHUP)
        wait_until(lambda: reloads(daemon, "refused") == 1, 30)
        (line,) = [line for line in daemon.log_lines() if "reload refused" in line]
        assert "MB" in line
        assert generation(daemon) == 1
        memory_group.limit(4 << 30)
        reload(daemon)


def test_a_load_that_is_abandoned_loses_no_request_of_those_that_serve_already(
    place: Path, save_model, tmp_path: Path
) -> None:
    """Two workers load for themselves; of the new ones one serves while the other still loads."""
    marks = tmp_path / "marks"
    marks.mkdir()
    uneven = save_model(
        "uneven", lambda models, path: models.save(models.Uneven(str(marks), 4), path)
    )
    env = {"WORKERS": "2", "MODEL_LOADING": "worker", "THREADS": "20"}
    with Daemon(uneven, env=env) as daemon:
        daemon.terminate(signal.SIGHUP)
        wait_until((marks / "4").exists, 30, "the load that takes long")
        wait_until(lambda: daemon.metric("pyfuncserver_workers", state="ready") == 3, 30)
        with ThreadPoolExecutor(30) as clients:
            asked = [clients.submit(daemon.predict, {"instances": [[1.0]]}) for _ in range(60)]
            wait_until(lambda: daemon.metric("pyfuncserver_requests_in_flight") > 20, 30)
            daemon.terminate(signal.SIGHUP)
            answers = [answer.result(60) for answer in asked]
        assert {answer.status for answer in answers} == {200}
        wait_until(lambda: reloads(daemon, "superseded") == 1, 30)
        wait_until(lambda: reloads(daemon, "done") == 1, 30)


def test_a_sighup_before_the_daemon_serves_is_remembered(
    place: Path, save_model, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    counting = save_model(
        "counting", lambda models, path: models.save(models.Uneven(str(marks), 0), path)
    )
    with Daemon(counting, env={"WORKERS": "1"}, wait=False) as daemon:
        wait_until(lambda: list(marks.iterdir()), 30, "the first load")
        daemon.terminate(signal.SIGHUP)
        daemon.wait_ready()
        wait_until(lambda: generation(daemon) == 2, 30)


# Ending


def test_a_failing_load_in_the_last_moments_harms_nobody(
    place: Path, save_model, tmp_path: Path
) -> None:
    mark = tmp_path / "loading"
    failing = save_model(
        "late_failure", lambda models, path: models.save(models.LateFailure(str(mark)), path)
    )
    with Daemon(place, env={"WORKERS": "2", "DRAIN_DELAY_SEC": "4"}) as daemon:
        put(failing, place)
        daemon.terminate(signal.SIGHUP)
        wait_until(mark.exists, 30, "the load")
        daemon.terminate()
        assert daemon.predict({"do": "pid"}).status == 200
        assert daemon.wait() == 0


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_in_the_delay_a_worker_that_ends_takes_nobody_with_it(
    controlled_model: Path, sig: signal.Signals
) -> None:
    with Daemon(controlled_model, env={"WORKERS": "2", "DRAIN_DELAY_SEC": "60"}) as daemon:
        first, second = sorted(daemon.worker_pids())
        daemon.terminate()
        wait_until(lambda: "SIGTERM: stopping" in daemon.log(), 30)
        for pid in (first, second):
            os.kill(pid, sig)
        wait_until(lambda: sig is signal.SIGTERM or "replacing it" in daemon.log(), 30)
        for _ in range(20):
            answer = daemon.predict({"do": "pid"})
            assert answer.status == 200
            assert answer.headers["Connection"] is None  # not before the delay is over
        daemon.terminate()  # which ends the delay, too
        assert daemon.wait() == 128 + signal.SIGTERM


def test_a_whole_group_is_told_to_end(controlled_model: Path) -> None:
    """What an init process does that passes the signal on to everybody."""
    env = {**BOTH, "WORKERS": "2", "DRAIN_DELAY_SEC": "2"}
    with Daemon(controlled_model, env=env) as daemon:
        with Load(http_client(daemon, keep_alive=False), clients=4) as load:
            wait_for_answers(load, 50)
            told_at = time.monotonic()
            os.killpg(daemon.pid, signal.SIGTERM)
            assert daemon.wait() == 0
            load.join()
        assert time.monotonic() - told_at > 2
        assert load.tally.lost == []


def test_workers_that_drain_are_not_cut_off_when_no_other_can_start(
    place: Path, save_model, tmp_path: Path
) -> None:
    broken = save_model("broken", lambda models, path: models.save(models.Broken(), path))
    with Daemon(place, env={"WORKERS": "1"}) as daemon:
        with contextlib.closing(daemon.connection()) as connection:
            connection.request("POST", daemon.predict_path, b'{"do": "sleep", "seconds": 12}')
            wait_until(lambda: daemon.metric("pyfuncserver_requests_in_flight") == 1, 30)
            daemon.terminate(signal.SIGHUP)
            (old,) = daemon.worker_pids()
            wait_until(lambda: daemon.worker_pids() - {old}, 30)
            put(broken, place)
            os.kill(min(daemon.worker_pids()), signal.SIGKILL)
            assert connection.getresponse().status == 200
        assert daemon.wait(30) == 1
        (line,) = [line for line in daemon.log_lines() if line.startswith("pyfuncserver: ")]
        assert "weights are missing" in line


def test_what_a_worker_has_started_ends_with_it(save_model) -> None:
    model = save_model("parent_2", lambda models, path: models.save(models.Parent(), path))
    with Daemon(model, env={"WORKERS": "1"}) as daemon:
        child = daemon.predict({"instances": [[0]]}).json()["predictions"]
        assert is_alive(child)
        reload(daemon)
        wait_until(lambda: not is_alive(child), 30, "the end of the model's child")


def test_a_monitor_that_stands_still_is_replaced(controlled_model: Path) -> None:
    env = {"CARAML_PROTOCOL": "UPI_V1", "WORKERS": "2", "HEARTBEAT_TIMEOUT_SEC": "3"}
    with Daemon(controlled_model, env=env) as daemon:
        host = pid_of_host(daemon)

        def monitors() -> set[int]:
            return daemon.processes() - daemon.worker_pids() - {host}

        wait_until(lambda: len(monitors()) == 1, 30, "the monitor")
        (monitor,) = monitors()
        os.kill(monitor, signal.SIGSTOP)
        wait_until(lambda: not is_alive(monitor), 30)
        wait_until(lambda: daemon.http("GET", "/").status == 200, 30)


# Warming up


def test_each_worker_answers_the_models_example_before_it_is_ready(
    save_model, tmp_path: Path
) -> None:
    mark = tmp_path / "calls"
    model = save_model("rehearsed", lambda models, path: models.save_rehearsed(path, mark))
    mark.unlink(missing_ok=True)  # what saving it has called
    with Daemon(model, env={"WORKERS": "2"}) as daemon:
        assert set(map(int, mark.read_text().split())) == daemon.worker_pids()
        assert sum("warmed up" in line for line in daemon.log_lines()) == 2
        assert daemon.metric("pyfuncserver_requests_total") == 0


def test_a_model_that_fails_at_its_example_starts_and_does_not_take_over(
    save_model, place: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "calls"
    model = save_model("forgetful", lambda models, path: models.save_rehearsed(path, mark))
    mark.unlink(missing_ok=True)
    mark.mkdir()  # now it cannot write there
    with Daemon(model, env={"WORKERS": "1"}) as daemon:
        assert "fails at its own input example" in daemon.log()
        assert "IsADirectoryError" in daemon.log()
        assert daemon.http("GET", f"/v1/models/{daemon.full_name}").status == 200
    with Daemon(place, env={"WORKERS": "2"}) as daemon:
        put(model, place)
        daemon.terminate(signal.SIGHUP)
        wait_until(lambda: reloads(daemon, "failed") == 1, 30)
        assert daemon.predict({"do": "pid"}).status == 200


def test_a_model_that_serves_may_fail_at_its_example_later(save_model, tmp_path: Path) -> None:
    mark = tmp_path / "calls"
    model = save_model("moody", lambda models, path: models.save_rehearsed(path, mark))
    with Daemon(model, env={"WORKERS": "2"}) as daemon:
        reload(daemon)
        mark.unlink()
        mark.mkdir()
        before = daemon.worker_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(daemon.worker_pids() - before) == 2, 30, "replacements")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_warm_up_that_hangs_does_not_outlive_the_daemon(
    save_model, place: Path, tmp_path: Path, end: signal.Signals
) -> None:
    mark = tmp_path / "calls"
    model = save_model(f"hung_{end}", lambda models, path: models.save_rehearsed(path, mark))
    mark.unlink(missing_ok=True)
    os.mkfifo(mark)  # nobody reads it, so that its opening never ends
    with Daemon(place, env={"WORKERS": "2"}) as daemon:
        put(model, place)
        daemon.terminate(signal.SIGHUP)
        wait_until(lambda: daemon.log().count("warming up") == 2, 30)
        assert daemon.predict({"do": "pid"}).status == 200
        daemon.terminate(end)
        assert daemon.wait(30) == (0 if end is signal.SIGTERM else -signal.SIGKILL)
        wait_until(lambda: not daemon.processes(), 30, "all processes end")


# Replacements


def test_a_worker_is_replaced_after_its_requests(controlled_model: Path) -> None:
    env = {**BOTH, "WORKERS": "1", "MAX_REQUESTS": "5", "MAX_REQUESTS_JITTER": "3"}
    with Daemon(controlled_model, env=env) as daemon:
        before = daemon.worker_pids()
        for _ in range(4):
            assert {daemon.predict({"do": "pid"}).json()["pid"]} == before
        for _ in range(4):
            assert daemon.upi(command("pid")).prediction_context
        wait_until(lambda: not daemon.worker_pids() & before, 30, "a replacement")
        wait_until(lambda: daemon.metric("pyfuncserver_worker_restarts_total") == 1, 30)
        assert daemon.metric("pyfuncserver_worker_restarts_total", reason="recycled") == 1


@pytest.mark.parametrize("client", ["http", "upi"])
def test_a_worker_that_is_told_to_end_loses_nothing(controlled_model: Path, client: str) -> None:
    env = {**BOTH, "WORKERS": "2", "GRPC_OPTIONS": '{"grpc.max_connection_age_ms": 1000}'}
    with Daemon(controlled_model, env=env) as daemon:
        ask = http_client(daemon, True) if client == "http" else upi_client(daemon, command("pid"))
        with Load(ask, clients=8) as load:
            wait_for_answers(load, 100)
            for count in range(1, 4):
                victim = min(daemon.worker_pids())
                os.kill(victim, signal.SIGTERM)
                wait_until(lambda gone=victim: len(daemon.worker_pids() - {gone}) == 2, 30)
                wait_until(lambda gone=victim: not is_alive(gone), 30, "the end of the old one")
                assert daemon.metric("pyfuncserver_worker_restarts_total") == count
        assert load.tally.lost == []
        assert load.tally.refused == 0


def test_a_worker_that_leaves_stops_at_once_with_the_daemon(controlled_model: Path) -> None:
    """A worker that waits for its clients to move on does not hold up the end of them all."""
    env = {**BOTH, "WORKERS": "2", "DRAIN_TIMEOUT_SEC": "120"}
    with Daemon(controlled_model, env=env) as daemon, daemon.channel() as mine:
        victim = daemon.upi(command("pid"), channel=mine).prediction_context[0].integer_value
        os.kill(victim, signal.SIGTERM)
        wait_until(lambda: len(daemon.worker_pids() - {victim}) == 2, 30)
        assert is_alive(victim)
        daemon.terminate()
        assert daemon.wait(30) == 0
