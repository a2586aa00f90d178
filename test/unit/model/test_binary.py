"""``{"b64": ...}`` in V1 becomes bytes where a signature, or the lack of one, says so.

Where MLflow has a way of its own for the same bytes (base64 in ``dataframe_records``, text in
``instances``), the model is handed what it hands it.
"""

from __future__ import annotations

import base64
import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Array, Map, Object, Property
from scoring_oracle import is_same

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.call import Call, Form, ScoringInput
from pyfuncserver.model.plain import PlainModel

RAW = [b"\0\xff\0", b"", b"text", "\N{SNOWMAN}".encode(), b"\x89PNG\0\0"]


def b64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


Make = Callable[[list[Any] | None], PlainModel]


@pytest.fixture(scope="module")
def made(echo_model: Path) -> Make:
    """Give `made(specs)`: the echo with a signature of these, or without one."""
    import mlflow.pyfunc

    def make(specs: list[Any] | None) -> PlainModel:
        model = mlflow.pyfunc.load_model(str(echo_model))
        if specs is not None:
            model.metadata.signature = ModelSignature(inputs=Schema(specs))
        return PlainModel(model)

    return make


def handed(model: PlainModel, key: str, data: Any) -> Any:
    """Give what the model is handed over V1."""
    body = {key: data}
    before = copy.deepcopy(body)
    found = model.prepare(Call(Form.JSON, body)).data
    assert body == before, "the body was changed"
    return found


def by_mlflow(model: PlainModel, records: list[dict[str, Any]]) -> Any:
    """Give what the model is handed of records over MLflow's own protocol."""
    payload = ScoringInput("application/json", {"dataframe_records": records})
    return model.prepare(Call(Form.SCORING, payload)).data


BINARY = ColSpec(DataType.binary, "c")
NUMBER = ColSpec(DataType.double, "d")


@pytest.mark.parametrize("required", [True, False], ids=["required", "optional"])
def test_a_column_of_binary_values(made: Make, required: bool) -> None:
    model = made([ColSpec(DataType.binary, "c", required=required), NUMBER])
    expected = by_mlflow(
        model, [{"c": b64(value)["b64"], "d": 1.5 * n} for n, value in enumerate(RAW)]
    )
    assert expected["c"].tolist() == RAW
    rows = [{"c": b64(value), "d": 1.5 * n} for n, value in enumerate(RAW)]
    columns = {"d": [row["d"] for row in rows], "c": [row["c"] for row in rows]}
    assert is_same(handed(model, "instances", rows), expected)
    assert is_same(handed(model, "inputs", columns), expected)
    assert is_same(handed(model, "inputs", rows), expected)


def test_text_in_a_column_of_binary_values_is_what_mlflow_makes_of_it(made: Make) -> None:
    model = made([BINARY, NUMBER])
    plain = [{"c": "xy", "d": 1.5}, {"c": "z", "d": 2.5}]
    mixed = [{"c": "xy", "d": 1.5}, {"c": b64(b"z"), "d": 2.5}]
    expected = handed(model, "instances", plain)
    assert expected["c"].tolist() == [b"xy", b"z"]
    assert is_same(handed(model, "instances", mixed), expected)
    columns = {"c": [row["c"] for row in mixed], "d": [1.5, 2.5]}
    assert is_same(handed(model, "inputs", columns), expected)


def test_a_null_beside_binary_values(made: Make) -> None:
    rows = [{"c": None, "d": 1.5}, {"c": b64(b"z"), "d": 2.5}]
    optional = made([ColSpec(DataType.binary, "c", required=False), NUMBER])
    for key in ("instances", "inputs"):
        assert handed(optional, key, rows)["c"].tolist() == [None, b"z"]
        with pytest.raises(InvalidInput, match="'c'"):
            handed(made([BINARY, NUMBER]), key, rows)


def test_only_one_column(made: Make) -> None:
    model = made([BINARY])
    expected = by_mlflow(model, [{"c": b64(value)["b64"]} for value in RAW])
    values = list(map(b64, RAW))
    for key, data in (
        ("instances", values),  # TensorFlow Serving: an instance is the value of the only input
        ("inputs", values),
        ("instances", [{"c": value} for value in values]),
        ("inputs", {"c": values}),
    ):
        assert is_same(handed(model, key, data), expected), (key, data)
    assert handed(model, "inputs", b64(b"x"))["c"].tolist() == [b"x"]
    unnamed = made([ColSpec(DataType.binary)])
    assert handed(unnamed, "instances", values)[0].tolist() == RAW


def test_a_column_of_that_name_is_a_column(made: Make) -> None:
    named = made([ColSpec(DataType.binary, "b64")])
    assert handed(named, "instances", [{"b64": "xy"}])["b64"].tolist() == [b"xy"]
    assert handed(named, "instances", [{"b64": b64(b"xy")}])["b64"].tolist() == [b"xy"]
    text = made([ColSpec(DataType.string, "b64")])
    assert handed(text, "instances", [{"b64": "AP8="}])["b64"].tolist() == ["AP8="]


def test_what_holds_binary_values(made: Make) -> None:
    nested = Object([Property("p", DataType.binary), Property("q", DataType.string)])
    specs = [
        ColSpec(Array(DataType.binary), "a"),
        ColSpec(nested, "o"),
        ColSpec(Map(DataType.binary), "m"),
        ColSpec(Array(nested), "n"),
    ]
    model = made(specs)
    inner = {"p": b64(b"\xff"), "q": "x"}
    row = {"a": [b64(b"x"), b64(b"yz")], "o": inner, "m": {"k": b64(b"\xfe")}, "n": [inner]}
    expected = {"p": b"\xff", "q": "x"}
    # By `instances`, MLflow refuses such columns: it takes all rows for one.
    found = handed(model, "inputs", [row, row])
    assert [list(each) for each in found["a"]] == [[b"x", b"yz"]] * 2
    assert found["o"].tolist() == [expected] * 2
    assert found["m"].tolist() == [{"k": b"\xfe"}] * 2
    assert [list(each) for each in found["n"]] == [[expected]] * 2


@pytest.mark.parametrize("kind", [DataType.string, DataType.double, DataType.boolean])
def test_where_nothing_is_binary_nothing_becomes_bytes(made: Make, kind: DataType) -> None:
    model = made([ColSpec(kind, "c")])
    if kind is DataType.string:  # MLflow writes the dict as text
        assert "b64" in handed(model, "instances", [{"c": b64(b"x")}])["c"].tolist()[0]
    else:
        reference = made([ColSpec(kind, "c")])
        reference._decode = lambda key, data: (key, data)
        assert _refusal(model) == _refusal(reference)


def _refusal(model: PlainModel) -> str:
    try:
        return repr(handed(model, "instances", [{"c": b64(b"x")}]))
    except InvalidInput as error:
        return str(error)


@pytest.mark.parametrize("dtype", ["bytes", "object"])
def test_tensors(made: Make, dtype: str) -> None:
    values = [b"ab", b"\xff", b"c"]
    one = made([TensorSpec(np.dtype(dtype), (-1,))])
    rows = made(
        [TensorSpec(np.dtype(dtype), (-1, 1), "x"), TensorSpec(np.dtype("int64"), (-1,), "y")]
    )
    only = made([TensorSpec(np.dtype(dtype), (-1,), "x")])
    for key in ("instances", "inputs"):
        assert handed(one, key, list(map(b64, values))).tolist() == values
        assert handed(only, key, list(map(b64, values)))["x"].tolist() == values
    found = handed(rows, "instances", [{"x": [b64(value)], "y": 1} for value in values])
    assert found["x"].tolist() == [[value] for value in values]
    found = handed(rows, "inputs", {"x": [[b64(value)] for value in values], "y": [1, 2, 3]})
    assert found["x"].tolist() == [[value] for value in values]


def test_a_tensor_of_numbers_takes_none(made: Make) -> None:
    with pytest.raises(InvalidInput):
        handed(made([TensorSpec(np.dtype("float64"), (-1,))]), "instances", [b64(b"x")])


def test_without_a_signature(made: Make) -> None:
    model = made(None)
    values = list(map(b64, RAW))
    found = handed(model, "instances", values)
    assert (found.dtype, found.tolist()) == (object, RAW)
    assert handed(model, "inputs", values).tolist() == RAW
    assert handed(model, "inputs", values[0]).item() == RAW[0]
    found = handed(
        model, "instances", [{"image": value, "key": n} for n, value in enumerate(values)]
    )
    assert found["image"].tolist() == RAW
    assert is_same(found["key"], np.arange(len(RAW)))
    found = handed(model, "inputs", {"image": values, "key": ["a"]})
    assert found["image"].tolist() == RAW
    assert is_same(found["key"], np.array(["a"]))
    assert handed(model, "instances", [[values[0], 1], [values[1], 2]]).tolist() == [
        [RAW[0], 1],
        [RAW[1], 2],
    ]
    (row,) = handed(model, "inputs", [{"image": values[0], "key": 1}])
    assert (row["image"].item(), row["key"].item()) == (RAW[0], 1)
    deep = handed(model, "instances", [{"a": {"deep": [values[0]]}}])
    assert deep["a"].tolist() == [{"deep": [RAW[0]]}]


def test_without_a_signature_all_else_is_as_ever(made: Make) -> None:
    model, reference = made(None), made(None)
    reference._decode = lambda key, data: (key, data)
    bodies: list[Any] = [
        [{"b64": "AP8=", "other": 1}],
        [{"b64": 5}],
        {"b64": ["x", "y"]},
        [{"a": {"k": 1}}, {"a": None}],
        [[None, 1]],
        "AP8=",
    ]
    for key in ("instances", "inputs"):
        for data in bodies:
            assert is_same(handed(model, key, data), handed(reference, key, data)), (key, data)
    with pytest.raises(InvalidInput, match="not the same"):
        handed(model, "instances", [{"a": b64(b"x"), "b": 1}, {"a": b64(b"x")}])


@pytest.mark.parametrize("specs", [None, [BINARY], [TensorSpec(np.dtype(bytes), (-1,))]])
def test_what_is_not_base64_is_refused(made: Make, specs: list[Any] | None) -> None:
    model = made(specs)
    for text in ("mine!", "a", "AP8=mine", "\N{SNOWMAN}"):
        with pytest.raises(InvalidInput, match="not base64") as caught:
            handed(model, "instances", [{"b64": text}])
        assert "mine" not in str(caught.value)
    found = handed(model, "instances", [{"b64": "AP8"}])
    assert (found["c"] if isinstance(found, pd.DataFrame) else found).tolist() == [b"\0\xff"]


def test_the_scoring_protocol_knows_no_such_values(made: Make) -> None:
    payload = ScoringInput("application/json", {"instances": [{"a": b64(b"x")}]})
    found = made(None).prepare(Call(Form.SCORING, payload)).data
    assert found["a"].tolist() == [b64(b"x")]
