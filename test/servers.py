"""Real stores of models as a test's children, and a proxy that breaks connections to them.

They are found in the environment that runs the tests; `make test-stores` makes one that has them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from harness import free_port, wait_until

READY_TIMEOUT_S = 90
CHUNK = 1 << 16
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close sends a reset (socket(7))


@contextlib.contextmanager
def server(
    name: str, arguments: Sequence[str], port: int, directory: Path, env: Mapping[str, str]
) -> Iterator[str]:
    """Run a command of this environment until it answers HTTP; give its URL."""
    log = directory / f"{name}.log"
    command = [str(Path(sys.executable).parent / name), *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **env},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    try:
        wait_until(answers, READY_TIMEOUT_S, f"{name} answers")
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def s3(directory: Path) -> Iterator[str]:
    """Run moto's S3; give its URL."""
    port = free_port()
    arguments = ["-H", "127.0.0.1", "-p", str(port)]
    with server("moto_server", arguments, port, directory, {}) as url:
        yield url


@contextlib.contextmanager
def gcs(directory: Path, bucket: str) -> Iterator[str]:
    """Run an emulator of Google's storage with a bucket; give its URL."""
    port = free_port()
    arguments = ["start", "--host=127.0.0.1", f"--port={port}", "--in-memory"]
    arguments += [f"--default-bucket={bucket}"]
    with server("gcp-storage-emulator", arguments, port, directory, {}) as url:
        yield url


@contextlib.contextmanager
def mlflow_server(directory: Path) -> Iterator[str]:
    """Run MLflow's tracking server with a registry, which serves artifacts; give its URL."""
    port = free_port()
    arguments = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    arguments += ["--backend-store-uri", f"sqlite:///{directory}/mlflow.db"]
    arguments += ["--artifacts-destination", str(directory / "artifacts")]
    env = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with server("mlflow", arguments, port, directory, env) as url:
        yield url


class FaultyProxy:
    """A TCP proxy before a server; a context manager. It breaks what comes from the server.

    `cut(after, times)`: so many connections are reset once so many bytes have come over them.
    `stall(after)`: connections stay silent after so many bytes, until `go_on`.
    """

    def __init__(self, upstream: str) -> None:
        host, port = upstream.removeprefix("http://").split(":")
        self._upstream = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._cut_after, self._cuts_left = 0, 0
        self._stall_after: int | None = None
        self._may_go_on = threading.Event()
        self._is_closing = threading.Event()
        self.cuts = 0
        self.stalled = 0
        self.bytes_down = 0

    def cut(self, after: int, times: int) -> None:
        with self._lock:
            self._cut_after, self._cuts_left = after, times

    def stall(self, after: int) -> None:
        with self._lock:
            self._may_go_on.clear()
            self._stall_after = after

    def go_on(self) -> None:
        with self._lock:
            self._stall_after = None
            self._may_go_on.set()

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_closing.set()
        self.go_on()
        self._listener.close()

    def _accept(self) -> None:
        while not self._is_closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._upstream)
        except OSError:
            client.close()
            return
        up = threading.Thread(target=self._up, args=(client, server), daemon=True)
        up.start()
        with client, server:
            self._down(client, server)
            # A socket that somebody reads from is not closed by closing it.
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RD)
            up.join()

    @staticmethod
    def _up(client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(CHUNK):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        come = 0
        with contextlib.suppress(OSError):
            while data := server.recv(CHUNK):
                come += len(data)
                self._maybe_stall(come)
                if self._must_cut(come):
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    return
                client.sendall(data)
                with self._lock:
                    self.bytes_down += len(data)
            client.shutdown(socket.SHUT_WR)

    def _maybe_stall(self, come: int) -> None:
        with self._lock:
            must = self._stall_after is not None and come > self._stall_after
            self.stalled += must
        if must:
            self._may_go_on.wait()

    def _must_cut(self, come: int) -> bool:
        with self._lock:
            if not self._cuts_left or come <= self._cut_after:
                return False
            self._cuts_left -= 1
            self.cuts += 1
            return True
