"""This machine: which processor does what, what a process has used, and what to call it all."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path

SERVER_CPU = "0"
GENERATOR_CPU = "1"
BOTH_CPUS = f"{SERVER_CPU},{GENERATOR_CPU}"

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_SPIN = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


def pinned(cpus: str, command: list[str]) -> list[str]:
    """Give the command that runs another on these processors alone (`0`, `0,1`)."""
    return ["taskset", "--cpu-list", cpus, *command]


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """Keep both processors from halting.

    To wake a halted virtual processor is charged to whoever wakes it, here to the server or the
    generator at random. An idle loop of the lowest class gives way at once.
    """
    spinners = [
        subprocess.Popen([sys.executable, "-c", _SPIN, cpu], start_new_session=True)
        for cpu in (SERVER_CPU, GENERATOR_CPU)
    ]
    try:
        for spinner in spinners:
            # Where sessions are scheduled as groups, the class counts only inside of the session.
            with contextlib.suppress(OSError):
                Path(f"/proc/{spinner.pid}/autogroup").write_text("19", encoding="ascii")
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def processes_with(variable: str, value: str) -> set[int]:
    """Give the live processes whose environment holds the variable, whoever their parent is."""
    wanted = f"{variable}={value}".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _stat(entry.name)[:1] not in ([], ["Z"]):
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Give the user and system time that the processes have used, counted in steps of 10 ms."""
    stats = (_stat(str(pid)) for pid in pids)
    return sum(int(stat[11]) + int(stat[12]) for stat in stats if stat) / _TICKS_PER_SECOND


def proportional_bytes(pids: Iterable[int]) -> int:
    """Give the memory of the processes (PSS): a page that n processes share counts 1/n in each."""
    return sum(_pss_bytes(pid) for pid in pids)


def _pss_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _stat(pid: str) -> list[str]:
    """Give proc(5)'s fields of a process from its state on; none where it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def description() -> str:
    """Give date, processor, kernel and Python in one line."""
    today = datetime.now(timezone.utc).date().isoformat()
    python = f"Python {platform.python_version()}"
    return f"{today}; {os.cpu_count()} x {_processor()}; Linux {platform.release()}; {python}"


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()
