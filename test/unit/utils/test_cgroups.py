from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pyfuncserver.utils import cgroups

Tree = Callable[[Mapping[str, str]], Path]

V1 = {
    "proc/self/cgroup": "5:memory:/a/b\n3:cpu,cpuacct:/a/b\n1:name=systemd:/x\n",
    "proc/self/mountinfo": (
        "30 25 0:26 / /sys/fs/cgroup/systemd rw,nosuid - cgroup cgroup rw,name=systemd\n"
        "31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        "32 25 0:28 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"
    ),
    "sys/fs/cgroup/memory/release_agent": "",
}
V2 = {
    "proc/self/cgroup": "0::/a/b\n",
    "proc/self/mountinfo": "31 25 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n",
}
CPU1, MEMORY1, V2_TOP = "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/memory", "sys/fs/cgroup"


def quota_v1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {
        f"{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"{folder}/cpu.cfs_period_us": f"{period}\n",
    }


def memory_v1(folder: str, limit: int, usage: int, idle: int) -> dict[str, str]:
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{usage}\n",
        f"{folder}/memory.stat": f"inactive_file 1\ntotal_inactive_file {idle}\n",
    }


def memory_v2(folder: str, limit: str, usage: int, idle: int) -> dict[str, str]:
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{usage}\n",
        f"{folder}/memory.stat": f"anon 5\ninactive_file {idle}\nactive_file 7\n",
    }


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    def make(files: Mapping[str, str]) -> Path:
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({**V2, f"{V2_TOP}/a/b/cpu.max": "150000 100000\n"}, 1.5),
        ({**V2, f"{V2_TOP}/a/b/cpu.max": "max 100000\n"}, None),
        (
            {
                **V2,
                f"{V2_TOP}/a/b/cpu.max": "400000 100000\n",
                f"{V2_TOP}/a/cpu.max": "25000 50000\n",
            },
            0.5,
        ),
        ({**V1, **quota_v1(f"{CPU1}/a/b", 200_000)}, 2),
        ({**V1, **quota_v1(f"{CPU1}/a/b", -1)}, None),
        ({**V1, **quota_v1(f"{CPU1}/a/b", -1), **quota_v1(f"{CPU1}/a", 300_000)}, 3),
        ({**V1, **quota_v1(f"{CPU1}/c", 100_000)}, None),
        ({**V1, f"{CPU1}/a/b/cpu.cfs_quota_us": "100000"}, None),
        ({**V1, **quota_v1(f"{CPU1}/a/b", 100_000, period=0)}, None),
        ({}, None),
        ({"proc/self/cgroup": "nonsense\n::\n", "proc/self/mountinfo": "x\n - cgroup\n"}, None),
    ],
    ids=[
        "v2",
        "v2-unlimited",
        "v2-ancestor",
        "v1",
        "v1-unlimited",
        "v1-ancestor",
        "v1-anothers",
        "v1-half",
        "v1-zero",
        "nothing",
        "nonsense",
    ],
)
def test_cpu_quota(tree: Tree, files: dict[str, str], expected: float | None) -> None:
    root = tree(files)
    assert cgroups.cpu_quota(root) == expected
    allowed = len(os.sched_getaffinity(0))
    assert cgroups.available_cpus(root) == min(expected or allowed, allowed)


@pytest.mark.parametrize(
    ("own", "begin", "group"),
    [
        ("/docker/abc", "/docker/abc", ""),  # no namespace: the container's part is mounted
        ("/docker/abc/init", "/docker/abc", "/init"),
        ("/", "/", ""),  # a namespace of its own
        ("/init", "/", "/init"),
        ("/../sibling", "/", ""),  # it was moved out of its namespace
        ("/docker/abc", "/docker/ab", ""),  # a part that does not hold it
        ("/", "/../..", ""),  # the host's mount, seen from a namespace
        (r"/with space", r"/with\040space", ""),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_groups_in_containers(tree: Tree, own: str, begin: str, group: str, version: int) -> None:
    kind, options = ("cgroup", "rw,cpu") if version == 1 else ("cgroup2", "rw")
    files = {
        "proc/self/cgroup": f"2:cpu:{own}\n" if version == 1 else f"0::{own}\n",
        "proc/self/mountinfo": f"31 25 0:27 {begin} /sys/fs/cgroup/x rw - {kind} x {options}\n",
    }
    folder = f"sys/fs/cgroup/x{group}"
    limit = quota_v1(folder, 50_000) if version == 1 else {f"{folder}/cpu.max": "50000 100000\n"}
    assert cgroups.cpu_quota(tree({**files, **limit})) == 0.5


def test_hybrid_mode(tree: Tree) -> None:
    """The second version is mounted beside the first, and has no controllers."""
    files = {
        **quota_v1(f"{CPU1}/a/b", 50_000),
        **memory_v1(f"{MEMORY1}/a/b", 1000, 400, 100),
        "proc/self/cgroup": V1["proc/self/cgroup"] + "0::/a/b\n",
        "proc/self/mountinfo": V1["proc/self/mountinfo"]
        + "33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        "sys/fs/cgroup/unified/a/b/cgroup.procs": "1\n",
        f"{MEMORY1}/a/b/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    }
    root = tree(files)
    assert cgroups.cpu_quota(root) == 0.5
    assert cgroups.memory_available_bytes(root) == 700
    assert cgroups.oom_kills(root) == 2


MEMINFO = {"proc/meminfo": "MemTotal:  9000 kB\nMemFree:  1 kB\nMemAvailable:     5 kB\n"}


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({**V2, **memory_v2(f"{V2_TOP}/a/b", "1000", 700, 200)}, 500),
        ({**V2, **memory_v2(f"{V2_TOP}/a/b", "max", 700, 200)}, None),
        (
            {
                **V2,
                **memory_v2(f"{V2_TOP}/a/b", "1000", 100, 0),
                **memory_v2(f"{V2_TOP}/a", "4000", 3900, 50),
            },
            150,
        ),
        ({**V2, **memory_v2(f"{V2_TOP}/a/b", "1000", 1100, 0)}, 0),
        ({**V2, **MEMINFO, **memory_v2(f"{V2_TOP}/a/b", "9000", 100, 0)}, 5120),
        ({**V2, **MEMINFO}, 5120),
        ({**V1, **memory_v1(f"{MEMORY1}/a/b", 1000, 700, 200)}, 500),
        ({**V1, **memory_v1(f"{MEMORY1}/a/b", 9223372036854771712, 700, 200)}, None),
        ({**V1, **memory_v1(f"{MEMORY1}/a", 2000, 500, 0)}, 1500),
        ({}, None),
    ],
    ids=[
        "v2",
        "v2-unlimited",
        "v2-ancestor",
        "v2-overdrawn",
        "v2-machine-has-less",
        "machine",
        "v1",
        "v1-unlimited",
        "v1-ancestor",
        "nothing",
    ],
)
def test_memory(tree: Tree, files: dict[str, str], available: int | None) -> None:
    root = tree(files)
    assert cgroups.memory_available_bytes(root) == available


MIB = 2**20


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {**V2, **memory_v2(f"{V2_TOP}/a/b", f"{512 * MIB}", 12 * MIB, 0)},
            "512 MiB of memory (cgroup limit), 500 MiB available",
        ),
        (
            {
                **V1,
                **memory_v1(f"{MEMORY1}/a/b", 512 * MIB, 12 * MIB, 0),
                **memory_v1(f"{MEMORY1}/a", 256 * MIB, 56 * MIB, 0),
            },
            "256 MiB of memory (cgroup limit), 200 MiB available",
        ),
        (
            {**V2, **MEMINFO, **memory_v2(f"{V2_TOP}/a/b", "max", 7, 0)},
            "no memory limit, 0 MiB available",
        ),
        ({}, "no memory limit"),
    ],
    ids=["v2", "v1-ancestor", "machine", "nothing"],
)
def test_memory_is_told(tree: Tree, files: dict[str, str], told: str) -> None:
    assert cgroups.describe_memory(tree(files)) == told


VMSTAT = {"proc/vmstat": "nr_free_pages 7\noom_kill 40\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({**V2, **VMSTAT, f"{V2_TOP}/a/b/memory.events": "oom 9\noom_kill 3\n"}, 3),
        ({**V2, **VMSTAT, f"{V2_TOP}/a/memory.events": "oom_kill 3\n"}, 40),
        ({**V1, **VMSTAT, f"{MEMORY1}/a/b/memory.oom_control": "under_oom 0\noom_kill 3\n"}, 3),
        (
            {
                **V1,
                f"{MEMORY1}/a/b/memory.oom_control": "oom_kill 3\n",
                f"{MEMORY1}/a/b/c/memory.oom_control": "oom_kill 4\n",
                f"{MEMORY1}/a/memory.oom_control": "oom_kill 50\n",
            },
            7,
        ),
        (
            {
                **V1,
                **VMSTAT,
                "proc/self/cgroup": "5:memory:/\n",
                f"{MEMORY1}/memory.oom_control": "oom_kill 3\n",
            },
            40,
        ),
        (VMSTAT, 40),
        ({}, 0),
    ],
    ids=["v2", "v2-top", "v1", "v1-below", "v1-top", "machine", "nothing"],
)
def test_oom_kills(tree: Tree, files: dict[str, str], expected: int) -> None:
    assert cgroups.oom_kills(tree(files)) == expected


@pytest.mark.parametrize(
    ("quota", "workers", "expected"),
    [(100_000, 1, "1"), (50_000, 1, "1"), (100_000, 8, "1"), (100_000, 2, "1")],
)
def test_threads_of_a_quota(tree: Tree, quota: int, workers: int, expected: str) -> None:
    environ: dict[str, str] = {}
    line = cgroups.limit_threads(environ, workers, tree({**V1, **quota_v1(f"{CPU1}/a", quota)}))
    assert environ == dict.fromkeys(
        ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"], expected
    )
    assert "(cgroup quota)" in line
    assert "OMP_NUM_THREADS=1, MKL_NUM_THREADS=1, OPENBLAS_NUM_THREADS=1" in line


@pytest.mark.parametrize(
    ("cpus", "quota", "workers", "expected"),
    [(8, -1, 2, "4"), (8, 600_000, 2, "3"), (8, 650_000, 2, "3"), (8, -1, 3, "2"), (8, -1, 1, "8")],
)
def test_threads_are_a_workers_share(
    tree: Tree,
    monkeypatch: pytest.MonkeyPatch,
    cpus: int,
    quota: int,
    workers: int,
    expected: str,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    environ: dict[str, str] = {}
    root = tree({**V1, **quota_v1(f"{CPU1}/a/b", quota)})
    cgroups.limit_threads(environ, workers, root)
    assert set(environ.values()) == {expected}


def test_what_the_user_has_set_stays(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    environ = {"OPENBLAS_NUM_THREADS": "4", "MKL_NUM_THREADS": ""}
    line = cgroups.limit_threads(environ, 2, tree({}))
    assert environ == {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "4",
    }
    assert line == (
        "2 of 8 CPUs (CPU affinity) for 2 workers: "
        "OMP_NUM_THREADS=1, MKL_NUM_THREADS=1 (OPENBLAS_NUM_THREADS=4 as set)"
    )


def test_the_users_omp_threads_go_for_all(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    environ = {"OMP_NUM_THREADS": "3"}
    line = cgroups.limit_threads(environ, 1, tree({}))
    assert environ == {"OMP_NUM_THREADS": "3"}
    assert line == "8 of 8 CPUs (all of them) for 1 worker: OMP_NUM_THREADS=3 as set"


def test_this_machine_can_be_read() -> None:
    available = cgroups.memory_available_bytes()
    assert available is not None
    assert available > 1_000_000
    assert cgroups.available_cpus() > 0
    assert cgroups.oom_kills() >= 0
