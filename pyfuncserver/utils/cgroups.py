"""What the machine and its control groups grant this process: CPUs and memory.

Both versions of control groups are read, side by side too (hybrid mode), and in a container as
well, where the group's path and the mounted part of the hierarchy may each begin elsewhere. What
cannot be read is no limit: nothing here raises.

Sources: cgroups(7), proc(5), the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path, PurePosixPath

ROOT = Path("/")
# Version 1 writes "no limit" as the greatest number of whole pages.
_UNLIMITED_BYTES = 2**62
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cpu_quota(root: Path = ROOT) -> float | None:
    """Give the CPUs that the quotas of this process's groups leave it; None without a quota."""
    quotas = [_quota_v2(group) for group in _groups("", root)]
    quotas += [_quota_v1(group) for group in _groups("cpu", root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_v2(group: Path) -> float | None:
    return _share(*_words(group / "cpu.max"))


def _quota_v1(group: Path) -> float | None:
    return _share(*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us"))


def _share(*words: str) -> float | None:
    """Divide quota by period; ``max`` (version 2) and ``-1`` (version 1) are no quota."""
    figures = [int(word) for word in words if word.isdecimal()]
    return figures[0] / figures[1] if len(figures) == 2 and figures[1] else None


def available_cpus(root: Path = ROOT) -> float:
    """Give the CPUs that this process may use: by affinity, and by quota where there is one."""
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota(root)
    return float(allowed) if quota is None else min(quota, allowed)


def memory_available_bytes(root: Path = ROOT) -> int | None:
    """Give how much more memory this process can take before a limit, or the machine, is met.

    Pages of files that were not used lately are counted as free, for the kernel drops them first.
    """
    available = [limit - used for limit, used in _memory_limits(root)]
    machine = _figure(root / "proc/meminfo", "MemAvailable:")
    if machine is not None:
        available.append(machine * 1024)
    return max(0, min(available)) if available else None


def memory_limit_bytes(root: Path = ROOT) -> int | None:
    """Give the least that this process's group or one above it may take; None without a limit."""
    files = [group / "memory.max" for group in _groups("", root)]
    files += [group / "memory.limit_in_bytes" for group in _groups("memory", root)]
    limits = [limit for limit in map(_number, files) if limit is not None]
    return min((limit for limit in limits if limit < _UNLIMITED_BYTES), default=None)


def describe_memory(root: Path = ROOT) -> str:
    """Say how much memory the daemon may take, and how much of it is free now."""
    limit, available = memory_limit_bytes(root), memory_available_bytes(root)
    free = "" if available is None else f", {available // 2**20} MiB available"
    return (
        f"{limit // 2**20} MiB of memory (cgroup limit){free}"
        if limit
        else f"no memory limit{free}"
    )


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Give the limit of each group that has one, and what is used of it and cannot be dropped."""
    for group in _groups("", root):
        yield from _memory_limit(group, "memory.max", "memory.current", "inactive_file")
    for group in _groups("memory", root):
        yield from _memory_limit(
            group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        )


def _memory_limit(group: Path, limit: str, usage: str, idle: str) -> Iterator[tuple[int, int]]:
    most, used = _number(group / limit), _number(group / usage)
    if most is not None and used is not None and most < _UNLIMITED_BYTES:
        yield most, used - (_figure(group / "memory.stat", idle) or 0)


def oom_kills(root: Path = ROOT) -> int:
    """Count the processes that the kernel has killed for want of memory, in this process's group.

    Compare before and after a death. A group counts its own dead, whoever's limit it was; with
    version 1 the groups below count for themselves. Where no group counts, the machine's number
    is given, in which others' processes are too.
    """
    counts = [_figure(group / "memory.events", "oom_kill") for group in _groups("", root)[:1]]
    for group in _groups("memory", root)[:1]:
        if not (group / "release_agent").exists():  # else it is the whole machine's group
            counts += _figures_below(group, "memory.oom_control", "oom_kill")
    known = [count for count in counts if count is not None]
    return sum(known) if known else _figure(root / "proc/vmstat", "oom_kill") or 0


def _figures_below(group: Path, file: str, name: str) -> list[int | None]:
    return [_figure(Path(folder) / file, name) for folder, _, _ in os.walk(group)]


def limit_threads(environ: MutableMapping[str, str], workers: int, root: Path = ROOT) -> str:
    """Set the threads of numeric libraries to a worker's share of the CPUs; say what was chosen.

    Call it before such a library is imported. What the user has set stays, and a user's
    OMP_NUM_THREADS goes for all, since the other libraries heed it where they have no own variable.
    """
    cpus = available_cpus(root)
    share = str(max(1, int(cpus / workers)))
    kept = [name for name in _THREAD_VARIABLES if environ.get(name)]
    chosen = [] if "OMP_NUM_THREADS" in kept else [n for n in _THREAD_VARIABLES if n not in kept]
    environ.update(dict.fromkeys(chosen, share))
    told = ", ".join(f"{name}={share}" for name in chosen)
    if kept:
        as_set = ", ".join(f"{name}={environ[name]}" for name in kept)
        told = f"{told} ({as_set} as set)" if told else f"{as_set} as set"
    count = "1 worker" if workers == 1 else f"{workers} workers"
    return f"{cpus:g} of {os.cpu_count()} CPUs ({_reason(cpus, root)}) for {count}: {told}"


def _reason(cpus: float, root: Path) -> str:
    if cpus == cpu_quota(root):
        return "cgroup quota"
    return "all of them" if cpus == os.cpu_count() else "CPU affinity"


def _groups(controller: str, root: Path) -> list[Path]:
    """List the folders of this process's group and its ancestors, as far as they are mounted.

    The controller is one of version 1; an empty one stands for version 2.
    """
    path, mount = _own_path(controller, root), _mount(controller, root)
    if path is None or mount is None:
        return []
    begin, point = mount
    top = root / point.lstrip("/")
    # A container may see only a part of the hierarchy, and a path that leads out of that part.
    if ".." in path.parts or not path.is_relative_to(begin):
        return [top]
    own = top / path.relative_to(begin)
    return [own, *(parent for parent in own.parents if parent.is_relative_to(top))]


def _own_path(controller: str, root: Path) -> PurePosixPath | None:
    """Give the group's path as the kernel tells it: ``4:cpu,cpuacct:/path``, ``0::/path``."""
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            return PurePosixPath(path)
    return None


def _mount(controller: str, root: Path) -> tuple[str, str] | None:
    """Give which part of a hierarchy is mounted, and where (proc_pid_mountinfo(5))."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        kind, options = after.split(" ")[0], after.split(" ")[-1]
        is_it = controller in options.split(",") if controller else kind == "cgroup2"
        if kind.startswith("cgroup") and is_it:
            _, _, _, begin, point, *_ = before.split(" ")
            return _unescaped(begin), _unescaped(point)
    return None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no such hierarchy or file here, or it is not ours to read
        return []


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _number(file: Path) -> int | None:
    """Read a file that holds a number; None where it holds another word (``max``) or is missing."""
    words = _words(file)
    return int(words[0]) if words and words[0].isdecimal() else None


def _figure(file: Path, name: str) -> int | None:
    """Read the number that stands behind a name in a file of such lines."""
    for line in _lines(file):
        found, _, rest = line.partition(" ")
        if found == name and rest.split() and rest.split()[0].isdecimal():
            return int(rest.split()[0])
    return None
