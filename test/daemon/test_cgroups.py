"""What a control group grants reaches the model's libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
from groups import CpuGroup
from harness import Daemon

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@pytest.fixture
def surrounded_model(save_model) -> Path:
    return save_model("surrounded", lambda models, path: models.save(models.Surrounded(), path))


def test_a_quota_is_shared_by_the_workers_numeric_libraries(
    surrounded_model: Path, cpu_group: CpuGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    cpu_group.limit(1.5)
    env = {"WORKERS": "1", "MKL_NUM_THREADS": "7"}
    with Daemon(surrounded_model, env=env, command_prefix=cpu_group.prefix) as daemon:
        (found,) = daemon.predict({"instances": [[1]]}).json()["predictions"]
        assert [found[name] for name in VARIABLES] == ["1", "7", "1"]
        told = [line for line in daemon.log_lines() if "cgroup quota" in line]
        assert len(told) == 1
        assert "1.5 of " in told[0]
        assert "OMP_NUM_THREADS=1, OPENBLAS_NUM_THREADS=1 (MKL_NUM_THREADS=7 as set)" in told[0]
