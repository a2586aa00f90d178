"""The load generators, wrk and h2load: how they are called, and what they have seen.

Both are closed loops: a connection sends its next request when the last one was answered.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmark import machine

TIMEOUT_S = 10
ENDING_S = 60
"""A generator may need so long, after its time, for answers that are still missing."""

_WRK_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\nSEEN {{"requests": %d, "microseconds": %d, "bytes": %d, ' ..
    '"p50": %d, "p99": %d, "errors": %d}}\\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50),
    latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""
_H2LOAD_COUNTS = re.compile(r"requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored")
_H2LOAD_DATA = re.compile(r"traffic: .*\((\d+)\) data")
_GRPC_FRAME_HEAD_BYTES = 5


@dataclass(frozen=True)
class Sample:
    """What a generator saw in one round."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def demand_tools() -> None:
    """Exit with the way to get them where a generator is missing."""
    missing = [tool for tool in ("wrk", "h2load", "taskset") if shutil.which(tool) is None]
    if missing:
        sys.exit(
            f"{', '.join(missing)} not found. On Debian and Ubuntu: "
            "apt-get install wrk nghttp2-client util-linux"
        )


def wrk(
    url: str, body: bytes, reply_bytes: int, connections: int, seconds: int, scratch: Path
) -> Sample:
    """Load an HTTP server; an answer shorter than the one that was checked is an error."""
    script = scratch / "wrk.lua"
    (scratch / "body").write_bytes(body)
    script.write_text(_WRK_SCRIPT.format(body=scratch / "body"), encoding="utf-8")
    command = ["wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{seconds}s", "--timeout", f"{TIMEOUT_S}s", "--script", str(script)]
    return parse_wrk(_output([*command, url], seconds), reply_bytes)


def parse_wrk(output: str, reply_bytes: int) -> Sample:
    """Read what the script has written at the end.

    Raises: ValueError where it has not.
    """
    found = re.search(r"^SEEN (\{.*\})$", output, re.MULTILINE)
    if found is None:
        raise ValueError(f"wrk has not told its result: {output[-500:]}")
    seen = json.loads(found[1])
    requests, errors = seen["requests"], seen["errors"]
    if seen["bytes"] < requests * reply_bytes:  # headers come on top, so a full answer is longer
        errors = max(errors, requests - seen["bytes"] // max(1, reply_bytes), 1)
    return Sample(
        requests, seen["microseconds"] / 1e6, seen["p50"] / 1000, seen["p99"] / 1000, errors
    )


def h2load(
    url: str, body: bytes, reply_bytes: int, connections: int, seconds: int, scratch: Path
) -> Sample:
    """Load a gRPC server with one message; each connection has one call at a time."""
    (scratch / "frame").write_bytes(struct.pack(">BI", 0, len(body)) + body)
    times = scratch / "h2load.log"
    times.unlink(missing_ok=True)
    command = ["h2load", "--threads", "1", "--clients", str(connections)]
    command += ["--max-concurrent-streams", "1", "--duration", str(seconds)]
    command += ["--data", str(scratch / "frame"), f"--log-file={times}"]
    command += ["--header", "content-type: application/grpc", "--header", "te: trailers"]
    output = _output([*command, url], seconds)
    return parse_h2load(output, times.read_text(), reply_bytes, connections, seconds)


def parse_h2load(
    output: str, times: str, reply_bytes: int, connections: int, seconds: int
) -> Sample:
    """Read the counts that it writes, and its log: start, status, microseconds in each line.

    The HTTP status of a call that fails is 200, too, but its answer has no data: so the answers
    are counted by the bytes of data.

    Raises: ValueError where it says less than that.
    """
    counts, data = _H2LOAD_COUNTS.search(output), _H2LOAD_DATA.search(output)
    if counts is None or data is None or not times:
        raise ValueError(f"h2load has not told its result: {output[-500:]}")
    requests, failed, errored = map(int, counts.groups())
    answered = int(data[1]) / (reply_bytes + _GRPC_FRAME_HEAD_BYTES)
    empty = requests - answered
    errors = failed + errored
    if abs(empty) > connections + 1:  # the end may cut one call a connection off
        errors = max(errors, round(abs(empty)))
    taken = sorted(int(line.split("\t")[2]) / 1000 for line in times.splitlines())
    p50, p99 = (taken[int(len(taken) * share)] for share in (0.5, 0.99))
    return Sample(requests, float(seconds), p50, p99, errors)


def _output(command: list[str], seconds: int) -> str:
    done = subprocess.run(
        machine.pinned(machine.GENERATOR_CPU, command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
        timeout=seconds + ENDING_S,
    )
    return done.stdout
