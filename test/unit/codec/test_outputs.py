from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyfuncserver.codec.outputs import tensors_of

Found = list[tuple[str, str, list[int], Any]]


def found(value: Any, *names: str) -> Found:
    return [
        (t.name, t.datatype, list(t.values.shape), t.values.tolist())
        for t in tensors_of(value, names)
    ]


def one(value: Any) -> tuple[str, list[int], Any]:
    ((name, datatype, shape, values),) = found(value)
    assert name == "output-0"
    return datatype, shape, values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.ones((2, 2), "f4"), ("FP32", [2, 2], [[1, 1], [1, 1]])),
        (np.zeros((0, 3), "f2"), ("FP16", [0, 3], [])),
        (np.array(5), ("INT64", [1], [5])),
        (np.array([True]), ("BOOL", [1], [True])),
        (np.array(["a", "bc"]), ("BYTES", [2], ["a", "bc"])),
        (np.array([b"a"]), ("BYTES", [1], [b"a"])),
        (np.array([1.5], np.longdouble), ("FP64", [1], [1.5])),
        (np.array(["2024-02-29", "NaT"], "M8[D]"), ("BYTES", [2], ["2024-02-29T00:00:00", None])),
        (np.array([90], "m8[s]"), ("BYTES", [1], ["P0DT0H1M30S"])),
        (np.array(["a", 1.5], object)[1:], ("FP64", [1], [1.5])),
        ([1, 2], ("INT64", [2], [1, 2])),
        ([[1, 2.5], [3, 4]], ("FP64", [2, 2], [[1, 2.5], [3, 4]])),
        ((1, 2), ("INT64", [2], [1, 2])),
        (["a", "bcd"], ("BYTES", [2], ["a", "bcd"])),
        ([["a"], ["bcd"]], ("BYTES", [2, 1], [["a"], ["bcd"]])),
        ([b"a\0", "b"], ("BYTES", [2], [b"a\0", "b"])),
        ([True, False], ("BOOL", [2], [True, False])),
        ([1, None], ("FP64", [2], [1, None])),
        ([2**63], ("UINT64", [1], [2**63])),
        ([decimal.Decimal("0.5"), 1], ("FP64", [2], [0.5, 1])),
        ([datetime.date(2024, 2, 29)], ("BYTES", [1], ["2024-02-29"])),
        ([np.float32(1), np.float32(2)], ("FP32", [2], [1, 2])),
        ([np.array([1, 2]), np.array([3, 4])], ("INT64", [2, 2], [[1, 2], [3, 4]])),
        ([], ("FP64", [0], [])),
        ("text", ("BYTES", [1], ["text"])),
        (b"\xff", ("BYTES", [1], [b"\xff"])),
        (3, ("INT64", [1], [3])),
        (True, ("BOOL", [1], [True])),
        (np.float32(3), ("FP32", [1], [3])),
        (None, ("BYTES", [1], [None])),
        (datetime.time(1, 2), ("BYTES", [1], ["01:02:00"])),
        (datetime.timedelta(hours=1), ("BYTES", [1], ["P0DT1H0M0S"])),
        (pd.Series([1, 2]), ("INT64", [2], [1, 2])),
        (pd.Index(["a"]), ("BYTES", [1], ["a"])),
        (pd.array([1, 2], "Int16"), ("INT16", [2], [1, 2])),
        (pd.array([1, None], "Int64"), ("FP64", [2], [1, None])),
        (pd.array([True, None], "boolean"), ("FP64", [2], [1, None])),
        (pd.array([True, False], "boolean"), ("BOOL", [2], [True, False])),
        (pd.array(["a", None], "string"), ("BYTES", [2], ["a", None])),
        (pd.Categorical(["u", "v", "u"]), ("BYTES", [3], ["u", "v", "u"])),
        (pd.Categorical([5, None]), ("FP64", [2], [5, None])),
    ],
)
def test_one_output(value: Any, expected: tuple[str, list[int], Any]) -> None:
    datatype, shape, values = one(value)
    nan_is_null = [None if cell != cell else cell for cell in values]  # noqa: PLR0124
    assert (datatype, shape, nan_is_null) == expected


def test_columns_of_a_frame() -> None:
    frame = pd.DataFrame(
        {
            "n": np.array([1, 2], "i4"),
            "s": ["x", None],
            "t": pd.to_datetime(["2024-02-29T12:30:15Z", None], utc=True),
            "l": [[1, 2], [3, 4]],
        }
    )
    n, s, t, lists = tensors_of(frame, ["these", "do", "not", "count"])
    assert (n.name, n.datatype, n.values.tolist()) == ("n", "INT32", [1, 2])
    assert (s.name, s.datatype, s.values.tolist()) == ("s", "BYTES", ["x", None])
    assert t.values.tolist() == ["2024-02-29T12:30:15+00:00", None]
    assert t.parameters == {"content_type": "datetime"}
    assert (lists.datatype, lists.values.tolist()) == ("INT64", [[1, 2], [3, 4]])


def test_names() -> None:
    table = np.array([[1, 2], [3, 4]])
    assert found(table, "a", "b") == [("a", "INT64", [2], [1, 3]), ("b", "INT64", [2], [2, 4])]
    assert found(table, "a") == [("a", "INT64", [2, 2], [[1, 2], [3, 4]])]
    assert found(table, "a", "b", "c")[0][0] == "output-0"
    assert found(pd.Series([1], name="s"))[0][0] == "s"
    assert found(pd.Series([1], name="s"), "a")[0][0] == "a"
    assert [name for name, *_ in found(pd.DataFrame(table))] == ["output-0", "output-1"]
    assert [name for name, *_ in found(pd.DataFrame(table), "a", "b")] == ["a", "b"]
    assert found({"p": [1], 2: 0.5}) == [("p", "INT64", [1], [1]), ("2", "FP64", [1], [0.5])]
    assert found([{"a": 1, "b": "x"}, {"a": 2}]) == [
        ("a", "INT64", [2], [1, 2]),
        ("b", "BYTES", [2], ["x", None]),
    ]
    assert found(pd.DataFrame()) == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, "a"], "output 'output-0': no datatype holds int and str"),
        ([[1], [2, 3]], "several lengths"),
        ({"p": [{"a": 1}]}, "output 'p': no datatype holds dict"),
        (np.array([1j]), "no datatype holds complex128"),
        ([2**64], "beyond 64 bits"),
        (object(), "no datatype holds object"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two outputs have one name"),
        (pd.Series([[1], [2, 3]]), "its cells have several lengths"),
        (pd.Series([[1], None]), "some cells are lists, others null"),
    ],
)
def test_what_no_tensor_holds(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tensors_of(value)


def test_a_long_text_in_nested_lists_takes_no_memory() -> None:
    """NumPy's strings would take 20 GB."""
    long = "x" * 1_000_000
    datatype, shape, values = one([[long], *[["a"]] * 5000])
    assert (datatype, shape, values[0]) == ("BYTES", [5001, 1], [long])
