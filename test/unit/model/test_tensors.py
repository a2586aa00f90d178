from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array, Map, Object, Property

from pyfuncserver.codec import tensors as codec
from pyfuncserver.codec.tensors import Tensor
from pyfuncserver.errors import InvalidInput
from pyfuncserver.model import tensors
from pyfuncserver.model.call import Tensors
from pyfuncserver.model.rectangle import AS_IS, TABLE

COLUMNS = Schema([ColSpec(DataType.double, "a"), ColSpec(DataType.long, "b")])


def tensor(name: str, data: list[Any], datatype: str = "FP64", **parameters: Any) -> Tensor:
    shape = np.shape(np.array(data, dtype=object)) if data else (0,)
    return Tensor(name, datatype, codec.from_list(datatype, shape, data), parameters)


def read(schema: Any, *inputs: Tensor, is_raw: bool = False, **payload: Any) -> tuple[Any, ...]:
    return tensors.reader_of(schema, None, is_raw)(Tensors(list(inputs), **payload))


def frame(schema: Any, *inputs: Tensor, **payload: Any) -> pd.DataFrame:
    key, data, params = read(schema, *inputs, **payload)
    assert (key, params) == (TABLE, None)
    assert isinstance(data, pd.DataFrame)
    return data


def data_of(schema: Any, *inputs: Tensor, **payload: Any) -> Any:
    key, data, params = read(schema, *inputs, **payload)
    assert (key, params) == (AS_IS, None)
    return data


def test_a_tensor_for_each_column() -> None:
    found = frame(COLUMNS, tensor("b", [3, 4], "INT64"), tensor("a", [[1.5], [2.5]]))
    assert found.to_dict("list") == {"a": [1.5, 2.5], "b": [3, 4]}
    assert list(found.columns) == ["a", "b"]
    assert [str(dtype) for dtype in found.dtypes] == ["float64", "int64"]


def test_one_tensor_for_all_columns() -> None:
    found = frame(COLUMNS, tensor("x", [[1.5, 2], [3.5, 4]]))
    assert found.to_dict("list") == {"a": [1.5, 3.5], "b": [2.0, 4.0]}
    text = Schema([ColSpec(DataType.string, "s"), ColSpec(DataType.binary, "t")])
    found = frame(text, tensor("x", [["a", "b"], ["c", "d"]], "BYTES"))
    assert found.to_dict("list") == {"s": ["a", "c"], "t": [b"b", b"d"]}


def test_a_table_whose_name_is_a_column_is_that_column() -> None:
    with pytest.raises(InvalidInput, match=r"'a' is a column: its shape is \[n\] or \[n, 1\]"):
        frame(COLUMNS, tensor("a", [[1.5, 2], [3.5, 4]]))


def test_one_column_may_be_called_anything() -> None:
    schema = Schema([ColSpec(DataType.string, "text")])
    for data in (["x", "y"], [["x"], ["y"]]):
        assert frame(schema, tensor("input-0", data, "BYTES")).to_dict("list") == {
            "text": ["x", "y"]
        }


def test_columns_without_names() -> None:
    schema = Schema([ColSpec(DataType.double), ColSpec(DataType.string)])
    found = frame(schema, tensor("input-0", [1.5]), tensor("input-1", ["s"], "BYTES"))
    assert found.to_dict("list") == {0: [1.5], 1: ["s"]}
    assert type(found.columns) is pd.RangeIndex


def test_what_v2_has_no_datatype_for() -> None:
    schema = Schema(
        [
            ColSpec(DataType.string, "text"),
            ColSpec(DataType.binary, "blob"),
            ColSpec(DataType.datetime, "day"),
            ColSpec(Array(DataType.double), "list"),
        ]
    )
    found = frame(
        schema,
        tensor("text", [b"a", "\N{SNOWMAN}"], "BYTES"),
        tensor("blob", ["a", b"\xff"], "BYTES"),
        tensor("day", ["2024-02-29", "2024-02-29T12:30:00+01:00"], "BYTES"),
        tensor("list", [[1.5, 2.5], [3.5, 4.5]]),
    )
    assert found["text"].tolist() == ["a", "\N{SNOWMAN}"]
    assert found["blob"].tolist() == [b"a", b"\xff"]
    assert found["day"].dtype == "datetime64[ns]"
    assert found["day"].astype(str).tolist() == ["2024-02-29 00:00:00", "2024-02-29 11:30:00"]
    assert [cell.tolist() for cell in found["list"]] == [[1.5, 2.5], [3.5, 4.5]]


SECRET = "mine \N{SNOWMAN}"


@pytest.mark.parametrize(
    ("schema", "inputs", "said"),
    [
        (COLUMNS, [], "There are no inputs"),
        (COLUMNS, [tensor("a", [1.5]), tensor("a", [1.5])], "Two inputs have one name"),
        (COLUMNS, [tensor("a", [1.5]), tensor("b", [1.0, 2.0])], "several numbers of rows"),
        (COLUMNS, [Tensor("a", "FP64", np.array(1.5))], "its shape is"),
        (
            Schema([ColSpec(DataType.string, "s")]),
            [tensor("s", [b"\xff"], "BYTES")],
            "'s' holds what is not valid UTF-8",
        ),
        (
            Schema([ColSpec(DataType.datetime, "s")]),
            [tensor("s", [SECRET], "BYTES")],
            "'s' holds what is not a date of ISO 8601",
        ),
        (
            Schema([ColSpec(DataType.binary, "s")]),
            [tensor("s", [SECRET], "BYTES", content_type="base64")],
            "'s' holds what is not base64",
        ),
        (
            Schema([TensorSpec(np.dtype("float64"), (-1,))]),
            [tensor("s", [1.5]), tensor("t", [1.5])],
            "takes one input, not 2",
        ),
        (
            Schema([TensorSpec(np.dtype("float64"), (-1, -1))]),
            [tensor("s", [SECRET], "BYTES")],
            "'s' takes float64, not BYTES",
        ),
        (
            Schema([TensorSpec(np.dtype("str"), (-1,))]),
            [tensor("s", [b"\xff"], "BYTES")],
            "'s' holds what is not valid UTF-8",
        ),
        (
            Schema([TensorSpec(np.dtype("str"), (-1,))]),
            [tensor("s" * 999, ["x" * 1_000_000, *["a"] * 1000], "BYTES")],
            r"'s{64}\.\.\.' is too large",
        ),
        (None, [tensor("s", [SECRET], "BYTES", content_type="datetime")], "not a date"),
    ],
)
def test_refusals(schema: Any, inputs: list[Tensor], said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        read(schema, *inputs)
    assert SECRET not in str(caught.value)


def test_the_tensor_of_a_signature() -> None:
    schema = Schema([TensorSpec(np.dtype("float64"), (-1, 2))])
    same = tensor("x", [[1.5, 2.5]])
    assert data_of(schema, same) is same.values
    wider = data_of(schema, tensor("x", [[1.5, 2.5]], "FP32"))
    assert (wider.dtype, wider.tolist()) == (np.float64, [[1.5, 2.5]])
    narrower = Schema([TensorSpec(np.dtype("int32"), (-1, 2))])
    assert data_of(narrower, same) is same.values, "MLflow refuses it in its own words"


def test_the_named_tensors_of_a_signature() -> None:
    schema = Schema(
        [
            TensorSpec(np.dtype("float64"), (-1,), "a"),
            TensorSpec(np.dtype("str"), (-1,), "b"),
            TensorSpec(np.dtype("object"), (-1,), "c"),
            TensorSpec(np.dtype("bytes"), (-1,), "d"),
            TensorSpec(np.dtype("datetime64[ns]"), (-1,), "e"),
        ]
    )
    found = data_of(
        schema,
        tensor("b", ["x", "yz"], "BYTES"),
        tensor("a", [1, 2], "INT32"),
        tensor("c", [b"x", b"\xff"], "BYTES"),
        tensor("d", ["x", "yz"], "BYTES"),
        tensor("e", ["2024-02-29"], "BYTES"),
        tensor("more", [1], "INT8"),
    )
    kinds = {name: array.dtype.str for name, array in found.items()}
    expected = {"a": "<f8", "b": "<U2", "c": "|O", "d": "|S2", "e": "<M8[ns]", "more": "|i1"}
    assert kinds == expected
    assert found["c"].tolist() == [b"x", b"\xff"]


def test_the_only_named_tensor_may_be_called_anything() -> None:
    schema = Schema([TensorSpec(np.dtype("float64"), (-1,), "a")])
    assert data_of(schema, tensor("x", [1.5]))["a"].tolist() == [1.5]


def test_no_signature() -> None:
    numbers, text, blob = (
        tensor("n", [[1.5], [2.5]]),
        tensor("t", ["a", b"b"], "BYTES"),
        tensor("b", [b"\xff", "c"], "BYTES"),
    )
    assert data_of(None, numbers) is numbers.values
    assert data_of(None, text).tolist() == ["a", "b"]
    assert data_of(None, blob).tolist() == [b"\xff", b"c"]
    assert list(data_of(None, numbers, text)) == ["n", "t"]
    assert list(data_of(None, numbers, content_type="dict")) == ["n"]
    assert data_of(None, numbers, content_type="np") is numbers.values
    found = frame(None, numbers, text, content_type="pd")
    assert found.to_dict("list") == {"n": [1.5, 2.5], "t": ["a", "b"]}


def test_content_types_of_a_tensor() -> None:
    for said in ({"content_type": "base64"}, {}):
        whole = "" if said else "base64"
        blob = tensor("b", ["AP8=", "QQ=="], "BYTES", **said)
        assert data_of(None, blob, content_type=whole).tolist() == [b"\0\xff", b"A"]
    day = tensor("d", ["2024-02-29T00:00:00Z"], "BYTES", content_type="datetime")
    assert data_of(None, day).dtype == "datetime64[ns]"
    assert frame(None, day, content_type="pd")["d"].dtype == "datetime64[ns]"
    text = tensor("t", [b"\xff"], "BYTES", content_type="str")
    with pytest.raises(InvalidInput, match="UTF-8"):
        data_of(None, text)
    odd = tensor("t", ["x"], "BYTES", content_type=["str"])
    assert data_of(None, odd).tolist() == ["x"]


def test_content_types_of_a_request() -> None:
    two = tensor("a", [1.5]), tensor("b", [1.5])
    with pytest.raises(InvalidInput, match="one input, not 2"):
        read(None, *two, content_type="np")
    with pytest.raises(InvalidInput, match="none of pd, np, dict, str, base64, datetime"):
        read(None, *two, content_type="mine")


def test_models_with_type_hints_take_lists() -> None:
    strings = Schema([ColSpec(DataType.string)])
    for data in (["a", "b"], [["a"], ["b"]]):
        assert data_of(strings, tensor("x", data, "BYTES"), is_raw=True) == ["a", "b"]
    assert data_of(None, tensor("x", [[1.5]]), is_raw=True) == [[1.5]]
    found = data_of(COLUMNS, tensor("a", [1.5]), tensor("b", [2], "INT64"), is_raw=True)
    assert found == [{"a": 1.5, "b": 2}]
    thing = Schema([ColSpec(Object([Property("a", DataType.double)]))])
    mapping = Schema([ColSpec(Map(DataType.double))])
    for schema in (thing, mapping):
        assert data_of(schema, tensor("a", [1.5]), is_raw=True) == [{"a": 1.5}]
    with pytest.raises(InvalidInput, match="one input, not 2"):
        read(strings, tensor("x", [1.5]), tensor("y", [1.5]), is_raw=True)


def test_only_params_that_the_model_knows() -> None:
    params = ParamSchema([ParamSpec("k", DataType.long, 1)])
    reader = tensors.reader_of(None, params, False)
    inputs = [tensor("x", [1.5])]
    assert reader(Tensors(inputs, {"k": 2, "binary_data_output": True}))[2] == {"k": 2}
    assert reader(Tensors(inputs, {"other": 2}))[2] is None
    assert reader(Tensors(inputs))[2] is None
