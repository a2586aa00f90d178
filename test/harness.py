"""Runs the real daemon as a test's child: starts it, talks to it, leaves nothing of it behind.

>>> with Daemon(model_dir, env={"WORKERS": "2"}) as daemon:
...     assert daemon.predict({"instances": [[1.0]]}).status == 200

A state is waited for with :func:`wait_until`, which has a deadline; nothing here sleeps for one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import grpc
from prometheus_client.parser import text_string_to_metric_families

from pyfuncserver.config import settings

PREDICT_VALUES = "/caraml.upi.v1.UniversalPredictionService/PredictValues"
MARKER = "PYFUNCSERVER_TEST_ID"
GATES = "PYFUNCSERVER_TEST_GATES"
"""Names the directory of a daemon's gates to its model."""
STOP_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.02
LONGEST_POLL_INTERVAL_S = 0.1
"""Between looks that take long themselves, as a scrape does, and hold up what is waited for."""
LOG_LINES_SHOWN = 60

# What the caller's shell has set for a server of its own must not reach the one under test.
_FOREIGN_NAMES = {
    name
    for row in settings()
    for name in (row.variable, *row.aliases, *(seldon.variable for seldon in row.seldons))
} | {
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
}
DEFAULTS: dict[str, str] = {}
"""Settings of every daemon that does not set them itself."""
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

T = TypeVar("T")
Metrics = dict[tuple[str, frozenset[tuple[str, str]]], float]


class DaemonFailed(AssertionError):
    """The daemon ended early, did not become ready, did not stop, or left processes behind."""


def wait_until(predicate: Callable[[], T], timeout_s: float, what: str = "") -> T:
    """Poll until the predicate is true, and return what it gave.

    The deadline is for what never comes; a machine that others use may stand still for seconds.

    Raises: AssertionError when the deadline passes first.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        began = time.monotonic()
        value = predicate()
        if value:
            return value
        now = time.monotonic()
        if now >= deadline:
            raise AssertionError(f"Not within {timeout_s:g} s: {what or predicate}")
        time.sleep(min(max(4 * (now - began), POLL_INTERVAL_S), LONGEST_POLL_INTERVAL_S))


def free_port() -> int:
    """Return a TCP port that nobody listens on; somebody may take it before you do.

    It is none of those that the kernel gives to who asks for any, as every daemon under test does
    and every connection: one of these would have it soon, and a connection even to itself.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(lowest // 2, lowest)
        # No connection of the minute before may be left, which SO_REUSEPORT does not get past.
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def daemon_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the caller's environment without its server settings, with the overrides given."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in _FOREIGN_NAMES and not name.startswith(("CARAML_", "GRPC_"))
    }
    # The daemon runs in a directory of its own, and must still find the package under test.
    paths = [_package_parent(), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(paths),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Its threads sleep at once. They would spin at each start, for a twentieth of its cost.
        "OPENBLAS_THREAD_TIMEOUT": "4",
        "CARAML_HTTP_PORT": "0",
        "CARAML_GRPC_PORT": "0",
        **DEFAULTS,
        **(env or {}),
    }


def run_daemon_expecting_exit(
    args: Sequence[str], env: Mapping[str, str] | None = None, timeout_s: float = 60
) -> tuple[int, str]:
    """Run the daemon to its end; return its exit status, and stdout and stderr as one text."""
    with tempfile.TemporaryDirectory(prefix="pyfuncserver-test-") as directory:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pyfuncserver", *args],
                env=daemon_environment(env),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
                text=True,
                errors="replace",
            )
        except subprocess.TimeoutExpired as expired:
            output = expired.output or b""
            text = output if isinstance(output, str) else output.decode(errors="replace")
            raise DaemonFailed(f"Still running after {timeout_s:g} s:\n{text}") from None
    return done.returncode, done.stdout


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    reason: str
    headers: HTTPMessage
    """Looked up without regard to case."""
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        """Parse the body strictly: a bare NaN or Infinity, which is not JSON, raises."""
        return json.loads(self.body, parse_constant=_refuse_constant)


@dataclass(frozen=True)
class Gate:
    """What a prediction waits for that was told this number, until it is opened."""

    number: int
    path: Path

    def open(self) -> None:
        self.path.touch()


class Daemon:
    """A running daemon; a context manager.

    Not thread-safe while it starts or stops; requests may come from any number of threads.
    """

    def __init__(
        self,
        model_dir: str | Path,
        *,
        env: Mapping[str, str] | None = None,
        repository: Path | None = None,
        flags: Sequence[str] = (),
        command_prefix: Sequence[str] = (),
        ready_timeout_s: float = 60,
        wait: bool = True,
    ) -> None:
        self._must_wait = wait
        self._id = uuid.uuid4().hex
        self._directory = Path(tempfile.mkdtemp(prefix="pyfuncserver-test-"))
        self._log = self._directory / "daemon.log"
        self._ready_file = self._directory / "ready.json"
        self._gates = self._directory / "gates"
        self._gates.mkdir()
        self._gate_numbers = itertools.count(1)
        self._ready_timeout_s = ready_timeout_s
        self._env = {
            **daemon_environment(env),
            "READY_FILE": str(self._ready_file),
            MARKER: self._id,
            GATES: str(self._gates),
        }
        self._command = [*command_prefix, sys.executable, "-m", "pyfuncserver"]
        if repository is None:
            self._command += ["--model_dir", str(model_dir)]
        else:
            self._command += ["--model_repository", str(repository)]
        self._command += flags
        self._process: subprocess.Popen[bytes] | None = None
        self.full_name = "model-1"
        if env:
            name = f"{env.get('CARAML_MODEL_NAME', 'model')}-{env.get('CARAML_MODEL_VERSION', '1')}"
            self.full_name = env.get("CARAML_MODEL_FULL_NAME") or name
        self.http_port = 0
        self.grpc_port: int | None = None
        self.metrics_port: int | None = None

    def __enter__(self) -> Daemon:
        # A session of its own: signals to the test run do not reach it, and what it leaves
        # behind is found by the session as well as by the marker in the environment.
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if self._must_wait:
            try:
                self.wait_ready()
            except BaseException:
                self._kill_all()
                self._clean_up()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            problem = self._stop()
            log = self.log()
        finally:
            self._clean_up()
        if error is not None:
            # pytest shows captured output beside the failure; the log is gone with its directory.
            tail = "\n".join(log.splitlines()[-LOG_LINES_SHOWN:])
            sys.stderr.write(f"--- the end of the daemon's log ---\n{tail}\n")
        elif problem:
            raise DaemonFailed(f"{problem}\n{log}")

    # Its process tree

    @property
    def pid(self) -> int:
        return self._started.pid

    def worker_pids(self) -> set[int]:
        """Return the workers that are ready now; none once the daemon stops."""
        ready = self._read_ready_file()
        return set(ready["workers"]) if ready else set()

    def processes(self) -> set[int]:
        """Return every live process that the daemon has started, those it has lost included."""
        return {pid for pid in _live_pids() if self._owns(pid)} - {self.pid}

    def cpu_seconds(self) -> float:
        """Return the CPU time, user and system, of the daemon and its live processes so far."""
        stats = [_stat(pid) for pid in {self.pid, *self.processes()}]
        return sum(int(s[11]) + int(s[12]) for s in stats if s) / _TICKS_PER_SECOND

    def terminate(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """Send the supervisor a signal."""
        self._started.send_signal(sig)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Return the exit status, negative for a signal.

        Raises: DaemonFailed when it still runs after the timeout.
        """
        try:
            return self._started.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise DaemonFailed(f"Still running after {timeout_s:g} s:\n{self.log()}") from None

    def gate(self) -> Gate:
        """Make a gate that is closed; the models of `models.py` can be told to wait for it."""
        number = next(self._gate_numbers)
        return Gate(number, self._gates / str(number))

    # Its log

    def log(self) -> str:
        """Return what it wrote to stdout and stderr so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def log_lines(self) -> list[str]:
        return self.log().splitlines()

    # HTTP

    def connection(self, timeout_s: float = 30) -> HTTPConnection:
        """Make a keep-alive connection; close it yourself."""
        return HTTPConnection("127.0.0.1", self.http_port, timeout=timeout_s)

    def http(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        connection: HTTPConnection | None = None,
    ) -> Answer:
        """Send a request, over a connection of its own unless one is given."""
        if connection is not None:
            return _exchange(connection, method, path, body, headers)
        with contextlib.closing(self.connection()) as fresh:
            return _exchange(fresh, method, path, body, headers)

    @property
    def predict_path(self) -> str:
        return f"/v1/models/{self.full_name}:predict"

    def predict(
        self,
        body: object,
        headers: Mapping[str, str] | None = None,
        connection: HTTPConnection | None = None,
    ) -> Answer:
        """Send a V1 prediction; bytes and text go as they are, anything else as JSON."""
        raw = body if isinstance(body, bytes | str) else json.dumps(body)
        headers = {"Content-Type": "application/json", **(headers or {})}
        return self.http("POST", self.predict_path, raw, headers, connection)

    def metrics(self) -> Metrics:
        """Scrape `/metrics`; a sample's key is its name and its labels as a frozen set of pairs."""
        return _samples(self._exposition())

    def metric(self, name: str, /, **labels: str) -> float:
        """Return the sum of the samples of that name that carry these labels; 0.0 for none."""
        # The others need not be parsed, which is often done while something is waited for.
        lines = [line for line in self._exposition().split("\n") if line.startswith(name)]
        return sum(
            value
            for (sample, its_labels), value in _samples("\n".join(lines)).items()
            if sample == name and labels.items() <= its_labels
        )

    # gRPC

    def channel(self, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """Make a channel with a connection of its own; close it yourself."""
        # Channels with the same arguments share connections otherwise, so the same worker.
        alone = ("grpc.use_local_subchannel_pool", 1)
        return grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}", [alone, *options])

    def upi(
        self,
        request: Any,
        metadata: Sequence[tuple[str, str]] | None = None,
        timeout: float = 30,
        channel: grpc.Channel | None = None,
    ) -> Any:
        """Call PredictValues, over a channel of its own unless one is given.

        Raises: grpc.RpcError for any status but OK.
        """
        if channel is not None:
            return predict_values(channel)(request, metadata=metadata, timeout=timeout)
        with self.channel() as fresh:
            return predict_values(fresh)(request, metadata=metadata, timeout=timeout)

    # Inside

    def _exposition(self) -> str:
        answer = self.http("GET", "/metrics")
        if answer.status != 200:
            raise AssertionError(f"GET /metrics answered {answer.status}: {answer.text}")
        return answer.text

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the daemon is started by `with`"
        return self._process

    def wait_ready(self) -> None:
        """Wait until it is ready; `with` does so, unless told not to."""

        def ready() -> dict[str, Any] | None:
            status = self._started.poll()
            if status is not None:
                raise DaemonFailed(f"Ended with {status} before it was ready:\n{self.log()}")
            return self._read_ready_file()

        try:
            answer = wait_until(ready, self._ready_timeout_s, "the daemon is ready")
        except DaemonFailed:
            raise
        except AssertionError as late:
            raise DaemonFailed(f"{late}\n{self.log()}") from None
        assert answer is not None
        self.http_port = answer["http_port"]
        self.grpc_port = answer["grpc_port"]
        self.metrics_port = answer["metrics_port"]

    def _read_ready_file(self) -> dict[str, Any] | None:
        try:
            ready: dict[str, Any] = json.loads(self._ready_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return ready

    def _stop(self) -> str:
        """Stop what still runs; return what was wrong with how it went, or nothing."""
        problem = ""
        if self._started.poll() is None:
            self.terminate()
            try:
                status = self._started.wait(STOP_TIMEOUT_S)
                problem = f"Ended with {status} after SIGTERM" if status else ""
            except subprocess.TimeoutExpired:
                problem = f"Still running {STOP_TIMEOUT_S:g} s after SIGTERM"
        elif self._started.returncode < 0:
            # Killed by the test: its children have to notice that by themselves.
            with contextlib.suppress(AssertionError):
                wait_until(lambda: not self.processes(), STOP_TIMEOUT_S)
        left = self._kill_all()
        return problem or (f"Left behind: {left}" if left else "")

    def _kill_all(self) -> dict[int, str]:
        """Kill whatever lives, also what is started meanwhile; return pid and command of each."""
        killed: dict[int, str] = {}

        def none_lives() -> bool:
            alive = {pid for pid in _live_pids() if self._owns(pid)}
            for pid in alive:
                killed.setdefault(pid, _command_line(pid))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._started.poll()
            return not alive

        wait_until(none_lives, STOP_TIMEOUT_S, "the daemon's processes are killed")
        return killed

    def _clean_up(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def _owns(self, pid: int) -> bool:
        # Either may fail alone: a process can overwrite its environment (to set its title), or
        # open a session of its own.
        stat = _stat(pid)
        if stat is None or stat[0] == "Z":
            return False
        return int(stat[3]) == self.pid or self._marker in _environment(pid)

    @property
    def _marker(self) -> bytes:
        return f"{MARKER}={self._id}".encode()


def _samples(exposition: str) -> Metrics:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


def predict_values(channel: grpc.Channel) -> Callable[..., Any]:
    """Make the PredictValues call of a channel; it gives and takes the server's message classes."""
    from pyfuncserver.codec.upi import messages

    upi = messages()
    call: Callable[..., Any] = channel.unary_unary(
        PREDICT_VALUES,
        request_serializer=upi.PredictValuesRequest.SerializeToString,
        response_deserializer=upi.PredictValuesResponse.FromString,
    )
    return call


def _exchange(
    connection: HTTPConnection,
    method: str,
    path: str,
    body: bytes | str | None,
    headers: Mapping[str, str] | None,
) -> Answer:
    raw = body.encode() if isinstance(body, str) else body
    connection.request(method, path, raw, dict(headers or {}))
    response = connection.getresponse()
    return Answer(response.status, response.reason, response.headers, response.read())


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _package_parent() -> str:
    spec = importlib.util.find_spec("pyfuncserver")
    assert spec is not None, "pyfuncserver is not installed"
    assert spec.origin is not None, "pyfuncserver is no package"
    return str(Path(spec.origin).parent.parent)


def _live_pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _stat(pid: int) -> list[str] | None:
    """Return the fields of `/proc/<pid>/stat` from the third (state) on; None for a dead one."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field, the command, may itself hold blanks and parentheses.
    return text.rpartition(")")[2].split()


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def _command_line(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()
