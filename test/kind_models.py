"""Models of scikit-learn, saved without MLflow, and how each dialect asks one for the same rows."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from harness import Answer, Daemon
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from pyfuncserver.codec import inference
from pyfuncserver.codec.tensors import DTYPES, Tensor, from_raw

NAMES = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
ROWS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]
IRIS = load_iris()
FRAME = pd.DataFrame(IRIS.data, columns=NAMES)
LABELS = np.array(["setosa", "versicolor", "virginica"])


def iris(named: bool, classes: Any = IRIS.target) -> Any:
    data = FRAME if named else IRIS.data
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(data, classes)


def mixed() -> Any:
    """Give a model of a number and a text that is a category."""
    frame = pd.DataFrame({"size": [1.0, 2.0, 3.0, 4.0], "colour": ["red", "blue", "red", "blue"]})
    columns = ColumnTransformer(
        [("colour", OneHotEncoder(), ["colour"]), ("size", StandardScaler(), ["size"])]
    )
    return make_pipeline(columns, LogisticRegression()).fit(frame, [0, 1, 0, 1])


def words() -> Any:
    texts = ["good film", "bad film", "good", "bad"]
    return make_pipeline(CountVectorizer(), LogisticRegression()).fit(texts, [1, 0, 1, 0])


def save_joblib(model: Any, path: Path) -> Path:
    joblib.dump(model, path)
    return path


def save_pickle(model: Any, path: Path) -> Path:
    path.write_bytes(pickle.dumps(model))
    return path


# What clients send


def post(daemon: Daemon, path: str, body: Any) -> Answer:
    kind = {"Content-Type": "application/json"}
    return daemon.http("POST", path, json.dumps(body).encode(), kind)


def v2_tensor(name: str, datatype: str, values: Any) -> dict[str, Any]:
    array = np.array(values)
    data = array.reshape(-1).tolist()
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": data}


def v2(daemon: Daemon, *tensors: dict[str, Any], **fields: Any) -> Answer:
    return post(daemon, "/v2/models/model/infer", {"inputs": list(tensors), **fields})


def v2_outputs(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer.text
    return {
        it["name"]: np.array(it["data"]).reshape(it["shape"]).tolist()
        for it in answer.json()["outputs"]
    }


def v2_grpc(daemon: Daemon, *arrays: tuple[str, Any], outputs: Sequence[str] = ()) -> Any:
    """Ask over gRPC, with raw contents; give the outputs by name, as lists."""
    sent = [
        Tensor(name, next(key for key, kept in DTYPES.items() if kept == array.dtype), array)
        for name, array in arrays
    ]
    request = inference.messages().ModelInferRequest(model_name="model")
    written = inference.response_of({}, sent, True)  # its outputs are as inputs are
    for output in written.outputs:
        request.inputs.add().MergeFromString(output.SerializeToString())
    request.raw_input_contents.extend(written.raw_output_contents)
    for name in outputs:
        request.outputs.add(name=name)
    with daemon.channel() as channel:
        call = channel.unary_unary(f"/{inference.SERVICE}/ModelInfer")
        answer = inference.parse(
            "ModelInferResponse", call(request.SerializeToString(), timeout=30)
        )
    return {
        it.name: from_raw(it.datatype, list(it.shape), raw).tolist()
        for it, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


def answers(daemon: Daemon, names: Sequence[str] = (), rows: Any = ROWS) -> dict[str, Any]:
    """Ask for the same rows in every way that clients have; give what each was answered.

    ``names`` are those of the features, where the model knows them.
    """
    columns = list(map(list, zip(*rows, strict=True)))
    known = list(names) or [f"x{place}" for place in range(len(columns))]
    records = [dict(zip(known, row, strict=True)) for row in rows]
    by_name = dict(zip(known, columns, strict=True))
    frame = {"columns": known, "data": rows}
    predict, invoke = daemon.predict_path, "/invocations"
    found = {
        "v1 rows": post(daemon, predict, {"instances": rows}),
        "v1 records": post(daemon, predict, {"instances": records}),
        "v1 columns": post(daemon, predict, {"inputs": by_name}),
        "split": post(daemon, invoke, {"dataframe_split": frame}),
        "split without names": post(daemon, invoke, {"dataframe_split": {"data": rows}}),
        "records": post(daemon, invoke, {"dataframe_records": records}),
        "instances": post(daemon, invoke, {"instances": rows}),
        "inputs": post(daemon, invoke, {"inputs": rows}),
    }
    for name, answer in found.items():
        assert answer.status == 200, (name, answer.text)
    told = {name: answer.json()["predictions"] for name, answer in found.items()}
    one = {f"v2 {it}": v2(daemon, v2_tensor("any", it, rows)) for it in ("FP32", "FP64")}
    each = [v2_tensor(name, "FP64", column) for name, column in by_name.items()]
    over_rest = {**one, "v2 each": v2(daemon, *each)}
    over_grpc = {
        "grpc one": [("any", np.array(rows, np.float32))],
        "grpc each": [(name, np.array(column)) for name, column in by_name.items()],
    }
    told |= {name: next(iter(v2_outputs(it).values())) for name, it in over_rest.items()}
    for name, arrays in over_grpc.items():
        told[name] = next(iter(v2_grpc(daemon, *arrays).values()))
    return told


def metadata(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.http("GET", "/v2/models/model").json()
    return found
