"""The process tree: workers share the work, die, and are replaced; nothing is left behind."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness import (
    Daemon,
    DaemonFailed,
    predict_values,
    run_daemon_expecting_exit,
    wait_until,
)
from load import BOTH, Load, command, http_client, upi_client, wait_for_answers


def cpu_ticks(pid: int) -> int:
    """Give the time that a process has used, in clock ticks (proc(5), utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def pid_over_http(daemon: Daemon) -> int:
    return int(daemon.predict({"do": "pid"}).json()["pid"])


def pid_over_upi(daemon: Daemon) -> int:
    return int(daemon.upi(command("pid")).prediction_context[0].integer_value)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_exactly_the_workers_answer_over_both_protocols(
    controlled_model: Path, workers: int
) -> None:
    with Daemon(controlled_model, env={**BOTH, "WORKERS": str(workers)}) as daemon:
        expected = daemon.worker_pids()
        assert len(expected) == workers
        loads = sum("model.loader loaded" in line for line in daemon.log_lines())
        assert loads == 1, "the model is loaded once for all of them"
        for ask in (pid_over_http, pid_over_upi):
            seen: set[int] = set()

            def all_seen(ask=ask, seen=seen) -> bool:
                seen.update(ask(daemon) for _ in range(8))
                return seen == expected

            wait_until(all_seen, timeout_s=60, what=f"{expected} by {ask.__name__}")
            seen.update(ask(daemon) for _ in range(40))
            assert seen == expected


def test_workers_load_for_themselves_when_told_so(controlled_model: Path) -> None:
    env = {"WORKERS": "2", "MODEL_LOADING": "worker"}
    with Daemon(controlled_model, env=env) as daemon:
        assert sum("model.loader loaded" in line for line in daemon.log_lines()) == 2
        victim = min(daemon.worker_pids())
        os.kill(victim, signal.SIGKILL)
        wait_until(
            lambda: len(daemon.worker_pids() - {victim}) == 2, timeout_s=30, what="a replacement"
        )
        assert daemon.predict({"do": "pid"}).status == 200


def test_a_model_with_threads_is_not_forked(save_model, tmp_path: Path) -> None:
    model = save_model("threaded", lambda models, path: models.save(models.Threaded(), path))
    with Daemon(model, env={"WORKERS": "2"}) as daemon:
        assert sum("model.loader loaded" in line for line in daemon.log_lines()) == 2
        reasons = [line for line in daemon.log_lines() if "cannot be shared" in line]
        assert len(reasons) == 1
        assert "the-models-own-thread" in reasons[0]
        assert {status_over_plain(daemon) for _ in range(4)} == {200}
        assert len(daemon.worker_pids()) == 2


def status_over_plain(daemon: Daemon) -> int:
    return daemon.predict({"instances": [[1.0]]}).status


@pytest.mark.parametrize("protocol", ["HTTP_JSON", "UPI_V1"])
def test_a_killed_worker_is_replaced_within_a_second(controlled_model: Path, protocol: str) -> None:
    """Others on the machine can only make it slower: the quickest of three is what counts."""
    with Daemon(controlled_model, env={"CARAML_PROTOCOL": protocol, "WORKERS": "2"}) as daemon:
        assert min(replaced_after_s(daemon) for _ in range(3)) < 1
        assert sum("model.loader loaded" in line for line in daemon.log_lines()) == 1
        assert daemon.metric("pyfuncserver_worker_restarts_total", reason="signal") == 3
        lines = [line for line in daemon.log_lines() if "replacing it" in line]
        assert ["SIGKILL" in line for line in lines] == [True] * 3


def replaced_after_s(daemon: Daemon) -> float:
    """Kill a worker; give how long it takes until another is ready."""
    victim = min(daemon.worker_pids())
    killed_at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(daemon.worker_pids() - {victim}) == 2, timeout_s=30)
    return time.monotonic() - killed_at


def test_the_host_dies_and_its_workers_serve_until_another_has_loaded(
    controlled_model: Path,
) -> None:
    with Daemon(controlled_model, env={"WORKERS": "2"}) as daemon:
        old = daemon.worker_pids()
        (host,) = [
            int(line.split()[3]) for line in daemon.log_lines() if "model.loader loaded" in line
        ]
        assert host not in old
        with Load(http_client(daemon, keep_alive=False), clients=2) as load:
            os.kill(host, signal.SIGKILL)
            wait_until(
                lambda: len(daemon.worker_pids()) == 2 and not daemon.worker_pids() & old,
                timeout_s=30,
                what="workers of a second generation",
            )
        assert load.tally.lost == []
        assert daemon.metric("pyfuncserver_model_generation") == 2
        wait_until(lambda: len(daemon.processes()) == 3, 30, "the old workers are gone")


@pytest.mark.parametrize("protocol", ["HTTP_JSON", "UPI_V1"])
def test_the_supervisor_is_killed_and_nothing_outlives_it(
    controlled_model: Path, protocol: str
) -> None:
    with Daemon(controlled_model, env={"CARAML_PROTOCOL": protocol, "WORKERS": "2"}) as daemon:
        expected = 3 if protocol == "HTTP_JSON" else 4
        wait_until(lambda: len(daemon.processes()) == expected, 30, "the process tree")
        daemon.terminate(signal.SIGKILL)
        daemon.wait()
        wait_until(lambda: not daemon.processes(), timeout_s=30, what="all processes end")


def test_what_a_model_has_started_does_not_outlive_the_daemon(save_model) -> None:
    model = save_model("parent", lambda models, path: models.save(models.Parent(), path))
    with Daemon(model, env={"WORKERS": "2"}) as daemon:
        child = daemon.predict({"instances": [[0]]}).json()["predictions"]
        assert child in daemon.processes()
        daemon.terminate()
        assert daemon.wait() == 0
        assert not daemon.processes()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_models_exit_functions_run_once_at_the_end(
    save_model, tmp_path: Path, workers: str
) -> None:
    mark = tmp_path / "mark"
    model = save_model(
        f"tidy_{workers}", lambda models, path: models.save(models.Tidy(str(mark)), path)
    )
    with Daemon(model, env={"WORKERS": workers}) as daemon:
        if workers == "2":
            os.kill(min(daemon.worker_pids()), signal.SIGTERM)
            wait_until(lambda: daemon.metric("pyfuncserver_worker_restarts_total"), 30)
        assert daemon.predict({"instances": [[1]]}).json() == {"predictions": True}
        daemon.terminate()
        assert daemon.wait() == 0
        assert not mark.exists()
        assert "does not end" not in daemon.log()


@pytest.mark.parametrize(
    ("client", "sig"),
    [
        ("http-keep-alive", signal.SIGTERM),
        ("http-connect", signal.SIGTERM),
        ("upi", signal.SIGTERM),
        ("http-keep-alive", signal.SIGINT),
        ("upi", signal.SIGINT),
    ],
)
def test_stopping_under_load_loses_nothing(
    controlled_model: Path, client: str, sig: signal.Signals
) -> None:
    env = {**BOTH, "WORKERS": "2", "LOG_LEVEL": "WARNING"}
    with Daemon(controlled_model, env=env) as daemon:
        clients = {
            "http-keep-alive": http_client(daemon, keep_alive=True),
            "http-connect": http_client(daemon, keep_alive=False),
            "upi": upi_client(daemon, command("pid")),
        }
        with Load(clients[client], clients=8) as load:
            wait_for_answers(load, 200)
            daemon.terminate(sig)
            assert daemon.wait() == 0
            load.join()
        assert load.tally.lost == []
        assert load.tally.refused == 8
        assert not daemon.processes()


@pytest.mark.parametrize("protocol", ["HTTP_JSON", "UPI_V1"])
def test_a_prediction_at_hand_is_finished_before_the_end(
    controlled_model: Path, protocol: str
) -> None:
    with Daemon(controlled_model, env={"CARAML_PROTOCOL": protocol, "WORKERS": "2"}) as daemon:
        if protocol == "HTTP_JSON":
            connection = daemon.connection()
            with contextlib.closing(connection):
                connection.request("POST", daemon.predict_path, b'{"do": "sleep", "seconds": 3}')
                wait_until(lambda: daemon.metric("pyfuncserver_requests_in_flight") == 1, 30)
                daemon.terminate()
                answer = connection.getresponse()
                assert answer.status == 200
                assert answer.headers["Connection"] == "close"
                assert b"slept" in answer.read()
        else:
            with daemon.channel() as channel:
                future = predict_values(channel).future(command("sleep", seconds=3.0), timeout=30)
                wait_until(lambda: daemon.metric("pyfuncserver_requests_in_flight") == 1, 30)
                daemon.terminate()
                assert future.result().prediction_context[0].double_value == 3.0
        assert daemon.wait() == 0


def test_a_prediction_longer_than_the_drain_is_cut_and_the_daemon_ends(
    controlled_model: Path,
) -> None:
    with Daemon(controlled_model, env={"DRAIN_TIMEOUT_SEC": "0.5", "WORKERS": "2"}) as daemon:
        connection = daemon.connection()
        with contextlib.closing(connection):
            connection.request("POST", daemon.predict_path, b'{"do": "sleep", "seconds": 60}')
            wait_until(lambda: daemon.metric("pyfuncserver_requests_in_flight") == 1, 30)
            daemon.terminate()
            assert daemon.wait(30) == 0
        assert any("cut off" in line for line in daemon.log_lines())
        assert not daemon.processes()


def test_stopping_waits_without_burning_the_processor(controlled_model: Path) -> None:
    with Daemon(controlled_model, env={"WORKERS": "2"}) as daemon:
        with contextlib.closing(daemon.connection()) as connection:
            connection.request("POST", daemon.predict_path, b'{"do": "sleep", "seconds": 3}')
            wait_until(lambda: daemon.metric("pyfuncserver_requests_in_flight") == 1, 30)
            before = cpu_ticks(daemon.pid)
            daemon.terminate()
            assert connection.getresponse().status == 200
            assert cpu_ticks(daemon.pid) - before < 0.5 * os.sysconf("SC_CLK_TCK")
        assert daemon.wait() == 0


def test_readiness_turns_before_the_ports_close(controlled_model: Path) -> None:
    env = {**BOTH, "DRAIN_DELAY_SEC": "60", "WORKERS": "2"}
    with Daemon(controlled_model, env=env) as daemon, daemon.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        check = health_pb2.HealthCheckRequest
        path = f"/v1/models/{daemon.full_name}"
        assert daemon.http("GET", path).status == 200
        assert health.Check(check()).status == health_pb2.HealthCheckResponse.SERVING
        daemon.terminate()
        wait_until(lambda: daemon.http("GET", path).status == 503, 30)
        wait_until(
            lambda: health.Check(check()).status == health_pb2.HealthCheckResponse.NOT_SERVING, 30
        )
        assert daemon.predict({"do": "pid"}).status == 200
        assert daemon.upi(command("pid"), channel=channel).prediction_context
        daemon.terminate()  # which ends the delay, too
        assert daemon.wait() == 128 + signal.SIGTERM


def test_a_second_signal_stops_at_once(controlled_model: Path) -> None:
    with Daemon(controlled_model, env={"WORKERS": "2"}) as daemon:
        connection = daemon.connection()
        with contextlib.closing(connection):
            connection.request("POST", daemon.predict_path, b'{"do": "sleep", "seconds": 60}')
            wait_until(lambda: daemon.metric("pyfuncserver_requests_in_flight") == 1, 30)
            daemon.terminate()
            wait_until(lambda: "SIGTERM: stopping" in daemon.log(), 30)
            daemon.terminate()
            assert daemon.wait(30) == 128 + signal.SIGTERM
        assert not daemon.processes()


@pytest.mark.parametrize("do", ["raise", "unjsonable", "sleep"])
def test_one_bad_request_does_not_touch_the_others(controlled_model: Path, do: str) -> None:
    with Daemon(controlled_model, env={**BOTH, "WORKERS": "2"}) as daemon:
        with (
            Load(http_client(daemon, keep_alive=True), clients=2) as load,
            Load(upi_client(daemon, command("pid")), clients=2) as upi_load,
        ):
            wait_for_answers(load, 20)
            wait_for_answers(upi_load, 20)
            if do == "sleep":
                before = load.tally.answered, upi_load.tally.answered
                assert daemon.predict({"do": "sleep", "seconds": 2}).json()["slept"] == 2
                after = load.tally.answered, upi_load.tally.answered
                assert all(then - now > 20 for now, then in zip(before, after, strict=True))
            else:
                answer = daemon.predict({"do": do})
                assert answer.status == 500
                assert "error id" in answer.json()["reason"]
                with pytest.raises(grpc.RpcError) as refusal:
                    daemon.upi(command(do))
                assert refusal.value.code() is grpc.StatusCode.INTERNAL
                assert "error id" in refusal.value.details()
        assert load.tally.lost == []
        assert upi_load.tally.lost == []


def test_a_model_that_exits_takes_only_its_own_worker(controlled_model: Path) -> None:
    """What the worker that exits had in hand is lost with it; the other worker goes on."""
    with Daemon(controlled_model, env={**BOTH, "WORKERS": "2"}) as daemon:
        with contextlib.closing(daemon.connection()) as steady, daemon.channel() as steady_channel:
            mine = daemon.predict({"do": "pid"}, connection=steady).json()["pid"]
            other = connection_to_another(daemon, mine)
            with contextlib.closing(other), pytest.raises(OSError, match=r".*"):
                daemon.predict({"do": "exit"}, connection=other)
            assert daemon.predict({"do": "pid"}, connection=steady).json() == {"pid": mine}
            wait_until(lambda: daemon.metric("pyfuncserver_worker_restarts_total") == 1, 30)
            wait_until(lambda: len(daemon.worker_pids()) == 2, 30, "a replacement")

            mine = daemon.upi(command("pid"), channel=steady_channel)
            with pytest.raises(grpc.RpcError) as lost:
                call_another(daemon, mine.prediction_context[0].integer_value, "exit")
            assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
            assert daemon.upi(command("pid"), channel=steady_channel) == mine
        restarts = "pyfuncserver_worker_restarts_total"
        wait_until(lambda: daemon.metric(restarts) == 2, 30, "both are counted")
        assert daemon.metric(restarts, reason="exit") == 2


def connection_to_another(daemon: Daemon, pid: int) -> http.client.HTTPConnection:
    """Give a keep-alive connection that another worker than ``pid`` has."""
    while True:
        connection = daemon.connection()
        if daemon.predict({"do": "pid"}, connection=connection).json()["pid"] != pid:
            return connection
        connection.close()


def call_another(daemon: Daemon, pid: int, name: str) -> None:
    """Send a command over a channel that another worker than ``pid`` has."""
    while True:
        with daemon.channel() as channel:
            answer = daemon.upi(command("pid"), channel=channel)
            if answer.prediction_context[0].integer_value != pid:
                daemon.upi(command(name), channel=channel)
                return


@pytest.fixture(scope="module")
def upi_alone(controlled_model: Path) -> Iterator[Daemon]:
    env = {"CARAML_PROTOCOL": "UPI_V1", "GRPC_CONCURRENCY": "2"}
    with Daemon(controlled_model, env=env) as running:
        yield running


def test_grpc_concurrency_bounds_what_runs_at_a_time(upi_alone: Daemon) -> None:
    with upi_alone.channel() as channel:
        call = predict_values(channel)

        def four_take_s() -> float:
            started = time.monotonic()
            futures = [call.future(command("sleep", seconds=0.4), timeout=30) for _ in range(4)]
            assert all(future.result().prediction_context for future in futures)
            return time.monotonic() - started

        # Two at a time, not one after the other; the machine can only make it slower.
        assert 0.8 <= min(four_take_s() for _ in range(3)) < 1.4


def test_reflection_lists_what_is_served(upi_alone: Daemon) -> None:
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
        ProtoReflectionDescriptorDatabase,
    )

    with upi_alone.channel() as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) == {
            "caraml.upi.v1.UniversalPredictionService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            "inference.GRPCInferenceService",
            "seldon.protos.Generic",
            "seldon.protos.Model",
            "seldon.protos.Seldon",
        }
        file = database.FindFileContainingSymbol("caraml.upi.v1.UniversalPredictionService")
        assert [method.name for method in file.service[0].method] == ["PredictValues"]
        assert database.FindFileContainingSymbol("grpc.health.v1.Health").service
        for service in ("", *database.get_services()):
            request = health_pb2.HealthCheckRequest(service=service)
            assert health_pb2_grpc.HealthStub(channel).Check(request).status == 1
        with pytest.raises(grpc.RpcError) as unknown:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="x"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_probes_answer_while_long_predictions_run(controlled_model: Path) -> None:
    env = {**BOTH, "GRPC_CONCURRENCY": "1"}
    with (
        Daemon(controlled_model, env=env) as daemon,
        daemon.channel() as channel,
        contextlib.closing(daemon.connection()) as connection,
    ):
        connection.request("POST", daemon.predict_path, b'{"do": "sleep", "seconds": 4}')
        call = predict_values(channel).future(command("sleep", seconds=4.0), timeout=30)
        wait_until(lambda: daemon.metric("pyfuncserver_requests_in_flight") == 2, 30)
        health = health_pb2_grpc.HealthStub(channel)
        for _ in range(20):
            assert daemon.http("GET", "/").text == "Alive"
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=30).status == 1
        assert not call.done()
        assert call.result().prediction_context
        assert connection.getresponse().status == 200


def test_long_lived_channels_are_moved_on(controlled_model: Path) -> None:
    """A channel stays with one worker only as long as its connection may grow old."""
    options = '{"grpc.max_connection_age_ms": 300, "grpc.max_connection_age_grace_ms": 5000}'
    env = {"CARAML_PROTOCOL": "UPI_V1", "WORKERS": "2", "GRPC_OPTIONS": options}
    with Daemon(controlled_model, env=env) as daemon, daemon.channel() as channel:
        seen: set[int] = set()

        def both() -> bool:
            answer = daemon.upi(command("pid"), channel=channel)
            seen.add(answer.prediction_context[0].integer_value)
            return seen == daemon.worker_pids()

        wait_until(both, timeout_s=30, what="one channel that meets both workers")


@pytest.mark.parametrize("loading", ["auto", "worker"])
def test_a_model_that_cannot_be_loaded_ends_the_start(save_model, loading: str) -> None:
    broken = save_model("broken", lambda models, path: models.save(models.Broken(), path))
    env = {"WORKERS": "2", "MODEL_LOADING": loading}
    status, output = run_daemon_expecting_exit(["--model_dir", str(broken)], env)
    assert status == 1
    (line,) = [line for line in output.splitlines() if line.startswith("pyfuncserver: ")]
    assert "KeyError" in line
    assert "weights are missing" in line
    assert "Traceback" not in output


def test_a_load_that_crashes_ends_the_start(save_model) -> None:
    crashing = save_model("crashing", lambda models, path: models.save(models.Crashing(), path))
    status, output = run_daemon_expecting_exit(["--model_dir", str(crashing)], {"WORKERS": "2"})
    assert status == 1
    (line,) = [line for line in output.splitlines() if line.startswith("pyfuncserver: ")]
    assert "SIGSEGV" in line


def test_a_daemon_that_is_not_ready_is_no_daemon(controlled_model: Path) -> None:
    with (
        pytest.raises(DaemonFailed, match=r"LOG_LEVEL='loud' is not allowed"),
        Daemon(controlled_model, env={"LOG_LEVEL": "loud"}),
    ):
        pytest.fail("it started")
