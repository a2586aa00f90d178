"""No request makes NumPy ask for gigabytes; what only looks as if it would is not refused."""

from __future__ import annotations

import io
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array, Map, Object, Property

from pyfuncserver.codec import seldon, upi
from pyfuncserver.codec import tensors as codec
from pyfuncserver.codec.tensors import Tensor
from pyfuncserver.errors import InvalidInput
from pyfuncserver.model import padding, scoring
from pyfuncserver.model.call import Call, Form, ScoringInput, Tensors
from pyfuncserver.model.plain import PlainModel

LONG = "x" * 1_000_000
CELLS = [LONG, *["a"] * 5000]
NESTED = [{"t": {"p": [cell]}} for cell in CELLS]
ROOM = 2 * 2**30
"""Memory that a case may ask for; each would ask for 20 GB."""

TEXT = Schema([ColSpec(DataType.string, "t")])
OPTIONAL = Schema([ColSpec(DataType.string, "t", required=False)])
UNNAMED = Schema([ColSpec(DataType.string)])
NUMBER = Schema([ColSpec(DataType.double, "n")])
BINARY = Schema([ColSpec(DataType.binary, "t")])
LISTS = Schema([ColSpec(Array(DataType.string), "t")])
OBJECTS = Schema([ColSpec(Object([Property("p", Array(DataType.string))]), "t")])
MAPS = Schema([ColSpec(Map(Array(DataType.string)), "t")])
TENSOR = Schema([TensorSpec(np.dtype("U"), (-1,))])
TENSORS = Schema([TensorSpec(np.dtype("U"), (-1,), "t")])
PAIRS = Schema([TensorSpec(np.dtype("float64"), (-1, 2), "t")])
WIDE = Schema([TensorSpec(np.dtype("float64"), (-1, 5001), "t")])

Made = Callable[..., PlainModel]


@pytest.fixture(scope="module")
def made(echo_model: Path) -> Made:
    """Give `made(schema, params)`, a model with that signature."""
    import mlflow.pyfunc

    def make(schema: Schema | None, params: ParamSchema | None = None) -> PlainModel:
        model = mlflow.pyfunc.load_model(str(echo_model))
        model.metadata.signature = None if schema is None else ModelSignature(schema, None, params)
        return PlainModel(model)

    return make


@pytest.fixture
def little_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def rows(cells: Any, name: str = "t") -> list[dict[str, Any]]:
    return [{name: cell} for cell in cells]


def body(data: Any, key: str = "instances", **more: Any) -> Call:
    return Call(Form.JSON, {key: data, **more})


def scored(data: Any, key: str, **more: Any) -> Call:
    return Call(Form.SCORING, ScoringInput(scoring.JSON, {key: data, **more}))


def split(data: Any, *columns: str) -> Call:
    return scored({"columns": list(columns or "t"), "data": data}, "dataframe_split")


def csv(cells: list[Any]) -> Call:
    text = pd.DataFrame({"t": cells}).to_csv(index=False).encode()
    return Call(Form.SCORING, ScoringInput(scoring.CSV, text))


def parquet(cells: list[Any]) -> Call:
    file = io.BytesIO()
    pd.DataFrame({"t": pd.Series(cells, dtype=object)}).to_parquet(file)
    return Call(Form.SCORING, ScoringInput(scoring.PARQUET, file.getvalue()))


def v2(cells: list[Any], name: str = "t") -> Call:
    values = codec.from_list("BYTES", (len(cells),), cells)
    return Call(Form.TENSORS, Tensors([Tensor(name, "BYTES", values)]))


def table(cells: list[str]) -> Call:
    request = upi.messages().PredictValuesRequest()
    request.prediction_table.columns.add(name="t", type=upi.STRING)
    for cell in cells:
        request.prediction_table.rows.add().values.add(string_value=cell)
    return Call(Form.UPI, request)


def message(cells: Any) -> Call:
    return Call(Form.SELDON, seldon.message_from({"data": {"ndarray": cells}}))


TOO_MUCH: list[tuple[str, Schema | None, Callable[[], Call]]] = [
    ("a list", None, lambda: body(CELLS)),
    ("a list of lists", None, lambda: body([[cell] for cell in CELLS])),
    ("a list by column", None, lambda: body(CELLS, "inputs")),
    ("numbers beside a text", None, lambda: body([LONG, *range(5000)])),
    ("a column", None, lambda: body({"t": CELLS}, "inputs")),
    ("rows", None, lambda: body(rows(CELLS))),
    ("rows of lists", None, lambda: body([{"t": CELLS}])),
    ("rows of lists and none", None, lambda: body([{"t": None}, {"t": CELLS}])),
    ("rows of columns", None, lambda: body([{"t": CELLS}], "inputs")),
    ("a column of no signature", NUMBER, lambda: body({"n": [1.5], "t": CELLS}, "inputs")),
    ("rows with a null", OPTIONAL, lambda: body(rows([None, *CELLS]))),
    ("numbers in a column of texts", TEXT, lambda: body({"t": [*CELLS, 1]}, "inputs")),
    ("an object as text", TEXT, lambda: body({"t": [{"a": LONG}, *CELLS[1:]]}, "inputs")),
    ("a column without a name", UNNAMED, lambda: body(CELLS)),
    ("bytes", BINARY, lambda: body({"t": CELLS}, "inputs")),
    ("lists", LISTS, lambda: body([{"t": CELLS}])),
    ("columns of lists", LISTS, lambda: body({"t": [CELLS]}, "inputs")),
    ("records of lists", LISTS, lambda: scored([{"t": CELLS}], "dataframe_records")),
    ("a frame of lists", LISTS, lambda: split([[CELLS]])),
    ("objects", OBJECTS, lambda: body([{"t": {"p": CELLS}}])),
    ("records of objects", OBJECTS, lambda: scored([{"t": {"p": CELLS}}], "dataframe_records")),
    ("maps", MAPS, lambda: body([{"t": {"p": CELLS}}])),
    ("a tensor", TENSOR, lambda: body(CELLS)),
    ("a named tensor", TENSORS, lambda: body({"t": CELLS}, "inputs")),
    ("a tensor of records", TENSORS, lambda: scored(rows(CELLS), "dataframe_records")),
    ("a tensor of a frame", TENSORS, lambda: split([[cell] for cell in CELLS])),
    ("a tensor of rows", PAIRS, lambda: split([[[cell, "a"]] for cell in CELLS])),
    ("a tensor of a row", WIDE, lambda: split([[CELLS]])),
    ("a tensor of Parquet", TENSORS, lambda: parquet(CELLS)),
    ("lists in Parquet", LISTS, lambda: parquet([CELLS])),
    ("a V2 tensor", TENSORS, lambda: v2(CELLS)),
    ("a UPI table", TENSORS, lambda: table(CELLS)),
    ("a Seldon array", None, lambda: message(CELLS)),
    ("a Seldon column", OPTIONAL, lambda: message([None, *CELLS])),
    ("a Seldon tensor", TENSOR, lambda: message(CELLS)),
]


@pytest.mark.parametrize(
    ("schema", "call"), [case[1:] for case in TOO_MUCH], ids=[case[0] for case in TOO_MUCH]
)
def test_what_would_take_gigabytes_is_refused(
    made: Made, little_memory: None, schema: Schema | None, call: Callable[[], Call]
) -> None:
    with pytest.raises(InvalidInput, match=r"strings of one length.* MB of memory, and may take"):
        made(schema).prepare(call())


def test_params_that_would_take_gigabytes_are_refused(made: Made, little_memory: None) -> None:
    params = ParamSchema([ParamSpec("p", DataType.string, ["a"], shape=(-1,))])
    with pytest.raises(InvalidInput, match="strings of one length"):
        made(TEXT, params).prepare(body(rows(["a"]), params={"p": CELLS}))


FINE: list[tuple[str, Schema | None, Callable[[], Call]]] = [
    ("objects among texts", None, lambda: body([*CELLS, None])),
    ("a column of texts", TEXT, lambda: body({"t": CELLS}, "inputs")),
    ("rows of texts", TEXT, lambda: body(rows(CELLS))),
    ("records", TEXT, lambda: scored(rows(CELLS), "dataframe_records")),
    ("records with a null", OPTIONAL, lambda: scored(rows([None, *CELLS]), "dataframe_records")),
    ("a frame", TEXT, lambda: split([[cell] for cell in CELLS])),
    ("a frame without a signature", None, lambda: split([[cell] for cell in CELLS])),
    ("CSV", TEXT, lambda: csv(CELLS)),
    ("Parquet", TEXT, lambda: parquet(CELLS)),
    ("a V2 column", TEXT, lambda: v2(CELLS)),
    ("a V2 tensor", None, lambda: v2(CELLS)),
    ("a UPI table", TEXT, lambda: table(CELLS)),
    ("a Seldon array", TEXT, lambda: message([[cell] for cell in CELLS])),
    ("objects of texts", OBJECTS, lambda: scored(NESTED, "dataframe_records")),
]


@pytest.mark.parametrize(
    ("schema", "call"), [case[1:] for case in FINE], ids=[case[0] for case in FINE]
)
def test_what_takes_no_more_than_it_is_is_not_refused(
    made: Made, little_memory: None, schema: Schema | None, call: Callable[[], Call]
) -> None:
    assert len(made(schema).prepare(call()).data) in (5001, 5002)


def test_binary_values_are_never_padded(made: Made, little_memory: None) -> None:
    cells = [{"b64": LONG}, *[{"b64": "AAAA"}] * 5000]
    for call in (body(rows(cells)), body({"t": cells}, "inputs")):
        assert len(made(BINARY).prepare(call).data) == 5001
    assert len(made(None).prepare(body(cells)).data) == 5001


def test_dates_are_read_as_they_come(made: Made, little_memory: None) -> None:
    dates = v2([LONG, *["2024-02-29"] * 5000])
    with pytest.raises(InvalidInput, match="not a date of ISO 8601"):
        made(Schema([ColSpec(DataType.datetime, "t")])).prepare(dates)


def test_what_cannot_take_much_is_not_looked_at(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(None)
    call = body(["a", "b"])
    call.may_be_padded = False
    monkeypatch.setattr(padding, "MOST_PADDED_BYTES", 0)
    assert model.prepare(call).data.tolist() == ["a", "b"]
    call.may_be_padded = True
    with pytest.raises(InvalidInput, match="strings of one length"):
        model.prepare(call)


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_CELLS = _TEXTS | st.integers(-(10**60), 10**60) | st.floats() | st.booleans()


@given(st.lists(st.lists(_CELLS, min_size=2, max_size=2), min_size=1))
def test_nothing_that_takes_much_is_overlooked(rows: list[Any]) -> None:
    text = json.dumps({"instances": rows}, ensure_ascii=False).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(padding, "HARMLESS_BYTES", 0)
        patch.setattr(padding, "MOST_PADDED_BYTES", np.array(rows).nbytes - 1)
        assert padding.may_take_much(text)


@pytest.mark.parametrize(
    ("value", "may"),
    [
        ([0.5] * 100_000, False),
        ([0.25] * 3_000_000, True),
        ([{"name": "text", "other": 1}] * 10_000, False),
        ([0.5] * 100_000 + ["text"], False),
        ([0.5] * 100_000 + ["t" * 2000], True),
        (["a\\b"] * 10_000, True),
        (["x" * 1_000_000, "y"], True),
        (["x" * 100] * 1000, False),
    ],
)
def test_which_texts_are_looked_at(value: Any, may: bool) -> None:
    assert padding.may_take_much(json.dumps({"instances": value}).encode()) is may


def test_no_short_request_could_ask_for_much() -> None:
    half = padding.HARMLESS_BYTES // 2
    for longest in (half, 5 * half):  # what repr makes of a character that cannot be printed
        padding.check(half // 2, longest)


@pytest.mark.parametrize(
    "value", [[[[LONG]], [["a"]] * 5000], [LONG, ["a"] * 5000], [["a"] * 5000, [LONG], 1]]
)
def test_lists_of_any_depth_are_counted(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"500[12] values"):
        padding.check_parts(value)
