"""Every kind of model answers V1, and UPI where it can, as CONTRACTS sections 2 to 4 say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from harness import Daemon

from pyfuncserver.codec import upi

BOTH = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1"}
DOUBLE, INTEGER, STRING = 1, 2, 3


def table(columns: dict[str, int], rows: list[list[Any]]) -> Any:
    request = upi.messages().PredictValuesRequest(target_name="t")
    request.metadata.prediction_id = "p-1"
    request.prediction_table.name = "features"
    fields = {DOUBLE: "double_value", INTEGER: "integer_value", STRING: "string_value"}
    for name, kind in columns.items():
        request.prediction_table.columns.add(name=name, type=kind)
    for number, row in enumerate(rows):
        made = request.prediction_table.rows.add(row_id=f"row-{number}")
        for kind, value in zip(columns.values(), row, strict=True):
            made.values.add(**{fields[kind]: value})
    return request


@contextmanager
def serving(model: Path) -> Iterator[Daemon]:
    with Daemon(model, env=BOTH) as daemon:
        yield daemon


def test_iris(iris_model: Path) -> None:
    names = [f"{part} {size} (cm)" for part in ("sepal", "petal") for size in ("length", "width")]
    rows = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]
    with serving(iris_model) as daemon:
        records = [dict(zip(names, row, strict=True)) for row in rows]
        columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
        for body in ({"instances": records}, {"inputs": columns}):
            assert daemon.predict(body).json() == {"predictions": [0, 2]}

        answer = daemon.upi(table(dict.fromkeys(names, DOUBLE), rows))
        result = answer.prediction_result_table
        assert [(c.name, c.type) for c in result.columns] == [("output_0", INTEGER)]
        assert [(r.row_id, r.values[0].integer_value) for r in result.rows] == [
            ("row-0", 0),
            ("row-1", 2),
        ]
        assert (answer.target_name, answer.metadata.prediction_id) == ("t", "p-1")

        missing = [dict.fromkeys(names[1:], 1.0)]
        refusal = daemon.predict({"instances": missing})
        assert refusal.status == 400
        assert names[0] in refusal.json()["reason"]
        with pytest.raises(grpc.RpcError) as upi_refusal:
            daemon.upi(table(dict.fromkeys(names[1:], DOUBLE), [[1.0, 2.0, 3.0]]))
        assert upi_refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert names[0] in upi_refusal.value.details()


@pytest.fixture(scope="module")
def signed(over_transport: None, signed_model: Path) -> Iterator[Daemon]:
    with serving(signed_model) as daemon:
        yield daemon


def test_a_python_model_with_a_signature(signed: Daemon) -> None:
    body = {"instances": [{"a": 1.5, "b": 2, "s": "x"}, {"a": 2.5, "b": 3, "s": "y"}]}
    expected = [{"total": 3.5, "s": "X"}, {"total": 5.5, "s": "Y"}]
    assert signed.predict(body).json() == {"predictions": expected}
    columns = {"inputs": {"a": [1.5, 2.5], "b": [2, 3], "s": ["x", "y"]}}
    assert signed.predict(columns).json() == {"predictions": expected}

    answer = signed.upi(
        table({"a": DOUBLE, "b": INTEGER, "s": STRING}, [[1.5, 2, "x"], [2.5, 3, "y"]])
    )
    result = answer.prediction_result_table
    assert [(c.name, c.type) for c in result.columns] == [("total", DOUBLE), ("s", STRING)]
    assert [[r.values[0].double_value, r.values[1].string_value] for r in result.rows] == [
        [3.5, "X"],
        [5.5, "Y"],
    ]


REFUSED = {
    "a column is missing": ({"instances": [{"a": 1.5, "b": 2}]}, "missing inputs ['s']"),
    "a column has a wrong type": (
        {"instances": [{"a": 1, "b": 2, "s": "x"}, {"a": "mine", "b": 2, "s": "x"}]},
        "Column 'a' holds what cannot be read as double",
    ),
    "a column, by columns, has a wrong type": (
        {"inputs": {"a": [1.0], "b": ["mine"], "s": ["x"]}},
        "Column 'b' holds what cannot be read as long",
    ),
    "a column has a null": ({"instances": [{"a": 1, "b": None, "s": "x"}]}, "Column 'b'"),
    "columns of two lengths": ({"inputs": {"a": [1.0, 2.0], "b": [1], "s": ["x"]}}, ""),
    "neither": ({"rows": []}, "instances"),
    "both": ({"instances": [], "inputs": {}}, "instances"),
    "a list": ([1, 2], "instances"),
    "a string": ("text", "instances"),
    "params that are none": ({"instances": [], "params": 3}, "params"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_signature_refuses(signed: Daemon, case: str) -> None:
    body, named = REFUSED[case]
    answer = signed.predict(body if not isinstance(body, str) else f'"{body}"')
    assert answer.status == 400, answer.text
    assert named in answer.json()["reason"]
    assert "mine" not in answer.json()["reason"], "the client's data is not echoed"


def test_a_models_own_mlflow_exception_is_the_models_fault(save_model: Callable[..., Path]) -> None:
    model = save_model("accuser", lambda models, path: models.save(models.Accuser(), path))
    with serving(model) as daemon:
        answer = daemon.predict({"instances": [[1]]})
        assert answer.status == 500
        assert "error id" in answer.json()["reason"]


def test_a_legacy_model(legacy_model: Path) -> None:
    with serving(legacy_model) as daemon:
        answer = daemon.predict({"any": [1]}, {"Foo": "bar"}).json()
        assert answer["echo"] == {"any": [1]}
        assert answer["headers"]["Foo"] == "bar"
        with pytest.raises(grpc.RpcError) as refusal:
            daemon.upi(table({"a": DOUBLE}, [[1.0]]))
        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "legacy" in refusal.value.details()


@pytest.mark.parametrize("model", ["merlin_v2_model", "merlin_v3_model"])
def test_merlin_models(model: str, request: pytest.FixtureRequest) -> None:
    with serving(request.getfixturevalue(model)) as daemon:
        answer = daemon.predict({"instances": [[1, 2], [3, 4.5]]}, {"foo": "bar"}).json()
        assert answer["predictions"] == [3, 7.5]
        if model == "merlin_v2_model":
            assert answer["foo"] == "bar"
        result = daemon.upi(table({"a": DOUBLE, "b": DOUBLE}, [[1.0, 2.0], [3.0, 4.5]]))
        rows = result.prediction_result_table.rows
        assert [(row.row_id, row.values[0].double_value) for row in rows] == [
            ("row-0", 3.0),
            ("row-1", 7.5),
        ]


def test_a_plain_echo(echo_model: Path) -> None:
    with serving(echo_model) as daemon:
        assert daemon.predict({"instances": [[1, 2], [3, 4]]}).json() == {
            "predictions": [[1, 2], [3, 4]]
        }
        answer = daemon.upi(table({"a": DOUBLE, "s": STRING}, [[1.5, "x"]]))
        assert answer.prediction_result_table.columns[1].name == "s"
        assert answer.prediction_result_table.rows[0].values[1].string_value == "x"
