"""What a model is handed, and what is refused, is what MLflow's own functions hand it and refuse.

The oracle is a saved model that answers what it was handed, called through ``mlflow.pyfunc``.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.utils.proto_json_utils import parse_tf_serving_input

from pyfuncserver.codec import upi
from pyfuncserver.errors import InvalidInput
from pyfuncserver.model import plain, route
from pyfuncserver.model.call import Call, Form
from pyfuncserver.model.plain import PlainModel

Loaded = Callable[[ModelSignature | None], Any]


@pytest.fixture(scope="module")
def loaded(echo_model: Path) -> Loaded:
    """Give `loaded(signature)`: the echo as MLflow loads it, with the signature as it is saved."""
    import mlflow.pyfunc

    def load(signature: ModelSignature | None) -> Any:
        model = mlflow.pyfunc.load_model(str(echo_model))
        if signature is not None:
            model.metadata.signature = ModelSignature.from_dict(signature.to_dict())
        return model

    return load


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Let NumPy warn of overflows in both ways, rather than raise in the middle of one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Pair:
    """A model as we call it, and as MLflow does."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.ours = PlainModel(model)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plain, "route_of", route._undivided)
            self.undivided = PlainModel(model)
        assert self.ours.is_divisible
        assert not self.undivided.is_divisible

    def shortcut(self, key: str, data: Any) -> Any:
        return self.ours._shortcut(key, copy.deepcopy(data))

    def check(self, body: dict[str, Any]) -> None:
        """Compare what both make of a JSON body."""
        call = Call(Form.JSON, copy.deepcopy(body))
        try:
            expected = self.by_mlflow(copy.deepcopy(body))
        except MlflowException:
            assert refusal(self.ours, call) == refusal(self.undivided, call), body
        else:
            assert_same(answer(self.ours, call), expected, body)
        assert repr(call.payload) == repr(body), "the body was changed"

    def by_mlflow(self, body: dict[str, Any]) -> Any:
        schema = self.model.metadata.get_input_schema()
        data = {key: body[key] for key in ("instances", "inputs") if key in body}
        params = body.get("params") or None
        return self.model.predict(parse_tf_serving_input(data, schema=schema), params=params)


def answer(model: PlainModel, call: Call) -> Any:
    return model.invoke(model.prepare(call))


def refusal(model: PlainModel, call: Call) -> str:
    with pytest.raises(InvalidInput) as caught:
        answer(model, call)
    return str(caught.value)


def assert_same(found: Any, expected: Any, body: Any) -> None:
    """Compare by all that a model can see: types, labels, values, order in memory."""
    assert type(found) is type(expected), body
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(
            found, expected, check_exact=True, check_index_type=True, check_column_type=True
        )
        assert type(found.index) is type(expected.index), body
        assert type(found.columns) is type(expected.columns), body
        assert found.columns.dtype == expected.columns.dtype, body
        for name in expected:
            assert type(found[name].array) is type(expected[name].array), body
            assert repr(found[name].tolist()) == repr(expected[name].tolist()), body
        assert found.to_numpy().flags.c_contiguous == expected.to_numpy().flags.c_contiguous
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype, body
        assert found.shape == expected.shape, body
        assert found.flags.writeable == expected.flags.writeable, body
        assert found.flags.c_contiguous == expected.flags.c_contiguous, body
        assert repr(found.tolist()) == repr(expected.tolist()), body
    elif isinstance(expected, dict):
        assert list(found) == list(expected), body
        for name in expected:
            assert_same(found[name], expected[name], body)
    else:
        assert repr(found) == repr(expected), body


NUMBERS: list[Any] = [
    *(0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64, 10**400),
    *(-0.0, 1.5, 1e39, 1e308, 5e-324, float("nan"), float("inf")),
]
TEXTS = ["", "x", "1", "1.5", "true", "\N{SNOWMAN}\N{BUG}", "a\0", "\0", "2020-01-01"]
VALUES: list[Any] = [None, True, *NUMBERS, *TEXTS, [], [1.5], ["x"], [[1]], {}, {"k": 1}]

GOOD = {
    DataType.boolean: True,
    DataType.integer: 7,
    DataType.long: 7,
    DataType.float: 0.5,
    DataType.double: 0.5,
    DataType.string: "s",
    DataType.binary: "b",
    DataType.datetime: "2020-02-29T12:00:00",
}


def bodies_of_a_column(value: Any, good: Any) -> list[dict[str, Any]]:
    """Give every form in which a value can come for the column c, in a schema of c and d."""
    return [
        {"instances": [{"c": value, "d": 1.5}]},
        {"instances": [{"d": 1.5, "c": good}, {"c": value, "d": 2.5}]},
        {"instances": [{"c": value, "d": 1.5}, {"d": 1.5}]},
        {"instances": [{"c": value, "d": 1.5, "e": "extra"}]},
        {"instances": [{"c": good, "d": 1.5}, {"c": value, "d": 1.5, "e": "extra"}]},
        {"instances": [[value, 1.5]]},
        {"inputs": {"c": [value, good], "d": [1.5, None]}},
        {"inputs": {"c": value, "d": 1.5}},
        {"inputs": {"c": [value, good], "d": [1.5]}},
        {"inputs": [{"c": value, "d": 1.5}]},
    ]


def columns(*specs: ColSpec) -> ModelSignature:
    return ModelSignature(inputs=Schema(list(specs)))


@pytest.mark.parametrize("required", [True, False], ids=["required", "optional"])
@pytest.mark.parametrize("kind", DataType, ids=lambda kind: kind.name)
def test_columns(loaded: Loaded, kind: DataType, required: bool) -> None:
    signature = columns(ColSpec(kind, "c", required=required), ColSpec(DataType.double, "d"))
    pair = Pair(loaded(signature))
    for value in VALUES:
        for body in bodies_of_a_column(value, GOOD[kind]):
            pair.check(body)
    is_simple = kind not in (DataType.binary, DataType.datetime)
    for body in bodies_of_a_column(GOOD[kind], GOOD[kind])[:2]:
        taken = pair.shortcut("instances", body["instances"])
        assert (taken is not None) == is_simple, "the shortcut is taken where there is one"


@pytest.mark.parametrize("kind", DataType, ids=lambda kind: kind.name)
def test_a_single_column(loaded: Loaded, kind: DataType) -> None:
    named, unnamed = (Pair(loaded(columns(ColSpec(kind, name)))) for name in ("c", None))
    for value, pair in itertools.product([*VALUES, GOOD[kind]], (named, unnamed)):
        pair.check({"instances": [{"c": value}]})
        pair.check({"instances": [value, GOOD[kind]]})
        pair.check({"instances": [[value]]})
        pair.check({"inputs": {"c": [value]}})
        pair.check({"inputs": [value]})
        pair.check({"inputs": value})


SHAPELESS: list[dict[str, Any]] = [
    *({key: value} for key in ("instances", "inputs") for value in VALUES),
    *({key: [value]} for key in ("instances", "inputs") for value in VALUES),
    *({key: [[1, 2], [3, value]]} for key in ("instances", "inputs") for value in VALUES),
    *(
        {key: [{"a": 1.5, "b": 2}, {"b": 3, "a": value}]}
        for key in ("instances", "inputs")
        for value in VALUES
    ),
    *({key: {"a": [1, value], "b": value}} for key in ("instances", "inputs") for value in VALUES),
    {"instances": [{"a": 1}, {"b": 1}]},
    {"instances": [{"a": 1}, {"a": 2, "b": 1}]},
    {"instances": [{"a": 1}, {"a": 2, "b": 1}, {"b": 2}]},
    {"instances": [{"a": 1}, 2]},
    {"instances": [1, {"a": 1}]},
    {"instances": [{}]},
    {"instances": [[1, 2], [3]]},
    {"instances": [[], []]},
    {"instances": [["a", 1, 0.5], ["bcd", 22, 1.5]]},
    {"instances": [{"a": [1, 2]}, {"a": [3, 4]}]},
    {"instances": [{"a": "x", "b": ""}, {"a": "yyy", "b": ""}]},
    {"instances": [{"a": 2**53 + 1}, {"a": 0.5}]},
    {"instances": [{"a": 2**64}, {"a": 0.5}]},
    {"instances": [{"a": 2**63}, {"a": 1}]},
    {"instances": [{"a": 2**63}, {"a": -1}]},
    {"instances": [{"a": True}, {"a": 2}]},
    {"inputs": {}},
]


def test_without_a_signature(loaded: Loaded) -> None:
    pair = Pair(loaded(None))
    for body in SHAPELESS:
        pair.check(body)
        pair.check({**body, "params": {"k": 1}})
    assert pair.shortcut("instances", [["a", 1]]) is not None
    assert pair.shortcut("instances", [{"a": 1.5}]) is not None
    assert pair.shortcut("inputs", {"a": [1.5]}) is not None


DTYPES = [
    *("float64", "float32", "float16", "int64", "int32", "int8", "uint8", "uint64", "bool"),
    *("complex64", "str", "bytes", "object", "datetime64[ns]"),
]
SHAPES = [(-1,), (-1, 2), (2, 2), (-1, -1), (-1, 2, 1), (-1, 0)]
TENSORS: list[Any] = [
    *VALUES,
    *([value] for value in VALUES),
    *([[1, value], [value, 0]] for value in VALUES),
    [[[1], [0]]],
    [[1, 0], [1]],
    [[1.5, "2"], [True, 0]],
    [[], []],
    [1, 0, 1],
    [1, {"a": 1}],
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors(loaded: Loaded, dtype: str) -> None:
    for shape in SHAPES:
        inputs = Schema([TensorSpec(np.dtype(dtype), shape)])
        pair = Pair(loaded(ModelSignature(inputs=inputs)))
        for value in TENSORS:
            pair.check({"instances": value})
            pair.check({"inputs": value})
        sample = np.zeros([2 if size < 0 else size for size in shape], dtype).tolist()
        is_simple = np.dtype(dtype).kind in "biuf"
        assert (pair.shortcut("instances", sample) is not None) == is_simple


@pytest.mark.parametrize("dtype", ["float64", "int32", "bool", "uint8", "str"])
def test_named_tensors(loaded: Loaded, dtype: str) -> None:
    specs = [TensorSpec(np.dtype(dtype), (-1, 2), "x"), TensorSpec(np.dtype("int64"), (-1,), "y")]
    pair = Pair(loaded(ModelSignature(inputs=Schema(specs))))
    alone = Pair(loaded(ModelSignature(inputs=Schema(specs[:1]))))
    for value in VALUES:
        for key in ("instances", "inputs"):
            pair.check({key: [{"x": [value, 1], "y": 1}, {"y": 2, "x": [0, 1]}]})
            pair.check({key: {"y": [1], "x": [[1, value]]}})
            pair.check({key: {"y": [1]}})
            alone.check({key: [[1, value]]})
        pair.check({"instances": [{"x": [1, 0], "y": value}]})
        pair.check({"instances": [{"x": [1, 0], "y": 1, "z": value}]})
        pair.check({"instances": [{"x": value, "y": 1}, {"x": [1, 0], "y": 1}]})
    taken = pair.shortcut("instances", [{"y": 2, "x": [0, 1]}])
    assert (taken is not None) == (dtype != "str")


PARAMS: list[Any] = [
    *({name: value} for name in ("whole", "part", "text", "many") for value in VALUES),
    *({}, None, {"unknown": 1}, {"whole": 1, "unknown": 1}, {"many": [1.5, 2.5]}, {"whole": 3}),
]


def test_params(loaded: Loaded, save_model: Callable[..., Path]) -> None:
    def save(models: Any, path: Path) -> Path:
        class Both(models.mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                return {"data": model_input, "params": params}

        return Path(models.save(Both(), path, signature=columns(ColSpec(DataType.double, "c"))))

    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(save_model("both", save)))
    bodies = [{"instances": [{"c": 1.5}]}, {"instances": [{"c": "x"}]}, {"inputs": {"c": [None]}}]
    specs = [
        ParamSpec("whole", DataType.long, 3),
        ParamSpec("part", DataType.double, None),
        ParamSpec("text", DataType.string, "t"),
        ParamSpec("many", DataType.double, [0.5], (-1,)),
    ]
    for schema in (None, ParamSchema(specs)):
        signature = ModelSignature(model.metadata.signature.inputs, params=schema)
        model.metadata.signature = ModelSignature.from_dict(signature.to_dict())
        pair = Pair(model)
        for body, params in itertools.product(bodies, PARAMS):
            pair.check({**body, "params": params})
    calls = [pair.ours.prepare(Call(Form.JSON, bodies[0])) for _ in range(2)]
    assert calls[0].params == calls[1].params
    assert calls[0].params is not calls[1].params, "a model may change the dict it is handed"


@pytest.mark.parametrize("other", [DataType.double, DataType.string], ids=["uniform", "mixed"])
def test_frames_share_nothing_that_a_model_can_change(loaded: Loaded, other: DataType) -> None:
    pair = Pair(loaded(columns(ColSpec(DataType.double, "a"), ColSpec(other, "b"))))
    call = Call(Form.JSON, {"instances": [{"a": 1.5, "b": GOOD[other]}]})
    first = pair.ours.prepare(call).data
    first.columns.name = "changed"
    first.index.name = "changed"
    first.loc[0, "a"] = 9.0
    first["more"] = 1
    pair.check(call.payload)


# UPI tables

KINDS = {DataType.double: upi.DOUBLE, DataType.long: upi.INTEGER, DataType.string: upi.STRING}
FIELDS = {upi.DOUBLE: "double_value", upi.INTEGER: "integer_value", upi.STRING: "string_value"}


def table_of(kinds: dict[str, int], rows: int, ids: bool, nulls: bool) -> Any:
    request = upi.messages().PredictValuesRequest()
    for name, kind in kinds.items():
        request.prediction_table.columns.add(name=name, type=kind)
    for number in range(rows):
        row = request.prediction_table.rows.add(row_id=f"r{number}" if ids else "")
        for name, kind in kinds.items():
            values = {upi.DOUBLE: ord(name) / 2, upi.INTEGER: ord(name), upi.STRING: name}
            cell = {FIELDS[kind]: values[kind]}
            row.values.add(**({"is_null": True} if nulls and number else cell))
    return request


@pytest.mark.parametrize("kind", DataType, ids=lambda kind: kind.name)
def test_tables(loaded: Loaded, kind: DataType) -> None:
    pair = Pair(loaded(columns(ColSpec(kind, "a"), ColSpec(DataType.double, "b"))))
    untyped = Pair(loaded(None))
    names = ({"a", "b"}, {"b", "a"}, {"a"}, {"a", "b", "c"})
    for first, order, rows, ids, nulls in itertools.product(
        FIELDS, names, (0, 2), (True, False), (True, False)
    ):
        kinds = {name: first if name == "a" else upi.DOUBLE for name in sorted(order)}
        for table in (kinds, dict(reversed(kinds.items()))):
            request = table_of(table, rows, ids, nulls)
            check_table(pair, request)
            check_table(untyped, request)
    frame = upi.frame_of(
        table_of({"a": KINDS.get(kind, 1), "b": 1}, 1, True, False).prediction_table
    )
    assert (pair.ours._shortcut("prediction_table", frame) is not None) == (kind in KINDS)


def check_table(pair: Pair, request: Any) -> None:
    call = Call(Form.UPI, request)
    try:
        expected = pair.model.predict(upi.frame_of(request.prediction_table))
    except MlflowException:
        assert refusal(pair.ours, call) == refusal(pair.undivided, call), request
    else:
        assert_same(answer(pair.ours, call), expected, request)


# A sweep

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.integers(0, 2), max_size=2),
)
JSON_OF = {
    DataType.boolean: st.booleans(),
    DataType.integer: st.integers(-(2**33), 2**33),
    DataType.long: st.integers(-(2**65), 2**65),
    DataType.float: st.floats() | st.integers(),
    DataType.double: st.floats() | st.none(),
    DataType.string: st.text(max_size=4),
    DataType.binary: st.text(max_size=4),
    DataType.datetime: st.datetimes().map(str),
}


@st.composite
def requests(draw: st.DrawFn) -> tuple[ModelSignature, dict[str, Any]]:
    """Draw a schema, and a body that fits it in most of its parts."""
    names = draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=4, unique=True))
    kinds = {name: draw(st.sampled_from(list(DataType))) for name in names}
    signature = columns(
        *(ColSpec(kind, name, required=draw(st.booleans())) for name, kind in kinds.items())
    )
    cells = {name: st.one_of(*[JSON_OF[kind]] * 9, SCALARS) for name, kind in kinds.items()}
    if draw(st.integers(0, 9)) == 0:
        cells["z"] = SCALARS
    if draw(st.integers(0, 9)) == 0:
        cells.pop(draw(st.sampled_from(names)))
    rows = draw(st.lists(st.fixed_dictionaries(cells), max_size=4))
    if draw(st.booleans()):
        return signature, {"instances": rows}
    return signature, {"inputs": {name: [row[name] for row in rows] for name in cells}}


@settings(max_examples=120)
@given(st.data())
def test_whatever_comes(loaded: Loaded, data: st.DataObject) -> None:
    signature, body = data.draw(requests())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Pair(loaded(signature)).check(body)
