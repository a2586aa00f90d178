"""gRPC: UPI's PredictValues by our server, by Merlin's, and by a bare thread pool of grpcio."""

from __future__ import annotations

from benchmark import comparison, report
from benchmark.comparison import Effort
from benchmark.targets import GRPC_ECHO, MERLIN_SHAPED_UPI, MERLIN_UPI

TARGETS = (MERLIN_UPI, MERLIN_SHAPED_UPI, GRPC_ECHO)
LOADS = (("small", 8), ("medium", 64))


def run(effort: Effort) -> None:
    """Measure one process of each server, pinned to one processor."""
    results = {
        f"{size}, {connections} connections": comparison.compare(TARGETS, size, connections, effort)
        for size, connections in LOADS
    }
    report.write_comparisons("grpc", "UPI side by side", results)
