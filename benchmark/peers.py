"""Peers: one process of each model server that PyPI has, with an echo of the same rows."""

from __future__ import annotations

import subprocess

from benchmark import comparison, environments, report
from benchmark.comparison import Effort
from benchmark.targets import (
    ASGI_ECHO,
    BENTOML,
    KSERVE,
    LITSERVE,
    MERLIN,
    MERLIN_SHAPED,
    MLFLOW,
    MLSERVER,
    PLAIN,
    RAY,
    SELDON,
    Target,
)

CONNECTIONS = 8
PEERS = (KSERVE, MLSERVER, MLFLOW, SELDON, BENTOML, RAY, LITSERVE)
TARGETS = (MERLIN, PLAIN, MERLIN_SHAPED, *PEERS, ASGI_ECHO)


def run(effort: Effort, sizes: list[str]) -> None:
    """Measure all that can be installed here, each as its own documentation starts it."""
    targets = [target for target in TARGETS if _is_installed(target)]
    results = {
        f"{size}, {CONNECTIONS} connections": comparison.compare(targets, size, CONNECTIONS, effort)
        for size in sizes
    }
    report.write_comparisons("peers", "Peers side by side", results)


def _is_installed(target: Target) -> bool:
    try:
        environments.binaries(target.environment)
    except subprocess.CalledProcessError as error:
        print(f"left out: {target.name} cannot be installed: {error}", flush=True)
        return False
    return True
