"""Tracing: what a collector gets of predictions, and what it may not hold up."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from collector import SEND_AT_ONCE, Collector, Sent
from harness import Daemon, free_port, run_daemon_expecting_exit

from pyfuncserver.codec import upi

SECRET = "the model's own secret"
TRACE_ID, CLIENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{CLIENT_ID}-01"
SERVER = 2  # opentelemetry.proto.trace.v1.Span.SPAN_KIND_SERVER
BOTH = {"TRACING": "true", "CARAML_PROTOCOL": "HTTP_JSON,UPI_V1"}
Save = Any


def parent(number: int) -> str:
    """Make a context in a trace of its own; the number is that of the trace."""
    return f"00-{number:032x}-{CLIENT_ID}-01"


@pytest.fixture(scope="session")
def traced_model(save_model: Save) -> Path:
    def how(_: Any, path: Path) -> Path:
        import tracing_models

        return tracing_models.save_traced(path)

    saved: Path = save_model("traced", how)
    return saved


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def daemon(collector: Collector, traced_model: Path) -> Iterator[Daemon]:
    # Two workers, so that the model is loaded before the fork.
    with Daemon(traced_model, env={**BOTH, "WORKERS": "2", **collector.env}) as running:
        yield running


def table(value: float) -> Any:
    """Make a UPI request with a table of this number."""
    messages = upi.messages()
    request = messages.PredictValuesRequest()
    request.prediction_table.columns.add(name="x", type=upi.DOUBLE)
    request.prediction_table.rows.add(row_id="1").values.add(double_value=value)
    return request


def is_within(inner: Sent, outer: Sent) -> bool:
    return bool(
        outer.raw.start_time_unix_nano
        <= inner.raw.start_time_unix_nano
        <= inner.raw.end_time_unix_nano
        <= outer.raw.end_time_unix_nano
    )


def test_a_prediction_over_http_joins_its_clients_trace(
    daemon: Daemon, collector: Collector
) -> None:
    headers = {"traceparent": PARENT, "tracestate": "them=1", "X-Request-Id": "mine"}
    assert daemon.predict({"instances": [[1.0]]}, headers).status == 200
    server, run, own = collector.trace(TRACE_ID, "v1 predict", "model.predict", "inside")
    assert (server.parent_id, run.parent_id, own.parent_id) == (CLIENT_ID, server.id, run.id)
    assert server.raw.kind == SERVER
    assert server.raw.trace_state == "them=1"
    assert server.attributes == {
        "pyfuncserver.dialect": "v1",
        "pyfuncserver.model": daemon.full_name,
        "pyfuncserver.request_id": "mine",
        "http.response.status_code": 200,
    }
    assert is_within(run, server)
    assert is_within(own, run)
    assert not server.is_error
    assert server.resource["service.name"] == daemon.full_name
    assert server.resource["process.pid"] in daemon.worker_pids()


def test_a_prediction_over_grpc_joins_its_clients_trace(
    daemon: Daemon, collector: Collector
) -> None:
    daemon.upi(table(1.0), metadata=(("traceparent", parent(1)),))
    server, run, own = collector.trace(f"{1:032x}", "upi predict", "model.predict", "inside")
    assert (server.parent_id, run.parent_id, own.parent_id) == (CLIENT_ID, server.id, run.id)
    assert server.attributes["rpc.response.status_code"] == "OK"


def test_a_failure_of_the_model(daemon: Daemon, collector: Collector) -> None:
    assert daemon.predict({"instances": [[-1.0]]}, {"traceparent": parent(2)}).status == 500
    spans = collector.trace(f"{2:032x}", "v1 predict", "model.predict")
    for span in spans:
        assert span.is_error
        assert span.attributes["error.type"] == "model_failed"
        assert "error id" in span.raw.status.message
        assert SECRET not in str(span.raw)
    assert spans[0].attributes["http.response.status_code"] == 500


def test_a_failure_of_the_model_over_grpc(daemon: Daemon, collector: Collector) -> None:
    with pytest.raises(grpc.RpcError):
        daemon.upi(table(-1.0), metadata=(("traceparent", parent(3)),))
    (server,) = collector.trace(f"{3:032x}", "upi predict")
    assert server.is_error
    assert server.attributes["rpc.response.status_code"] == "INTERNAL"


def test_a_clients_fault_is_no_error_of_the_servers(daemon: Daemon, collector: Collector) -> None:
    assert daemon.predict({"neither": 1}, {"traceparent": parent(4)}).status == 400
    headers = {"traceparent": parent(5), "X-Request-Timeout": "soon"}
    assert daemon.predict({"instances": [[1.0]]}, headers).status == 400
    for number in (4, 5):
        (server,) = collector.trace(f"{number:032x}", "v1 predict")
        assert server.attributes["error.type"] == "invalid_input"
        assert not server.is_error


def test_a_context_that_is_none_starts_a_trace(daemon: Daemon, collector: Collector) -> None:
    headers = {"traceparent": "00-0-0-00", "X-Request-Id": "no-context"}
    assert daemon.predict({"instances": [[1.0]]}, headers).status == 200

    def find(spans: list[Sent]) -> list[Sent]:
        return [s for s in spans if s.attributes.get("pyfuncserver.request_id") == "no-context"]

    (server,) = collector.wait_for(find)
    assert server.parent_id == ""


def test_a_span_ends_with_its_stream(daemon: Daemon, collector: Collector) -> None:
    body = json.dumps({"inputs": "x", "stream": True})
    headers = {"Content-Type": "application/json", "traceparent": parent(6)}
    answer = daemon.http("POST", "/invocations", body, headers)
    assert answer.text.count("data:") >= 3
    server, run, own = collector.trace(f"{6:032x}", "scoring predict", "model.predict", "inside")
    assert (run.parent_id, own.parent_id) == (server.id, run.id)
    assert is_within(run, server)


def test_calls_of_a_batch(collector: Collector, traced_model: Path) -> None:
    # Nothing runs before both are there: two rows fill a batch.
    batch = {"TRACING": "true", "BATCH_MAX_SIZE": "2", "BATCH_MAX_DELAY_MS": "30000"}
    names = ("v1 predict", "model.predict")
    with Daemon(traced_model, env={**batch, **collector.env}) as daemon:
        with ThreadPoolExecutor(2) as clients:
            calls = [
                clients.submit(daemon.predict, {"instances": [[1.0]]}, {"traceparent": parent(n)})
                for n in (7, 8)
            ]
            assert [call.result().status for call in calls] == [200, 200]
        traces = [collector.trace(f"{n:032x}", *names) for n in (7, 8)]
    for server, run in traces:
        assert run.parent_id == server.id
        assert is_within(run, server)
    # The run itself is in the trace of one of them, and so is what the model makes.
    (leader, real), (follower, noted) = sorted(
        traces, key=lambda pair: "pyfuncserver.batch_calls" not in pair[1].attributes
    )
    assert real.attributes["pyfuncserver.batch_calls"] == 2
    assert (real.links, noted.links) == ([follower.id], [real.id])
    (own,) = collector.trace(leader.trace_id, "inside")
    assert own.parent_id == real.id


def test_the_last_spans_are_sent_over_http_before_the_end(traced_model: Path) -> None:
    with Collector("http/protobuf") as collector:
        env = {**BOTH, **collector.env, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
        env |= {"OTEL_SERVICE_NAME": "theirs"}
        with Daemon(traced_model, env=env) as daemon:
            assert daemon.predict({"instances": [[1.0]]}, {"traceparent": PARENT}).status == 200
            daemon.terminate()
            assert daemon.wait() == 0
        found = {span.name for span in collector.spans}
        assert found == {"v1 predict", "model.predict", "inside"}
        assert {span.resource["service.name"] for span in collector.spans} == {"theirs"}


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """Give a port where connections are taken by the kernel, and by nobody else."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@pytest.mark.parametrize(("workers", "is_silent"), [("1", True), ("2", False)])
def test_a_collector_that_is_not_there_holds_up_nothing(
    traced_model: Path, workers: str, is_silent: bool
) -> None:
    with silent() if is_silent else contextlib.nullcontext(free_port()) as port:
        env = {**BOTH, **SEND_AT_ONCE, "WORKERS": workers, "DRAIN_TIMEOUT_SEC": "5"}
        env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
        env |= {"OTEL_EXPORTER_OTLP_TIMEOUT": "60"}
        with Daemon(traced_model, env=env) as daemon:
            for _ in range(20):
                assert daemon.predict({"instances": [[1.0]]}).status == 200
            daemon.upi(table(1.0))
            daemon.terminate()
            # Its exporter would try for a minute, and the supervisor kills after 7 s, which would
            # not give 0.
            assert daemon.wait() == 0
            assert "drained in" in daemon.log()
            assert "Traceback" not in daemon.log()


@pytest.mark.parametrize("flags", [[], ["--dry_run"]])
def test_a_protocol_that_is_unknown(traced_model: Path, flags: list[str]) -> None:
    env = {"TRACING": "1", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}
    args = ["--model_dir", str(traced_model), *flags]
    status, output = run_daemon_expecting_exit(args, env)
    assert status == 2
    (line,) = output.splitlines()
    assert "OTEL_EXPORTER_OTLP_PROTOCOL='http/json' is not allowed; allowed: grpc," in line


def test_what_the_sdk_cannot_read(traced_model: Path) -> None:
    env = {"TRACING": "1", "OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}
    status, output = run_daemon_expecting_exit(["--model_dir", str(traced_model)], env)
    assert status == 1
    assert "TRACING: spans cannot be sent: " in output
    assert "Traceback" not in output
