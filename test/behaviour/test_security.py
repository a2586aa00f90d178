"""TLS and tokens, over both protocols."""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from certificates import Authority, Pair
from harness import Daemon, predict_values, run_daemon_expecting_exit, wait_until
from wire import Wire, get, post

from pyfuncserver.codec import upi

ECHO = b'{"do": "echo"}'
BOTH = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1"}
TOKEN = "the-secret-token"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("server")


def files(pair: Pair) -> dict[str, str]:
    return {"TLS_CERT": str(pair.cert), "TLS_KEY": str(pair.key)}


@pytest.fixture(scope="module")
def plain(over_transport: None, controlled_model: Path) -> Iterator[Daemon]:
    with Daemon(controlled_model) as running:
        yield running


@pytest.fixture(scope="module")
def secure(over_transport: None, controlled_model: Path, pair: Pair) -> Iterator[Daemon]:
    with Daemon(controlled_model, env=files(pair)) as running:
        yield running


def ask(daemon: Daemon, context: ssl.SSLContext, path: str, body: bytes | None = None) -> bytes:
    connection = http.client.HTTPSConnection(
        "localhost", daemon.http_port, timeout=30, context=context
    )
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", path, body)
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read()


@contextlib.contextmanager
def secure_channel(daemon: Daemon, authority: Authority, own: Pair | None = None) -> Iterator:
    given = (own.key.read_bytes(), own.cert.read_bytes()) if own else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes(), *given)
    alone = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"localhost:{daemon.grpc_port}", credentials, alone) as channel:
        yield channel


def call(channel: grpc.Channel, **options: object) -> object:
    request = upi.messages().PredictValuesRequest(target_name="echo")
    return predict_values(channel)(request, timeout=30, **options)


def test_tls_over_both_protocols(
    controlled_model: Path, authority: Authority, stranger: Authority, pair: Pair
) -> None:
    env = {**BOTH, **files(pair), "WORKERS": "2", "REQUEST_TIMEOUT_SEC": "1"}
    with Daemon(controlled_model, env=env) as daemon:
        trusting = authority.client_context()
        assert ask(daemon, trusting, "/") == b"Alive"
        assert b'"ready":true' in ask(daemon, trusting, f"/v1/models/{daemon.full_name}")
        assert b"pyfuncserver_workers" in ask(daemon, trusting, "/metrics")
        assert ask(daemon, trusting, daemon.predict_path, ECHO) == b'{"echo":{"do":"echo"}}'
        with secure_channel(daemon, authority) as channel:
            assert call(channel)
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(daemon, stranger.client_context(), "/")
        with secure_channel(daemon, stranger) as channel, pytest.raises(grpc.RpcError):
            call(channel)
        with Wire(daemon.http_port) as plain:
            plain.send(get("/"))
            with contextlib.suppress(ConnectionResetError):
                assert b"HTTP" not in plain.read_to_end()
        assert "Traceback" not in daemon.log()
        assert "PRIVATE" not in daemon.log()


def test_a_client_that_reads_slowly_over_tls_gets_all_of_the_last_answer(
    secure: Daemon, authority: Authority
) -> None:
    body = b'{"do": "echo", "pad": "%s"}' % (b"x" * 20_000_000)
    with Wire(secure.http_port, context=authority.client_context()) as wire:
        wire.send(post(secure.predict_path, body, "Connection: close"))
        time.sleep(4)  # longer than a connection waits that has nothing to send
        answer = wire.answer()
    assert (answer.status, len(answer.body) > 20_000_000) == (200, True)


def test_tls_clients_that_wait_do_not_hold_up_the_end(
    controlled_model: Path, authority: Authority, pair: Pair
) -> None:
    """A client answers TLS's goodbye when it next uses its connection, which may be never."""
    with (
        Daemon(controlled_model, env={**files(pair), "DRAIN_TIMEOUT_SEC": "120"}) as daemon,
        Wire(daemon.http_port, context=authority.client_context()) as wire,
    ):
        wire.send(get("/"))
        assert wire.answer().status == 200
        daemon.terminate()
        assert daemon.wait(30) == 0


def test_a_handshake_may_take_longer_than_a_connection_is_kept(
    controlled_model: Path, authority: Authority, pair: Pair
) -> None:
    env = {**files(pair), "KEEP_ALIVE_SEC": "2.5"}
    with (
        Daemon(controlled_model, env=env) as daemon,
        socket.create_connection(("127.0.0.1", daemon.http_port), timeout=30) as slow,
    ):
        time.sleep(4)
        secure = authority.client_context().wrap_socket(slow, server_hostname="localhost")
        with contextlib.closing(secure):
            secure.sendall(get("/"))
            assert secure.recv(1000).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("is_secure", [False, True])
def test_silent_clients_that_take_all_descriptors_keep_nobody_out(
    plain: Daemon, secure: Daemon, authority: Authority, is_secure: bool
) -> None:
    context = authority.client_context() if is_secure else None
    daemon = secure if is_secure else plain
    (worker,) = daemon.worker_pids()
    used = len(list(Path(f"/proc/{worker}/fd").iterdir()))
    _, most = before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        stack.callback(resource.prlimit, worker, resource.RLIMIT_NOFILE, before)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (used + 20, most))
        for _ in range(60):
            silent = socket.create_connection(("127.0.0.1", daemon.http_port), timeout=30)
            stack.enter_context(silent)
        wire = stack.enter_context(Wire(daemon.http_port, context=context))
        wire.send(get("/"))
        assert wire.answer().status == 200


def test_limits_over_tls(controlled_model: Path, authority: Authority, pair: Pair) -> None:
    limits = {"MAX_BODY_SIZE": "1000", "KEEP_ALIVE_SEC": "2", "REQUEST_TIMEOUT_SEC": "1"}
    with Daemon(controlled_model, env={**files(pair), **limits}) as daemon:
        with socket.create_connection(("127.0.0.1", daemon.http_port), timeout=30) as silent:
            started = time.monotonic()
            assert silent.recv(1) == b"", "closed without a handshake"
            assert 0.5 < time.monotonic() - started < 15
        context = authority.client_context()
        with Wire(daemon.http_port, context=context) as wire:
            wire.send(post(daemon.predict_path, b"x" * 1_000_000))
            (answer,) = wire.answers_to_end()
            assert answer.status == 413
        with Wire(daemon.http_port, context=context) as wire:
            wire.send(b"GET / HT")
            (answer,) = wire.answers_to_end()
            assert answer.status == 408
        with Wire(daemon.http_port, context=context) as wire:
            wire.send(get("/"))
            assert wire.answer().body == b"Alive"
            assert wire.read_to_end() == b"", "and it is closed as TLS closes"


def test_pipelined_requests_over_tls_are_answered_when_it_stops(
    controlled_model: Path, authority: Authority, pair: Pair
) -> None:
    with Daemon(controlled_model, env={**files(pair), "WORKERS": "2"}) as daemon:
        context = authority.client_context()
        with Wire(daemon.http_port, context=context) as wire:
            sleep = post(daemon.predict_path, b'{"do": "sleep", "seconds": 0.3}')
            wire.send(sleep * 10)
            assert wire.answer().status == 200
            daemon.terminate()
            answers = wire.answers_to_end()
            assert [answer.status for answer in answers] == [200] * 9
            assert [answer.closes for answer in answers] == [False] * 8 + [True]
        assert daemon.wait() == 0


def test_clients_have_to_show_a_certificate(
    controlled_model: Path, authority: Authority, stranger: Authority, pair: Pair
) -> None:
    own, foreign = authority.issue("client"), stranger.issue("client")
    env = {**BOTH, **files(pair), "TLS_CLIENT_CA": str(authority.cert)}
    with Daemon(controlled_model, env=env) as daemon:
        assert ask(daemon, authority.client_context(own), "/") == b"Alive"
        with secure_channel(daemon, authority, own) as channel:
            assert call(channel)
        for shown in (None, foreign):
            with pytest.raises(OSError, match=r".*"):
                ask(daemon, authority.client_context(shown), "/")
            with (
                secure_channel(daemon, authority, shown) as channel,
                pytest.raises(grpc.RpcError) as refused,
            ):
                call(channel)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_renewed_certificates_are_taken_up(
    controlled_model: Path, authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    mine = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    shutil.copy(pair.cert, mine.cert)
    shutil.copy(pair.key, mine.key)
    renewed = authority.issue("renewed")
    context = authority.client_context()

    def http_name() -> str:
        with Wire(daemon.http_port, context=context) as wire:
            return name(wire)

    def grpc_name() -> str:
        with Wire(daemon.grpc_port or 0, context=h2) as wire:
            return name(wire)

    def name(wire: Wire) -> str:
        assert isinstance(wire.socket, ssl.SSLSocket)
        subject = wire.socket.getpeercert()["subject"]  # type: ignore[index]
        return str(dict(part[0] for part in subject)["commonName"])

    h2 = authority.client_context()
    h2.set_alpn_protocols(["h2"])
    with Daemon(controlled_model, env={**BOTH, **files(mine)}) as daemon:
        assert (http_name(), grpc_name()) == ("server", "server")
        with Wire(daemon.http_port, context=context) as kept:
            mine.cert.write_bytes(renewed.cert.read_bytes())
            wait_until(lambda: [http_name(), "stays in use" in daemon.log()][-1], 30)
            assert (http_name(), grpc_name()) == ("server", "server"), "it does not fit the key"
            mine.key.write_bytes(renewed.key.read_bytes())
            wait_until(lambda: (http_name(), grpc_name()) == ("renewed", "renewed"), 30)
            kept.send(get("/"))
            assert kept.answer().body == b"Alive"


def test_files_that_will_not_do_end_the_start(
    controlled_model: Path, stranger: Authority, pair: Pair, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for env, why in (
        ({**files(pair), "TLS_KEY": str(stranger.issue("x").key)}, "mismatch"),
        ({**files(pair), "TLS_CERT": str(tmp_path / "none")}, "TLS_CERT="),
        ({**files(pair), "TLS_CLIENT_CA": str(empty)}, "TLS_CLIENT_CA="),
        ({"TOKEN_FILE": str(empty)}, "holds no token"),
    ):
        status, output = run_daemon_expecting_exit(["--model_dir", str(controlled_model)], env)
        assert status == 1
        (line,) = [line for line in output.splitlines() if line.startswith("pyfuncserver: ")]
        assert why in line
        assert "Traceback" not in output


# Tokens


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guarded") / "tokens"


@pytest.fixture(scope="module")
def guarded(over_transport: None, controlled_model: Path, token_file: Path) -> Iterator[Daemon]:
    token_file.write_text(f"another\n{TOKEN}\n", encoding="utf-8")
    env = {**BOTH, "TOKEN_FILE": str(token_file), "LOG_LEVEL": "DEBUG"}
    with Daemon(controlled_model, env=env) as running:
        yield running


def test_who_has_no_token_is_told_before_he_sends(guarded: Daemon) -> None:
    with Wire(guarded.http_port) as wire:
        head = f"POST {guarded.predict_path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n"
        wire.send(head.encode() + b"Expect: 100-continue\r\n\r\n")
        (answer,) = wire.answers_to_end()
        assert answer.status == 401
        assert answer.closes
    assert guarded.predict(b"x" * 50_000_000).status == 401


def test_predictions_need_a_token_and_probes_do_not(guarded: Daemon, token_file: Path) -> None:
    """Renews the tokens in the end."""
    daemon = guarded
    refusals = {"dialect": "v1", "kind": "unauthenticated"}
    refused_before = daemon.metric("pyfuncserver_request_errors_total", **refusals)
    with daemon.channel() as channel:
        for path in ("/", "/metrics", "/v1/models", f"/v1/models/{daemon.full_name}"):
            assert daemon.http("GET", path).status == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            answer = daemon.predict(ECHO, headers)
            assert answer.status == 401
            assert answer.json() == {
                "status_code": 401,
                "reason": "A valid bearer token is required.",
            }
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.headers["X-Request-Id"]
        refused_now = daemon.metric("pyfuncserver_request_errors_total", **refusals)
        assert refused_now == refused_before + 3
        allowed = {"Authorization": f"Bearer {TOKEN}"}
        assert daemon.predict(ECHO, allowed).status == 200
        seen = daemon.predict({"do": "headers"}, {**allowed, "X-Other": "1"}).json()["headers"]
        assert seen["X-Other"] == "1"
        assert "Authorization" not in seen

        with pytest.raises(grpc.RpcError) as refused:
            call(channel)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert call(channel, metadata=[("authorization", f"Bearer {TOKEN}")])

        token_file.write_text("renewed", encoding="utf-8")
        wait_until(lambda: daemon.predict(ECHO, allowed).status == 401, 30)
        assert daemon.predict(ECHO, {"Authorization": "Bearer renewed"}).status == 200
        assert TOKEN not in daemon.log()
        assert TOKEN not in daemon.http("GET", "/metrics").text


def test_without_a_token_file_the_model_sees_what_is_sent(plain: Daemon) -> None:
    answer = plain.predict({"do": "headers"}, {"Authorization": "Bearer hers"})
    assert json.loads(answer.body)["headers"]["Authorization"] == "Bearer hers"
