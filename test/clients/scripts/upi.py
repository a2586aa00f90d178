"""What a client with the published UPI package sees: written as JSON. `upi.py HOST:PORT`"""

from __future__ import annotations

import json
import sys
from typing import Any

import grpc
from caraml.upi.v1 import type_pb2, upi_pb2, upi_pb2_grpc


def request(*rows: tuple[float, float]) -> Any:
    made = upi_pb2.PredictValuesRequest(target_name="total")
    made.metadata.prediction_id = "mine"
    table = made.prediction_table
    table.name = "rows"
    for name in ("do", "x"):
        table.columns.add(name=name, type=type_pb2.TYPE_DOUBLE)
    for number, row in enumerate(rows):
        kept = table.rows.add(row_id=f"row {number}")
        for cell in row:
            kept.values.add(double_value=cell)
    return made


def failure(stub: Any, *rows: tuple[float, float]) -> list[str]:
    try:
        stub.PredictValues(request(*rows), timeout=30)
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return []


def main(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = upi_pb2_grpc.UniversalPredictionServiceStub(channel)
        answer = stub.PredictValues(request((0, 1.5), (0, 2)), timeout=30)
        table = answer.prediction_result_table
        found = {
            "target": answer.target_name,
            "id": answer.metadata.prediction_id,
            "columns": [(column.name, column.type) for column in table.columns],
            "rows": [(row.row_id, row.values[0].double_value) for row in table.rows],
            "raises": failure(stub, (1, 1)),
            "refuses": failure(stub, (2, 1)),
        }
    json.dump(found, sys.stdout)


main(*sys.argv[1:])
