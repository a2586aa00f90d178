"""The Open Inference Protocol over gRPC: an echo of one tensor, raw and typed, beside its peers."""

from __future__ import annotations

from benchmark import comparison, report
from benchmark.comparison import Effort
from benchmark.targets import (
    KSERVE_V2_GRPC,
    KSERVE_V2_GRPC_RAW,
    MLSERVER_V2_GRPC,
    MLSERVER_V2_GRPC_RAW,
    PLAIN_V2_GRPC,
    PLAIN_V2_GRPC_RAW,
)

CONNECTIONS = 8
TARGETS = (
    *(MLSERVER_V2_GRPC, MLSERVER_V2_GRPC_RAW),
    *(KSERVE_V2_GRPC, KSERVE_V2_GRPC_RAW),
    *(PLAIN_V2_GRPC, PLAIN_V2_GRPC_RAW),
)


def run(effort: Effort, sizes: list[str]) -> None:
    """Measure one process of each server, pinned to one processor."""
    results = {
        f"{size}, {CONNECTIONS} connections": comparison.compare(TARGETS, size, CONNECTIONS, effort)
        for size in sizes
    }
    report.write_comparisons("v2", "The Open Inference Protocol over gRPC", results)
