"""A server that runs for a benchmark: started, asked once, loaded, ended with all it started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType

import grpc

from benchmark import environments, generators, machine
from benchmark.generators import Sample
from benchmark.payloads import SIZES
from benchmark.targets import Target

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
ANSWER_TIMEOUT_S = 10
POLL_INTERVAL_S = 0.005
MARKER = "PYFUNCSERVER_BENCHMARK"


class CannotBeMeasured(RuntimeError):
    """The server did not start, or its answer is not what it should be."""


class AnswersWrongly(CannotBeMeasured):
    """The server is up, and its answer is no echo."""


@dataclass(frozen=True)
class Reading:
    """A round of load: what the generator saw, and what it cost the server."""

    sample: Sample
    cpu_us: float
    """Microseconds of all of the server's processes for an answer."""


class Server:
    """A running server; a context manager. It answers, rightly, once it has been entered."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.start_s = 0.0
        """From the start of its process to its first right answer."""
        self._id = uuid.uuid4().hex
        self.scratch = Path(tempfile.mkdtemp(prefix="bench-"))
        """Its working directory, which goes with it."""
        self._ports = _free_ports(3)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        started = self.start()
        try:
            self._wait_for_answer()
        except BaseException:
            self.stop()
            raise
        self.start_s = time.monotonic() - started
        return self

    def start(self) -> float:
        """Start its process, without waiting for an answer, and give the time at which it began."""
        command, env = self._prepared()
        with (self.scratch / "server.log").open("wb") as log:
            started = time.monotonic()
            self._process = subprocess.Popen(
                machine.pinned(self.target.cpus, command),
                env=env,
                cwd=self.scratch,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return started

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def pids(self) -> set[int]:
        """Give all of its processes, also those that have left its session."""
        return machine.processes_with(MARKER, self._id)

    def ask(self, body: bytes) -> bytes:
        """Give the answer to a body.

        Raises: CannotBeMeasured where it is no success; OSError, HTTPException or grpc.RpcError
            where there is none.
        """
        return self._ask_by_grpc(body) if self.target.is_grpc else self._ask_by_http(body)

    def check(self, size: str) -> int:
        """Ask for an echo of this size, compare it, and give the answer's length in bytes.

        Raises: AnswersWrongly where the answer is another; as :meth:`ask`.
        """
        body = self.target.body(SIZES[size])
        answer = self.ask(body)
        if not self.target.is_echoed(body, answer):
            raise AnswersWrongly(f"{self.target.name} answered {answer[:300]!r} to {body[:300]!r}")
        return len(answer)

    def load(self, size: str, connections: int, seconds: int) -> Reading:
        """Check an answer, then load the server for so long."""
        reply_bytes = self.check(size)
        body, pids = self.target.body(SIZES[size]), self.pids()
        url = f"http://127.0.0.1:{self._ports[0]}{self.target.path}"
        generate = generators.h2load if self.target.is_grpc else generators.wrk
        before = machine.cpu_seconds(pids)
        sample = generate(url, body, reply_bytes, connections, seconds, self.scratch)
        spent = machine.cpu_seconds(pids) - before
        return Reading(sample, spent / max(1, sample.requests) * 1e6)

    def log(self) -> str:
        """Give what it wrote so far."""
        return (self.scratch / "server.log").read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """End it, and whatever it has left behind."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self._lives() and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL_S)
        while self._lives():
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_INTERVAL_S)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _lives(self) -> bool:
        assert self._process is not None
        return self._process.poll() is None or bool(self.pids())

    def _prepared(self) -> tuple[list[str], dict[str, str]]:
        target = self.target
        programs = environments.binaries(target.environment)
        values = {
            "bin": programs,
            "model": environments.model(target.model) if target.model else "",
            "servers": environments.SERVERS,
            "scratch": self.scratch,
            **dict(zip(("port", "port2", "port3"), self._ports, strict=True)),
        }
        env = {name: text.format(**values) for name, text in target.env.items()}
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        surroundings = {**os.environ, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}
        if target.environment != environments.OURS:
            surroundings.pop("PYTHONPATH", None)  # Merlin's package has the name of ours
        command = [part.format(**values) for part in target.command]
        return command, {**surroundings, **env, MARKER: self._id}

    def _wait_for_answer(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        why: Exception | None = None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise CannotBeMeasured(f"{self.target.name} has ended:\n{self.log()[-2000:]}")
            try:
                if self._listens():
                    self.check("small")
                    return
            except AnswersWrongly:
                raise
            except (CannotBeMeasured, OSError, HTTPException, grpc.RpcError) as error:
                why = error
            time.sleep(POLL_INTERVAL_S)
        raise CannotBeMeasured(f"{self.target.name} gave no answer ({why}):\n{self.log()[-2000:]}")

    def _listens(self) -> bool:
        """Tell whether the port is open; gRPC's channel would wait longer and longer between."""
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self._ports[0]), ANSWER_TIMEOUT_S).close()
            return True
        return False

    def _ask_by_http(self, body: bytes) -> bytes:
        connection = HTTPConnection("127.0.0.1", self._ports[0], timeout=ANSWER_TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request("POST", self.target.path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        if answer.status != 200:
            raise CannotBeMeasured(f"{self.target.name}: {answer.status} {content[:500]!r}")
        return content

    def _ask_by_grpc(self, body: bytes) -> bytes:
        alone = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{self._ports[0]}", alone) as channel:
            answer: bytes = channel.unary_unary(self.target.path)(body, timeout=ANSWER_TIMEOUT_S)
        return answer


def _free_ports(count: int) -> list[int]:
    """Give ports that nobody has now; all are held until the last is found, so that they differ."""
    with contextlib.ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [listener.getsockname()[1] for listener in listeners]
