from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import pytest
from collector import Collector

from pyfuncserver.errors import StartupError
from pyfuncserver.utils import tracing
from pyfuncserver.utils.tracing import Tracing

Script = Callable[..., str]
WAIT_S = 30
GRPC, HTTP = "opentelemetry-exporter-otlp-proto-grpc", "opentelemetry-exporter-otlp-proto-http"


def refusal(environ: Mapping[str, str]) -> StartupError:
    with pytest.raises(StartupError) as caught:
        tracing.check(environ)
    return caught.value


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({}, "opentelemetry-sdk"),
        ({}, GRPC),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, GRPC),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, HTTP),
        (
            {
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "HTTP/protobuf",
            },
            HTTP,
        ),
    ],
)
def test_a_package_that_is_missing(
    environ: dict[str, str], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(name: str) -> Any:
        if name == missing:
            raise PackageNotFoundError(name)
        return distribution(name)

    tracing.check(environ)
    monkeypatch.setattr(tracing, "distribution", without)
    error = refusal(environ)
    assert error.status == 1
    assert str(error) == (
        f"TRACING needs {missing}, which is not installed: pip install 'pyfuncserver[tracing]'"
    )


def test_a_protocol_that_is_unknown() -> None:
    error = refusal({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"})
    assert error.status == 2
    assert str(error) == (
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL='http/json' is not allowed; "
        "allowed: grpc, http/protobuf"
    )


def test_nothing_is_imported_by_those_who_only_check(run_script: Script) -> None:
    run_script("""
        import sys
        import pyfuncserver.server
        from pyfuncserver.utils import tracing
        tracing.check({})
        assert not [name for name in sys.modules if name.startswith("opentelemetry")]
    """)


def test_nothing_is_imported_by_a_worker_that_traces_nothing(run_script: Script) -> None:
    run_script("""
        import sys
        import pyfuncserver.worker
        assert not [name for name in sys.modules if name.startswith("opentelemetry")]
    """)


def test_what_is_preloaded_is_all_that_is_needed(run_script: Script) -> None:
    run_script("""
        import sys, threading
        from pyfuncserver.utils import tracing
        tracing.preload()
        assert threading.active_count() == 1, "a fork may follow"
        before = set(sys.modules)
        tracing.Tracing("m").close()
        late = {name for name in set(sys.modules) - before if name.startswith("opentelemetry")}
        assert not [name for name in late if "exporter" in name], late
    """)


# The global provider, of which a process has one


def test_ours_is_the_global_provider_where_the_model_has_none(run_script: Script) -> None:
    run_script("""
        from opentelemetry import trace
        early = trace.get_tracer("the model's, from before")
        from pyfuncserver.utils.tracing import Tracing
        tracing = Tracing("m-1")
        assert early.start_span("x").resource.attributes["service.name"] == "m-1"
        tracing.close()
    """)


def test_a_provider_of_the_models_own_stays(run_script: Script) -> None:
    run_script("""
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        own = TracerProvider()
        trace.set_tracer_provider(own)
        from pyfuncserver.utils.tracing import Tracing
        tracing = Tracing("m-1")
        assert trace.get_tracer_provider() is own
        assert tracing.tracer.start_span("x").resource.attributes["service.name"] == "m-1"
        tracing.close()
    """)


# The SDK's own variables


@pytest.fixture
def not_global(monkeypatch: pytest.MonkeyPatch, clean_environ: Mapping[str, str]) -> None:
    """Leave pytest's own process without a global provider, and the SDK without variables."""
    for name in [name for name in clean_environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(tracing, "_become_global", lambda _: None)


@pytest.mark.usefixtures("not_global")
@pytest.mark.parametrize(
    ("variable", "value", "name"),
    [
        ("OTEL_SERVICE_NAME", "theirs", "theirs"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=of,x=y", "of"),
        ("OTEL_RESOURCE_ATTRIBUTES", "x=y", "m-1"),
    ],
)
def test_the_services_name(
    variable: str, value: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    it = Tracing("m-1")
    span: Any = it.tracer.start_span("x")
    assert span.resource.attributes["service.name"] == name
    assert span.resource.attributes["process.pid"] == os.getpid()
    assert it.close(WAIT_S)


@pytest.mark.usefixtures("not_global")
@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_TRACES_SAMPLER", "always_off"), ("OTEL_SDK_DISABLED", "true")]
)
def test_the_sdk_reads_its_variables(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    it = Tracing("m-1")
    assert not it.tracer.start_span("x").is_recording()
    assert it.close(WAIT_S)


@pytest.mark.usefixtures("not_global")
def test_a_variable_that_the_sdk_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    with pytest.raises(StartupError, match=r"^TRACING: spans cannot be sent: "):
        Tracing("m-1")


# The end


@pytest.mark.usefixtures("not_global")
def test_what_is_left_is_sent_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with Collector() as collector:
        for name, value in {**collector.env, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}.items():
            monkeypatch.setenv(name, value)
        it = Tracing("m-1")
        it.tracer.start_span("last").end()
        assert collector.spans == []
        assert it.close(WAIT_S)
        assert [span.name for span in collector.spans] == ["last"]


@pytest.mark.usefixtures("not_global")
def test_an_end_that_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    it, may_end = Tracing("m-1"), threading.Event()
    real = it._provider.shutdown
    monkeypatch.setattr(it._provider, "shutdown", lambda: may_end.wait(WAIT_S) and real())
    assert not it.close(timeout_s=0.01)
    assert "the last spans were not taken by the collector within 0.01 s" in caplog.text
    may_end.set()
