"""Tracing: what makes OpenTelemetry's spans in a process, and sends them to a collector.

Where the collector is, how it is spoken to, and what is sampled is read by OpenTelemetry's SDK from
its own variables (``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_TRACES_SAMPLER``, ...); see "SDK
Configuration" of its specification. Nothing of it is imported before it is asked for.

A provider has a thread, so each worker makes its own, after the fork. Where the user's model has
set no global provider, ours becomes the global one: then the spans of the model's own code are sent
with those of its predictions. One that the model has set stays, for it was meant to have the
model's spans; those are children of ours all the same. MLflow's own tracing has, unless it is told
otherwise (``MLFLOW_USE_DEFAULT_TRACER_PROVIDER=false``), a provider apart from both.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING, Any

from pyfuncserver import __version__
from pyfuncserver.errors import StartupError

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)

USAGE_STATUS = 2
NAME = "pyfuncserver"
FLUSH_S = 1.0
"""So long a process that ends waits for its last spans to be taken; below the time that the
supervisor leaves to a worker whose drain is over."""
_EXTRA = "pip install 'pyfuncserver[tracing]'"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTERS = {
    "grpc": ("opentelemetry-exporter-otlp-proto-grpc", "opentelemetry.exporter.otlp.proto.grpc"),
    "http/protobuf": (
        "opentelemetry-exporter-otlp-proto-http",
        "opentelemetry.exporter.otlp.proto.http",
    ),
}
"""By OTLP's protocol: the package and its module."""


def check(environ: Mapping[str, str]) -> None:
    """See that spans can be sent, without an import of what sends them.

    Raises: StartupError that names the extra, or the variable that will not do.
    """
    package, _ = _exporter(environ)
    for name in ("opentelemetry-sdk", package):
        try:
            distribution(name)
        except PackageNotFoundError:
            raise StartupError(f"TRACING needs {name}, which is not installed: {_EXTRA}") from None


def preload() -> None:
    """Import what makes and sends spans, so that processes that are forked now share it."""
    import_module("opentelemetry.sdk.trace.export")
    import_module(f"{_exporter(os.environ)[1]}.trace_exporter")


def _exporter(environ: Mapping[str, str]) -> tuple[str, str]:
    given = next((name for name in _PROTOCOLS if environ.get(name)), "")
    protocol = environ[given].strip().lower() if given else "grpc"
    if protocol not in _EXPORTERS:
        allowed = ", ".join(_EXPORTERS)
        raise StartupError(
            f"{given}={protocol[:100]!r} is not allowed; allowed: {allowed}", USAGE_STATUS
        )
    return _EXPORTERS[protocol]


class Tracing:
    """A process's provider of spans, with what sends them. Make it after the last fork.

    ``service`` is the service's name where OpenTelemetry's variables say none.
    Raises: StartupError where one of those will not do.
    """

    def __init__(self, service: str) -> None:
        try:
            self._provider = _provider(service)
        except (ImportError, OSError, TypeError, ValueError) as error:
            why = " ".join(str(error).split())
            raise StartupError(f"TRACING: spans cannot be sent: {why}") from error
        _become_global(self._provider)

    @property
    def tracer(self) -> Tracer:
        found: Tracer = self._provider.get_tracer(NAME, __version__)
        return found

    def close(self, timeout_s: float = FLUSH_S) -> bool:
        """Send what is left; False where that takes too long, and goes on without an end.

        The SDK's own limits are those of its exporter: half a minute and more.
        """
        # A daemon thread: an exporter that tries again holds no process up.
        closing = threading.Thread(
            target=self._provider.shutdown, name="tracing-shutdown", daemon=True
        )
        closing.start()
        closing.join(timeout_s)
        if closing.is_alive():
            log.warning("the last spans were not taken by the collector within %g s", timeout_s)
            return False
        return True


def _provider(service: str) -> Any:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = import_module(f"{_exporter(os.environ)[1]}.trace_exporter").OTLPSpanExporter()
    # Not at the process's exit, which would wait for a collector that cannot be reached.
    provider = TracerProvider(resource=_resource(service), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _resource(service: str) -> Resource:
    """Describe this process, as far as OpenTelemetry's variables do not say it otherwise."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own: dict[str, Any] = {"process.pid": os.getpid()}
    if "service.name" not in OTELResourceDetector().detect().attributes:
        own["service.name"] = service
    return Resource.create(own)


def _become_global(provider: Any) -> None:
    from opentelemetry import trace

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(provider)
    else:
        log.info("the model's own provider of OpenTelemetry stays the global one")
