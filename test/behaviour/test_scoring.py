"""CONTRACTS, section 6: what a client of ``mlflow models serve`` relies on."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from harness import Answer, Daemon
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

JSON = {"Content-Type": "application/json"}
CSV = {"Content-Type": "text/csv"}
PARQUET = {"Content-Type": "application/vnd.apache.parquet"}


@pytest.fixture(scope="module")
def daemon(over_transport: None, save_model: Callable[..., Path]) -> Iterator[Daemon]:
    def save(_: Any, path: Path) -> Path:
        import scoring_models

        return scoring_models.save_scored(path)

    with Daemon(save_model("scored", save)) as running:
        yield running


def invoke(daemon: Daemon, body: object, headers: dict[str, str] = JSON) -> Answer:
    raw = body if isinstance(body, bytes | str) else json.dumps(body)
    return daemon.http("POST", "/invocations", raw, headers)


@pytest.mark.parametrize("path", ["/ping", "/health"])
def test_it_is_ready(daemon: Daemon, path: str) -> None:
    answer = daemon.http("GET", path)
    assert (answer.status, answer.body) == (200, b"\n")
    assert answer.headers["Content-Type"] == "application/json"
    assert daemon.http("HEAD", path).status == 200


def test_the_version_is_mlflows(daemon: Daemon) -> None:
    answer = daemon.http("GET", "/version")
    assert (answer.status, answer.text) == (200, mlflow.__version__)
    assert answer.headers["Content-Type"] == "application/json"


ROWS = [[1.5, "x", 7], [2.0, "y", 8]]
NAMES = ["n", "s", "o"]
RECORDS = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
COLUMNS = {name: [row[place] for row in ROWS] for place, name in enumerate(NAMES)}
FRAME = pd.DataFrame(RECORDS)


def parquet(frame: pd.DataFrame) -> bytes:
    target = io.BytesIO()
    frame.to_parquet(target)
    return target.getvalue()


FORMS: dict[str, tuple[Any, dict[str, str]]] = {
    "split": ({"dataframe_split": {"columns": NAMES, "data": ROWS}}, JSON),
    "split, with an index": (
        {"dataframe_split": {"columns": NAMES, "data": ROWS, "index": [0, 1]}},
        JSON,
    ),
    "records": ({"dataframe_records": RECORDS}, JSON),
    "instances": ({"instances": RECORDS}, JSON),
    "inputs": ({"inputs": COLUMNS}, JSON),
    "csv": (FRAME.to_csv(index=False), CSV),
    "parquet": (parquet(FRAME), PARQUET),
    "with a charset": (
        {"inputs": COLUMNS},
        {"Content-Type": "application/json; charset=UTF-8"},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_request(daemon: Daemon, form: str) -> None:
    answer = invoke(daemon, *FORMS[form])
    assert answer.status == 200, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    expected = {"columns": COLUMNS, "index": [0, 1], "params": {"level": 3}}
    assert answer.json() == {"predictions": expected}


def test_an_index_and_params_reach_the_model(daemon: Daemon) -> None:
    split = {"columns": NAMES, "data": ROWS, "index": ["r", "s"]}
    answer = invoke(daemon, {"dataframe_split": split, "params": {"level": 5}}).json()
    assert answer["predictions"]["index"] == ["r", "s"]
    assert answer["predictions"]["params"] == {"level": 5}


def test_what_a_client_writes_for_missing_numbers(daemon: Daemon) -> None:
    body = b'{"dataframe_split": {"columns": ["s", "n"], "data": [["x", NaN], ["y", null]]}}'
    answer = invoke(daemon, body)
    assert answer.json()["predictions"]["columns"] == {"n": [None, None], "s": ["x", "y"]}


def test_what_a_model_answers_is_valid_json(daemon: Daemon) -> None:
    answer = invoke(daemon, {"inputs": {"n": [1.0], "s": ["types"]}})
    common = {"bytes": "AP8=\n", "at": "2024-02-29T12:30:00+00:00"}
    assert answer.json()["predictions"] == [
        {"float": None, **common, "list": [1, None]},
        {"float": None, **common, "list": [0.5]},
        {"float": 0.10000000149011612, **common, "list": None},
    ]


def test_a_models_own_fault(daemon: Daemon) -> None:
    import scoring_models

    for command, what in (("raise", "The model failed"), ("set", "The model's answer is not")):
        answer = invoke(daemon, {"inputs": {"n": [1.0], "s": [command]}})
        assert answer.status == 500
        assert answer.json().keys() == {"error_code", "message"}
        assert answer.json()["error_code"] == "INTERNAL_ERROR"
        assert answer.json()["message"].startswith(what)
        assert "error id" in answer.json()["message"]
        assert scoring_models.SECRET not in answer.text
    assert scoring_models.SECRET in daemon.log()


def test_a_models_own_status(daemon: Daemon) -> None:
    answer = invoke(daemon, {"inputs": {"n": [1.0], "s": ["refuse"]}})
    assert (answer.status, answer.reason) == (422, "no such user")
    assert answer.json() == {"error_code": "BAD_REQUEST", "message": "no such user"}


REFUSED: dict[str, tuple[Any, dict[str, str], str]] = {
    "no JSON": (b'{"mine": ', JSON, "valid JSON"),
    "nothing": (b"", JSON, "valid JSON"),
    "not UTF-8": (b'{"inputs": "\xff"}', JSON, "valid JSON"),
    "nested deeply": (b"[" * 100_000, JSON, "valid JSON"),
    "a list": ([["mine"]], JSON, "exactly one of the input fields"),
    "a string": ('"mine"', JSON, "exactly one of the input fields"),
    "no field": ({"mine": 1}, JSON, "exactly one of the input fields"),
    "two fields": ({"inputs": 1, "instances": ["mine"]}, JSON, "exactly one of the input fields"),
    "records that are none": ({"dataframe_records": {"mine": 1}}, JSON, "a list of records"),
    "split without data": ({"dataframe_split": {"columns": ["mine"]}}, JSON, "'data' field"),
    "split that does not fit": (
        {"dataframe_split": {"columns": ["n"], "data": [["mine", 2]]}},
        JSON,
        "not a valid dataframe representation",
    ),
    "a value of a wrong type": ({"dataframe_records": [{"n": "mine", "s": "x"}]}, JSON, "'n'"),
    "instances of a wrong type": ({"instances": [{"n": "mine", "s": "x"}]}, JSON, "'n'"),
    "a missing column": ({"dataframe_records": [{"n": 1.5}]}, JSON, "'s'"),
    "a bad param": (
        {"inputs": COLUMNS, "params": {"level": "mine"}},
        JSON,
        "Invalid parameters",
    ),
    "no CSV": (b"n,s\n1,x\n1,2,3,mine\n", CSV, "valid CSV-formatted"),
    "CSV of a wrong type": (b"n,s\nmine,x\n", CSV, "'n'"),
    "CSV that is not UTF-8": (b"n,s\n1,\xff\n", CSV, "valid UTF-8"),
    "an empty CSV": (b"", CSV, "valid CSV-formatted"),
    "no Parquet": (b"mine", PARQUET, "valid Parquet"),
    "Parquet without a column": (parquet(FRAME[["n"]]), PARQUET, "'s'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_request(daemon: Daemon, case: str) -> None:
    body, headers, words = REFUSED[case]
    answer = invoke(daemon, body, headers)
    assert answer.status == 400, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json().keys() == {"error_code", "message"}
    assert answer.json()["error_code"] == "BAD_REQUEST"
    assert words in answer.json()["message"]
    assert "mine" not in answer.text, "the client's data is not echoed"
    assert "Traceback" not in answer.text


MEDIA_TYPES = {
    "application/json; charset=latin-1": "The scoring server only supports UTF-8",
    "application/json; format=pandas-split": "Unrecognized content type parameters: format.",
    "text/plain": "This predictor only supports the following content types: "
    "Types: ['text/csv', 'application/json', 'application/vnd.apache.parquet']. "
    "Got 'text/plain'.",
}


@pytest.mark.parametrize("media_type", MEDIA_TYPES)
def test_a_media_type_that_is_not_read(daemon: Daemon, media_type: str) -> None:
    answer = invoke(daemon, {"inputs": COLUMNS}, {"Content-Type": media_type})
    assert (answer.status, answer.text) == (415, MEDIA_TYPES[media_type])
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert invoke(daemon, {"inputs": COLUMNS}, {}).status == 415


@pytest.mark.parametrize(("method", "path", "allowed"), [
    ("GET", "/invocations", "POST"),
    ("POST", "/ping", "GET, HEAD"),
    ("DELETE", "/version", "GET, HEAD"),
])  # fmt: skip
def test_a_wrong_method(daemon: Daemon, method: str, path: str, allowed: str) -> None:
    answer = daemon.http(method, path)
    assert (answer.status, answer.headers["Allow"]) == (405, allowed)
    assert answer.json()["error_code"] == "BAD_REQUEST"


def test_requests_are_counted_by_their_dialect(daemon: Daemon) -> None:
    name = "pyfuncserver_requests_total"
    before = daemon.metric(name, dialect="scoring", code="200")
    assert invoke(daemon, {"inputs": COLUMNS}).status == 200
    assert daemon.metric(name, dialect="scoring", code="200") == before + 1
    assert invoke(daemon, b"", {"Content-Type": "text/plain"}).status == 415
    assert daemon.metric(name, dialect="scoring", code="415") >= 1


# MLflow's own client


@pytest.fixture
def client(daemon: Daemon) -> ScoringServerClient:
    return ScoringServerClient("127.0.0.1", daemon.http_port)


def test_mlflows_client(client: ScoringServerClient) -> None:
    client.wait_server_ready(timeout=30)
    client.ping()
    assert client.get_version() == mlflow.__version__


def test_mlflows_client_sends_frames(client: ScoringServerClient) -> None:
    frame = pd.DataFrame({"n": [1.5, np.nan], "s": ["x", "y"]})
    answer = client.invoke(frame, params={"level": 9})["predictions"]
    assert answer["columns"] == {"n": [1.5, None], "s": ["x", "y"]}
    assert answer["params"] == {"level": 9}
    types = pd.DataFrame({"n": [1.0], "s": ["types"]})
    assert client.invoke(types).get_predictions()["bytes"].tolist() == ["AP8=\n"] * 3


def test_mlflows_client_is_told_what_is_wrong(client: ScoringServerClient) -> None:
    with pytest.raises(Exception, match=r"error code 400.*missing inputs \['s'\]"):
        client.invoke(pd.DataFrame({"n": [1.5]}))
