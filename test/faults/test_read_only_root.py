"""A container as it should be: nothing can be written but /dev/shm, and nobody is root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Daemon, wait_until
from load import BOTH, command

NOBODY = 65534
# Only the ready file's folder stays as it is, for the test reads it.
SCRIPT = f"""
set -e
mount -t tmpfs -o size=16m,mode=1777 tmpfs /dev/shm
if [ -n "$READY_FILE" ]; then
    kept=$(dirname "$READY_FILE")
    chown {NOBODY} "$kept"
    mount --bind "$kept" "$kept"
fi
cut -d ' ' -f 2 /proc/self/mounts | sort -u | while read -r point; do
    case "$point" in /dev/shm|"$kept") ;; *) mount -o remount,bind,ro "$point" ;; esac
done
cd /
exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --no-new-privs \\
    --inh-caps=-all,$CAPABILITIES --ambient-caps=-all,$CAPABILITIES env -u HOME -u TMPDIR "$@"
"""
# Where the interpreter lies in root's own home, one may read everything, and still write nothing.
CAPABILITIES = ("-all", "+dac_read_search")
PREFIX = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]


@pytest.fixture
def anybodys_model(controlled_model: Path) -> Iterator[Path]:
    """Give a copy of the model where every user may read it."""
    folder = Path(tempfile.mkdtemp(prefix="pyfuncserver-test-"))
    folder.chmod(0o755)
    yield shutil.copytree(controlled_model, folder / "model")
    shutil.rmtree(folder)


@pytest.fixture
def capabilities() -> str:
    """Give the least that an unprivileged user needs here; skip where none suffices."""
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        pytest.skip("NOT TESTED: unshare or setpriv (Debian package util-linux) is not installed")
    refused = ""
    for capabilities in CAPABILITIES:
        environment = {**os.environ, "READY_FILE": "", "CAPABILITIES": capabilities}
        check = [*PREFIX, sys.executable, "-c", "import tornado"]
        done = subprocess.run(check, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return capabilities
        refused = done.stderr.strip()
    pytest.skip(f"NOT TESTED: no read-only root for another user here: {refused}")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_serves_and_stops(anybodys_model: Path, capabilities: str, workers: str) -> None:
    env = {**BOTH, "WORKERS": workers, "CAPABILITIES": capabilities}
    with Daemon(anybodys_model, env=env, command_prefix=PREFIX) as daemon:
        assert daemon.predict({"do": "pid"}).status == 200
        assert daemon.upi(command("pid")).prediction_context
        assert is_shut_in(daemon.pid)
        assert all(is_shut_in(pid) for pid in daemon.processes())
        shared_memory = Path(f"/proc/{daemon.pid}/root/dev/shm")
        assert list(shared_memory.glob("pyfuncserver-metrics-*/*.db"))

        victim = min(daemon.worker_pids())
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(daemon.worker_pids() - {victim}) == int(workers), 30)
        assert daemon.predict({"do": "count"}).status == 200
        assert daemon.metric("model_calls_total") == 1
        assert daemon.metric("pyfuncserver_requests_total", dialect="v1") == 2
        assert daemon.metric("pyfuncserver_worker_proportional_memory_bytes") > 10e6

        daemon.terminate()
        assert daemon.wait() == 0
        words = (" WARNING ", " ERROR ", "Error", "Traceback")
        complaints = [line for line in daemon.log_lines() if any(word in line for word in words)]
        # Nothing is complained of but the death that the test has caused.
        assert ["was killed by SIGKILL" in line for line in complaints] == [True], complaints


def is_shut_in(pid: int) -> bool:
    """Tell whether a process is nobody's, and the root that it sees cannot be written."""
    process = Path(f"/proc/{pid}")
    mounts = [line.split() for line in (process / "mounts").read_text().splitlines()]
    root = next(options for _, point, _, options, *_ in mounts if point == "/")
    return process.stat().st_uid == NOBODY and "ro" in root.split(",")
