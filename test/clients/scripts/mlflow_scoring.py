"""What MLflow's own client of its scoring protocol sees: written as JSON.

`mlflow_scoring.py HOST PORT`
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pandas as pd
from mlflow.pyfunc.scoring_server.client import ScoringServerClient


def frame(*rows: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["do", "x"], dtype="float64")


def failure(client: Any, data: pd.DataFrame) -> str:
    try:
        client.invoke(data)
    except Exception as error:  # noqa: BLE001  # it raises what it has
        return str(error)
    return ""


def main(host: str, port: str) -> None:
    client = ScoringServerClient(host, int(port))
    client.ping()
    client.wait_server_ready(timeout=30)
    answer = client.invoke(frame((0, 1.5), (0, 2))).get_predictions()
    found = {
        "version": client.get_version(),
        "answer": answer.to_dict(orient="list"),
        "raises": failure(client, frame((1, 1))),
        "refuses": failure(client, frame((2, 1))),
    }
    json.dump(found, sys.stdout)


main(*sys.argv[1:])
