"""The shortcuts from data frames in JSON give what MLflow gives, or leave it to MLflow."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from scoring_oracle import is_same

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.call import Call, Form, ScoringInput
from pyfuncserver.model.plain import PlainModel

SIMPLE = ("boolean", "integer", "long", "float", "double", "string")
GOOD: dict[str, Any] = {
    "boolean": True, "integer": 7, "long": 7, "float": 0.5, "double": 0.5, "string": "s",
}  # fmt: skip
VALUES: list[Any] = [
    *(None, True, 0, 1, -1, 2**31, 2**53 + 1, 2**60 + 1, 2**63 - 1, 2**63, 2**64, 10**400),
    *(-0.0, 1.5, 0.1, 1e39, 1e308, 5e-324, float("nan"), float("inf")),
    *("", "x", "1.5", "a\0", "\0", "\N{SNOWMAN}", [], [1.5], {}, {"k": 1}),
]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Pair:
    """A model with its shortcuts, and one without."""

    def __init__(self, path: Path, *specs: ColSpec) -> None:
        import mlflow.pyfunc

        model = mlflow.pyfunc.load_model(str(path))
        model.metadata.signature = ModelSignature(inputs=Schema(list(specs)))
        self.short, self.long = PlainModel(model), PlainModel(model)
        self.long._shortcuts = {}

    def takes(self, field: str, data: Any) -> bool:
        return self.short._shortcut(field, copy.deepcopy(data)) is not None

    def check(self, field: str, data: Any) -> None:
        found, expected = (made(model, {field: data}) for model in (self.short, self.long))
        assert is_same(found, expected), (field, data)


def made(model: PlainModel, body: dict[str, Any]) -> Any:
    payload = ScoringInput("application/json", copy.deepcopy(body))
    try:
        return model.prepare(Call(Form.SCORING, payload)).data
    except InvalidInput as error:
        return str(error)


Make = Callable[..., Pair]


@pytest.fixture
def pair(echo_model: Path) -> Make:
    return lambda *specs: Pair(echo_model, *specs)


@pytest.mark.parametrize("kind", SIMPLE)
def test_every_value_in_a_column(pair: Make, kind: str) -> None:
    models = pair(ColSpec(kind, "c"), ColSpec("double", "d")), pair(ColSpec(kind, "c"))
    for model, value, good in itertools.product(models, VALUES, (GOOD[kind], None)):
        names = ["c", "d"] if model is models[0] else ["c"]
        cells = [[value, 1.5][: len(names)], [good, 2.5][: len(names)]]
        model.check("dataframe_records", [dict(zip(names, row, strict=True)) for row in cells])
        model.check("dataframe_split", {"columns": names, "data": cells})
    row = {"c": GOOD[kind], "d": 1.5}
    assert models[0].takes("dataframe_records", [row, row])
    assert models[0].takes("dataframe_split", {"columns": ["d", "c"], "data": [[1.5, row["c"]]]})


INDEXES: list[Any] = [
    *(None, [0, 1], [5, -5], ["r", "s"], ["", "\0"], [0, 0], [2**63 - 1, 0], [2**64, 0]),
    *([0], [0, 1, 2], [], [0.5, 1], [True, False], [None, 1], [[0], [1]], "ab", 5, {"a": 1}),
    ["2020-01-01", "2020-01-02"],
]


def test_every_index(pair: Make) -> None:
    model = pair(ColSpec("double", "a"), ColSpec("string", "b"))
    split = {"columns": ["a", "b"], "data": [[1.5, "x"], [None, "y"]]}
    for index in INDEXES:
        model.check("dataframe_split", {**split, "index": index})
    for index in INDEXES[:4]:
        assert model.takes("dataframe_split", {**split, "index": index})


ODD: list[Any] = [
    *(None, 5, "x", [], {}, [1], [[1.5, "x"]], [{}], [{"a": 1.5}, {"a": 1.5, "b": "x"}]),
    [{"a": 1.5, "b": "x", "more": 1}],
    {"data": []},
    {"data": [[1.5, "x"]]},
    {"columns": ["a", "b"], "data": []},
    {"columns": ["a", "b"], "data": [[1.5]]},
    {"columns": ["a", "b"], "data": [[1.5, "x", 1]]},
    {"columns": ["a", "b"], "data": [[1.5, "x"], [1.5]]},
    {"columns": ["a", "b"], "data": [[1.5, "x"], 5]},
    {"columns": ["a", "b"], "data": [{"a": 1.5, "b": "x"}]},
    {"columns": ["a", "b"], "data": {"a": [1.5], "b": ["x"]}},
    {"columns": ["a", "a"], "data": [[1.5, "x"]]},
    {"columns": ["a", "b", "b"], "data": [[1.5, "x", "y"]]},
    {"columns": ["b", "a", "more"], "data": [["x", 1.5, 5]]},
    {"columns": [["a"], "b"], "data": [[1.5, "x"]]},
    {"columns": "ab", "data": [[1.5, "x"]]},
    {"columns": None, "data": [[1.5, "x"]]},
    {"columns": ["a", "b"], "data": [[1.5, "x"]], "more": 1},
]


def test_every_odd_frame(pair: Make) -> None:
    model = pair(ColSpec("double", "a"), ColSpec("string", "b"))
    for field, data in itertools.product(("dataframe_records", "dataframe_split"), ODD):
        model.check(field, data)


def test_what_has_no_shortcut(pair: Make) -> None:
    model = pair(ColSpec(DataType.datetime, "a"), ColSpec("double", "b"))
    row = {"a": "2020-01-01", "b": 1.5}
    assert not model.takes("dataframe_records", [row])
    model.check("dataframe_records", [row])


def test_frames_share_nothing_that_a_model_can_change(pair: Make) -> None:
    model = pair(ColSpec("double", "a"))
    body = {"dataframe_split": {"columns": ["a"], "data": [[1.5]], "index": [0]}}
    first = made(model.short, body)
    first.columns.name = first.index.name = "changed"
    first.loc[0, "a"] = 9.0
    model.check("dataframe_split", body["dataframe_split"])
