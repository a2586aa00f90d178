"""What the kernel tells about a process."""

from __future__ import annotations

import os
from pathlib import Path


def state(pid: int) -> str:
    """Give a process's state as proc(5) has it, "T" for a stopped one; "" where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return stat.rpartition(")")[2].split()[0]


def is_alive(pid: int) -> bool:
    """Tell whether any thread of a process lives; its first may be gone before the others."""
    if state(pid) not in {"", "Z", "X"}:
        return True
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1  # noqa: PTH208  only the number is needed
    except FileNotFoundError:
        return False


def memory_bytes(pid: int) -> tuple[int, int]:
    """Give a process's resident and proportional memory (RSS, PSS)."""
    fields = _memory(pid)
    return fields["Rss:"], fields["Pss:"]


def own_memory_bytes(pid: int) -> tuple[int, int]:
    """Give a process's resident memory, and its share of what is in no file.

    Its share of files, as of libraries, grows when somebody else's process of the same ends. Before
    Linux 5.4 the two are not told apart.
    """
    fields = _memory(pid)
    return fields["Rss:"], fields.get("Pss_Anon:", fields["Pss:"])


def _memory(pid: int) -> dict[str, int]:
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]:
        name, kilobytes, *_ = line.split()
        fields[name] = int(kilobytes) * 1024
    return fields


def descriptor_count(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  only the number is needed
