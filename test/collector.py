"""A collector of OpenTelemetry's: takes what is exported by OTLP, over gRPC or HTTP, and keeps it.

>>> with Collector() as collector:
...     with Daemon(model_dir, env={"TRACING": "true", **collector.env}) as daemon:
...         ...
...     (span,) = collector.wait_for(lambda spans: [s for s in spans if s.name == "v1 predict"])
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from harness import wait_until
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc

WAIT_S = 30
SEND_AT_ONCE = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


@dataclass(frozen=True)
class Sent:
    """A span as it came; ids are in hexadecimal digits."""

    raw: Any
    resource: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.raw.name)

    @property
    def trace_id(self) -> str:
        return str(self.raw.trace_id.hex())

    @property
    def id(self) -> str:
        return str(self.raw.span_id.hex())

    @property
    def parent_id(self) -> str:
        return str(self.raw.parent_span_id.hex())

    @property
    def attributes(self) -> dict[str, Any]:
        return _values(self.raw.attributes)

    @property
    def is_error(self) -> bool:
        return bool(self.raw.status.code == 2)

    @property
    def links(self) -> list[str]:
        """The ids of the spans that it is linked to."""
        return [link.span_id.hex() for link in self.raw.links]


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


class _Servicer(service_grpc.TraceServiceServicer):
    def __init__(self, take: Callable[[Any], None]) -> None:
        self._take = take

    def Export(self, request: Any, context: Any) -> Any:
        self._take(request)
        return service.ExportTraceServiceResponse()


class Collector:
    """Listens on a free port, over gRPC or, by ``protocol``, over HTTP. Thread-safe."""

    def __init__(self, protocol: str = "grpc") -> None:
        self._protocol = protocol
        self._lock = threading.Lock()
        self._spans: list[Sent] = []
        self.env: dict[str, str] = {}
        """What tells a daemon of this collector, and to send each span soon."""

    def __enter__(self) -> Collector:
        self._server = self._grpc() if self._protocol == "grpc" else self._http()
        port = self._server.__enter__()
        self.env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": self._protocol,
            **SEND_AT_ONCE,
        }
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.__exit__(*error)

    @property
    def spans(self) -> list[Sent]:
        with self._lock:
            return list(self._spans)

    def wait_for(self, find: Callable[[list[Sent]], list[Sent]]) -> list[Sent]:
        """Wait until this finds any among the spans that have come."""
        return wait_until(lambda: find(self.spans), WAIT_S, "the spans have come")

    def trace(self, trace_id: str, *names: str) -> list[Sent]:
        """Wait for the spans of a trace that have these names; give them in this order."""

        def find(spans: list[Sent]) -> list[Sent]:
            found = {span.name: span for span in spans if span.trace_id == trace_id}
            return [found[name] for name in names] if found.keys() >= set(names) else []

        return self.wait_for(find)

    def _take(self, request: Any) -> None:
        for group in request.resource_spans:
            resource = _values(group.resource.attributes)
            found = [Sent(span, resource) for scope in group.scope_spans for span in scope.spans]
            with self._lock:
                self._spans += found

    @contextmanager
    def _grpc(self) -> Iterator[int]:
        server = grpc.server(ThreadPoolExecutor(2))
        service_grpc.add_TraceServiceServicer_to_server(_Servicer(self._take), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait(WAIT_S)

    @contextmanager
    def _http(self) -> Iterator[int]:
        take = self._take

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                take(service.ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join(WAIT_S)
