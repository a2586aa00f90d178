"""The image's health check, against a small server of each kind; test/image has the real one."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import certificates
import pytest

from pyfuncserver import seldon_names
from pyfuncserver.config import Config, settings
from pyfuncserver.image import healthcheck


class Answers(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/v2/health/ready" else 404)
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), type("Own", (Answers,), {})) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def environ(server: HTTPServer, **more: str) -> dict[str, str]:
    return {"CARAML_HTTP_PORT": str(server.server_port), **more}


def test_ready(server: HTTPServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert healthcheck.main(environ(server)) == 0
    assert capsys.readouterr().out == ""


def test_not_ready(server: HTTPServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.RequestHandlerClass.status = 503  # type: ignore[attr-defined]
    assert healthcheck.main(environ(server)) == 1
    port = server.server_port
    assert capsys.readouterr().out == f"/v2/health/ready on port {port}: answered 503\n"


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert healthcheck.main({"CARAML_HTTP_PORT": "1"}) == 1
    assert "refused" in capsys.readouterr().out


def test_a_port_that_is_none() -> None:
    assert healthcheck.main({"CARAML_HTTP_PORT": "web"}) == 1


def test_over_tls(server: HTTPServer, tmp_path: Path) -> None:
    pair = certificates.Authority(tmp_path).issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    assert healthcheck.main(environ(server, TLS_CERT=str(pair.cert))) == 0


def test_where_clients_need_a_certificate(server: HTTPServer) -> None:
    assert healthcheck.main(environ(server, TLS_CERT="c", TLS_CLIENT_CA="ca")) == 0


def test_its_names_are_the_settings() -> None:
    (row,) = (row for row in settings() if row.field == "http_port")
    seldons = {name.variable for name in seldon_names.NAMES if name.field == "http_port"}
    assert healthcheck.PORT_VARIABLES[0] == row.variable
    assert set(healthcheck.PORT_VARIABLES[1:]) == {*row.aliases, *seldons}
    assert Config.model_fields["http_port"].default == healthcheck.DEFAULT_PORT
