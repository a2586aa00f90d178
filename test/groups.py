"""Real control groups around a daemon, where this process may make some (cgroups v1 and v2)."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOTS = {"memory": Path("/sys/fs/cgroup/memory"), "cpu": Path("/sys/fs/cgroup/cpu")}
UNIFIED = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Group:
    """A control group of one controller."""

    path: Path
    is_v2: bool

    @property
    def prefix(self) -> list[str]:
        """Give the words that, before a command, run it in this group."""
        return ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh"]

    def read(self, file: str) -> str:
        return (self.path / file).read_text(encoding="ascii")

    def write(self, file: str, text: str) -> None:
        (self.path / file).write_text(text, encoding="ascii")


class MemoryGroup(Group):
    def limit(self, limit_bytes: int) -> None:
        self.write("memory.max" if self.is_v2 else "memory.limit_in_bytes", str(limit_bytes))

    def used(self) -> int:
        """Give the bytes in use, without what files keep in memory."""
        name = "anon" if self.is_v2 else "total_rss"
        figures = dict(line.split() for line in self.read("memory.stat").splitlines())
        return int(figures[name])


class CpuGroup(Group):
    def limit(self, cpus: float) -> None:
        quota, period = int(cpus * 100_000), 100_000
        if self.is_v2:
            self.write("cpu.max", f"{quota} {period}")
        else:
            self.write("cpu.cfs_period_us", str(period))
            self.write("cpu.cfs_quota_us", str(quota))


@contextlib.contextmanager
def made(kind: type[Group], controller: str) -> Iterator[Group]:
    """Make a group, and remove it; skips the test, with the reason, where that is not permitted."""
    is_v2 = not ROOTS[controller].is_dir()
    path = (UNIFIED if is_v2 else ROOTS[controller]) / f"pyfuncserver-test-{uuid.uuid4().hex[:8]}"
    try:
        if is_v2:
            (UNIFIED / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")
        path.mkdir()
    except OSError as error:
        pytest.skip(f"NOT TESTED: no {controller} control group can be made here: {error}")
    try:
        yield kind(path, is_v2)
    finally:
        path.rmdir()
