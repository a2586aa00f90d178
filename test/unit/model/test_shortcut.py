"""A shortcut is taken only where it gave what MLflow gives; see also ``test_enforcement.py``."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Array

from pyfuncserver.model.shortcut import is_same, no_shortcut, shortcut_of

FRAME = pd.DataFrame({"a": [1.5, 2.5], "s": ["x", "y"]})
TABLE = Schema([ColSpec(DataType.double, "a"), ColSpec(DataType.string, "s")])
TENSOR = Schema([TensorSpec(np.dtype("float64"), (-1, 2))])


def by_mlflow(schema: Any, key: str, data: Any) -> Any:
    from mlflow.pyfunc import _validate_prediction_input as validate
    from mlflow.utils.proto_json_utils import parse_tf_serving_input as parse

    converted = data if isinstance(data, pd.DataFrame) else parse({key: data}, schema=schema)
    return validate(converted, None, schema, None)[0]


@pytest.mark.parametrize("schema", [None, TABLE, TENSOR], ids=["untyped", "table", "tensor"])
def test_what_differs_is_not_taken(
    schema: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, "pyfuncserver.model.shortcut")
    assert shortcut_of(schema, by_mlflow) is not no_shortcut
    assert not caplog.records

    def of_another_version(schema: Any, key: str, data: Any) -> Any:
        found = by_mlflow(schema, key, data)
        return found.astype("float32") if schema is TENSOR else [found]

    def refusing(schema: Any, key: str, data: Any) -> Any:
        raise RuntimeError("this version refuses the sample")

    for oracle in (of_another_version, refusing):
        caplog.clear()
        assert shortcut_of(schema, oracle) is no_shortcut
        (record,) = caplog.records
        assert record.getMessage() == "inputs are converted by MLflow alone"
        assert record.exc_info is not None


@pytest.mark.parametrize(
    "schema",
    [
        Schema([ColSpec(Array(DataType.double), "a")]),
        Schema([ColSpec(DataType.double)]),
        Schema([ColSpec(DataType.datetime, "a")]),
        Schema([TensorSpec(np.dtype("str"), (-1,))]),
    ],
    ids=str,
)
def test_schemas_without_a_shortcut(schema: Any) -> None:
    assert shortcut_of(schema, by_mlflow) is no_shortcut


def test_large_tensors_are_tried_small() -> None:
    sizes = []

    def oracle(schema: Any, key: str, data: Any) -> Any:
        sizes.append(np.size(data))
        return by_mlflow(schema, key, data)

    shape = (-1, 3, 10_000, 10_000)
    large = Schema([TensorSpec(np.dtype("float32"), shape)])
    assert shortcut_of(large, oracle) is not no_shortcut
    assert max(sizes) <= 16


def test_wide_tables_are_tried_narrow() -> None:
    widths = []

    def oracle(schema: Any, key: str, data: Any) -> Any:
        widths.append(len(schema.inputs))
        return by_mlflow(schema, key, data)

    kinds = [DataType.double, DataType.string, DataType.long]
    wide = Schema([ColSpec(kinds[place % 3], f"c{place}") for place in range(300)])
    row = {f"c{place}": (0.5, "x", place)[place % 3] for place in range(300)}
    shortcut = shortcut_of(wide, oracle)
    assert max(widths) == 6
    assert is_same(shortcut("instances", [row, row]), by_mlflow(wide, "instances", [row, row]))


OTHERS = {
    "another type": FRAME.to_dict("list"),
    "another value": FRAME.assign(a=[1.5, 2.0]),
    "another dtype": FRAME.assign(a=FRAME.a.astype("float32")),
    "another cell": FRAME.assign(s=pd.Series(["x", None], dtype=FRAME.s.dtype)),
    "another order": FRAME[["s", "a"]],
    "another label": FRAME.rename(columns={"a": "b"}),
    "another index": FRAME.set_axis(["x", "y"]),
    "an index of another class": FRAME.set_axis(pd.Index([0, 1])),
    "labels of another dtype": FRAME.set_axis(FRAME.columns.astype("category"), axis=1),
    "fewer rows": FRAME[:1],
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_sameness_of_frames(other: Any) -> None:
    assert is_same(FRAME, FRAME.copy())
    assert not is_same(FRAME, other)
    assert not is_same(other, FRAME)


def test_sameness_of_arrays() -> None:
    array = np.array([[1.0, np.nan]])
    assert is_same(array, array.copy())
    assert not is_same(array, array.astype("float32"))
    assert not is_same(array, array.reshape(2))
    assert not is_same(array, np.array([[1.0, 2.0]]))
    assert is_same({"a": array, "b": array}, {"a": array, "b": array})
    assert not is_same({"a": array, "b": array}, {"b": array, "a": array})
    assert not is_same({"a": array}, {"a": array, "b": array})
    assert not is_same({"a": array}, array)
