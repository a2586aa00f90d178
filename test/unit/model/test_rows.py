from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from pyfuncserver.model.rows import (
    NotByRow,
    Rows,
    is_by_row,
    rows_of,
    split,
    stacked,
    takes_rows,
)

FEATURES = TensorSpec(np.dtype("float64"), (-1, 4))
IMAGE = TensorSpec(np.dtype("float64"), (28, 28))


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns)


def rows(data: Any, params: Any = None) -> Rows:
    found = rows_of(data, params, is_by_row=True)
    assert found is not None
    return found


ALIKE: list[tuple[Any, Any]] = [
    (frame(a=[1.0], b=["x"]), frame(a=[2.0, 3.0], b=["y", None])),
    (frame(a=pd.array([1, None], "Int64")), frame(a=pd.array([2], "Int64"))),
    (frame(a=pd.Categorical(["x"], ["x", "y"])), frame(a=pd.Categorical(["y"], ["x", "y"]))),
    (frame(a=pd.to_datetime(["2024-02-29"])), frame(a=pd.to_datetime(["2025-01-01"]))),
    (frame(a=[[1, 2]]), frame(a=[{"x": 1}])),
    (pd.DataFrame({"a": [1]}, index=["p"]), pd.DataFrame({"a": [2]}, index=["q"])),
    (pd.DataFrame({"a": [1]}, index=[0]), pd.DataFrame({"a": [2, 3]}, index=[0, 1])),
    (frame(a=[1]).rename_axis("id"), frame(a=[2, 3]).rename_axis("id")),
    (
        pd.DataFrame({"a": [1]}, index=pd.Index([0], name="id")),
        pd.DataFrame({"a": [2]}, index=pd.Index([0], name="id")),
    ),
    (np.zeros((1, 4)), np.ones((3, 4))),
    (np.zeros((1, 2, 3), "uint8"), np.ones((2, 2, 3), "uint8")),
    (np.array([1, 2]), np.array([3])),
    (np.array([None, "x"]), np.array([1.5], object)),
    ({"a": np.zeros((2, 3)), "b": np.array([1, 2])}, {"a": np.ones((1, 3)), "b": np.array([3])}),
    ([{"a": 1}, {"a": 2}], [{"a": 3}]),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_alike_are_put_under_one_another(one: Any, other: Any) -> None:
    assert rows(one).layout == rows(other).layout
    both = stacked([one, other])
    counts = [rows(one).length, rows(other).length]
    found = rows(both)
    assert (found.length, found.layout) == (sum(counts), rows(one).layout)
    index = both.index if isinstance(both, pd.DataFrame) else None
    for part, was in zip(split(both, counts, index), (one, other), strict=True):
        assert_same(part, was)


def assert_same(part: Any, was: Any) -> None:
    assert type(part) is type(was)
    if isinstance(was, pd.DataFrame):
        pd.testing.assert_frame_equal(part, was, check_index_type="exact")
    elif isinstance(was, pd.Series):
        pd.testing.assert_series_equal(part, was, check_index_type="exact")
    elif isinstance(was, np.ndarray):
        assert part.dtype == was.dtype
        np.testing.assert_array_equal(part, was)
    elif isinstance(was, dict):
        assert list(part) == list(was)
        for name in was:
            assert_same(part[name], was[name])
    else:
        assert part == was


UNLIKE: list[tuple[Any, Any]] = [
    (frame(a=[1.0]), frame(b=[1.0])),
    (frame(a=[1.0], b=[2.0]), frame(b=[2.0], a=[1.0])),
    (frame(a=[1.0]), frame(a=[1])),
    (frame(a=[1.0]), frame(a=[1.0], b=[1.0])),
    (frame(a=pd.Categorical(["x"])), frame(a=pd.Categorical(["y"]))),
    (pd.DataFrame([[1]], columns=[1]), pd.DataFrame([[1]], columns=[1.0])),
    (pd.DataFrame([[1]], columns=[1]), pd.DataFrame([[1]], columns=[True])),
    (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]}, index=["p"])),
    (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]}, index=[0])),
    (frame(a=[1]), frame(a=[1]).rename_axis("id")),
    (pd.DataFrame({"a": [1]}, index=[0]), pd.DataFrame({"a": [1]}, index=[0]).rename_axis("id")),
    (frame(a=[1.0]), np.array([[1.0]])),
    (np.zeros((1, 4)), np.zeros((1, 5))),
    (np.zeros((1, 4)), np.zeros((1, 4), "float32")),
    (np.zeros((1, 4)), np.zeros((1, 4, 1))),
    (np.zeros(3), np.zeros((3, 1))),
    (np.array(["ab"]), np.array(["abc"])),
    ({"a": np.zeros(1)}, {"b": np.zeros(1)}),
    ({"a": np.zeros(1)}, {"a": np.zeros(1, "int64")}),
    ({"a": np.zeros(1)}, np.zeros(1)),
    ([1], np.array([1])),
]


@pytest.mark.parametrize(("one", "other"), UNLIKE)
def test_what_differs_in_more_than_rows_is_not_mixed(one: Any, other: Any) -> None:
    assert rows(one).layout != rows(other).layout


@pytest.mark.parametrize(
    "other",
    [
        None,
        {"k": 2},
        {"k": 1.0},
        {"k": True},
        {"k": "1"},
        {"k": [1]},
        {"j": 1},
        {"k": 1, "j": 1},
        {"k": np.int64(1)},
        {"k": np.array([1])},
        {"k": {"k": 1}},
    ],
)
def test_other_params_are_not_mixed(other: Any) -> None:
    assert rows([1], {"k": 1}).layout != rows([1], other).layout


@pytest.mark.parametrize(
    "params",
    [{"a": 1, "b": [1.5, "x", None, {"c": True}]}, {"a": np.array([[1, 2]])}, {"a": np.float32(1)}],
)
def test_equal_params_are_mixed(params: dict[str, Any]) -> None:
    again = dict(reversed(params.items()))
    assert rows([1], params).layout == rows([1], again).layout
    hash(rows([1], params).layout)


def test_no_params_are_as_good_as_empty_ones() -> None:
    assert rows([1], {}).layout == rows([1], None).layout


class Frame(pd.DataFrame):
    pass


def with_attributes() -> pd.DataFrame:
    attributed = frame(a=[1])
    attributed.attrs["unit"] = "cm"
    return attributed


@pytest.mark.parametrize(
    "data",
    [
        None,
        "text",
        7,
        {"a": 1},
        {"a": np.zeros(2), "b": np.zeros(3)},
        {"a": np.zeros(2), "b": [1, 2]},
        {"a": np.array(1.0)},
        {},
        [],
        np.array(1.0),
        np.zeros((0, 4)),
        np.zeros((1, 4)).view(np.matrix),
        frame(),
        frame(a=[]),
        with_attributes(),
        Frame({"a": [1]}),
        pd.DataFrame({"a": [1, 2]}, index=[5, 6]),
        pd.DataFrame({"a": [1, 2]}, index=[1, 0]),
        pd.DataFrame({"a": [1, 2]}, index=[0, 0]),
        pd.DataFrame({"a": [1]}, index=[1]),
        pd.DataFrame({"a": [1, 2]}, index=[0.0, 1.0]),
        pd.DataFrame({"a": [1]}, index=[False]),
        pd.DataFrame({"a": [1]}, index=pd.Index([0], dtype="int32")),
        pd.DataFrame({"a": [1]}, index=pd.DatetimeIndex([0])),
        pd.DataFrame({"a": [1, 2]}, index=["p", "p"]),
        pd.DataFrame({"a": [1]}, index=pd.Index([{}], dtype=object)),
        pd.DataFrame({"a": [1]}, index=pd.MultiIndex.from_tuples([(1, 2)])),
        pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])),
        pd.Series([1]),
        (1, 2),
    ],
)
def test_what_shows_no_rows_goes_alone(data: Any) -> None:
    assert rows_of(data, is_by_row=True) is None


def test_params_that_cannot_be_compared_go_alone() -> None:
    assert rows_of([1], {"k": object()}, is_by_row=True) is None
    assert rows_of([1], {"k": np.array([object()])}, is_by_row=True) is None


@pytest.mark.parametrize("data", [np.zeros(4), [5.1, 3.5], {"a": np.zeros(4)}])
def test_one_dimension_is_rows_only_where_it_is_said_to_be(data: Any) -> None:
    assert rows_of(data, is_by_row=False) is None
    assert rows(data).length == len(data["a"] if isinstance(data, dict) else data)


def test_two_dimensions_are_rows() -> None:
    assert rows_of(np.zeros((2, 4)), is_by_row=False) == rows(np.zeros((2, 4)))
    assert rows_of(frame(a=[1, 2]), is_by_row=False) == rows(frame(a=[1, 2]))


def test_labels_are_told() -> None:
    assert rows(pd.DataFrame({"a": [1, 2]}, index=["p", "q"])).labels == {"p", "q"}
    assert rows(frame(a=[1, 2])).labels == set()


def test_signature_with_a_fixed_first_dimension_takes_no_rows() -> None:
    assert takes_rows(None)
    assert takes_rows(Schema([ColSpec(DataType.double, "a")]))
    assert takes_rows(Schema([FEATURES]))
    assert not takes_rows(Schema([IMAGE]))
    named = TensorSpec(np.dtype("float64"), (-1,), "a"), TensorSpec(np.dtype("float64"), (3,), "b")
    assert not takes_rows(Schema(list(named)))
    assert takes_rows(Schema([named[0]]))


def test_client_or_signature_says_what_one_dimension_is() -> None:
    assert is_by_row({"instances": [1, 2]}, None)
    assert not is_by_row({"inputs": [1, 2]}, None)
    assert not is_by_row({"inputs": [1]}, Schema([ColSpec(DataType.double, "a")]))
    assert is_by_row({"inputs": [1]}, Schema([TensorSpec(np.dtype("int64"), (-1,))]))
    assert not is_by_row({"inputs": [1]}, Schema([IMAGE]))


ANSWERS: list[Any] = [
    np.arange(6.0),
    np.arange(12).reshape(6, 2),
    list("abcdef"),
    tuple("abcdef"),
    pd.Series(range(6), name="y"),
    frame(a=range(6), b=list("abcdef")),
    pd.Categorical(list("abcabc")),
    pd.Index(list("abcdef")),
    {"label": np.arange(6), "score": [0.1] * 6, "more": {"s": pd.Series(range(6))}},
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_answer_is_cut_where_the_inputs_end(answer: Any) -> None:
    parts = split(answer, [1, 3, 2])
    assert [type(part) for part in parts] == [type(answer)] * 3
    if isinstance(answer, dict):
        assert [len(part["more"]["s"]) for part in parts] == [1, 3, 2]
        assert list(parts[1]["more"]["s"]) == [1, 2, 3]
    else:
        assert [len(part) for part in parts] == [1, 3, 2]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        5,
        np.float64(5),
        np.array(5),
        "abcdef",
        b"abcdef",
        {},
        [1, 2, 3],
        np.zeros((1, 6)),
        {"label": np.arange(6), "version": "3"},
        {"label": np.arange(6), "score": np.arange(5)},
        frame(a=range(6)).sort_index(ascending=False),
        frame(a=range(6), b=list("abcdef")).set_index("b"),
        pd.Series(range(6), index=range(1, 7)),
        iter(range(6)),
        object(),
    ],
)
def test_answer_that_is_not_a_row_for_each_row_is_told(answer: Any) -> None:
    with pytest.raises(NotByRow):
        split(answer, [1, 3, 2])


def test_each_part_of_a_frame_counts_its_own_rows() -> None:
    parts = split(frame(a=[1, 2, 3]), [1, 2])
    for part in parts:
        assert type(part.index) is pd.RangeIndex
        assert list(part.index) == list(range(len(part)))


def test_labels_stay_with_their_rows() -> None:
    one, two = (pd.DataFrame({"a": [1]}, index=[name]) for name in "pq")
    both = stacked([one, two])
    answer = pd.Series([10, 20], index=both.index)
    assert [list(part.index) for part in split(answer, [1, 1], both.index)] == [["p"], ["q"]]
    with pytest.raises(NotByRow):
        split(answer.iloc[::-1], [1, 1], both.index)


COUNTED = pd.Index([0, 1, 2])


@pytest.mark.parametrize(
    "answer",
    [
        pd.Series([1, 2, 3], index=COUNTED, name="y"),
        pd.DataFrame({"y": [1, 2, 3]}, index=COUNTED),
        pd.Series([1, 2, 3]),
    ],
)
def test_each_part_counts_its_own_rows_as_the_answer_does(answer: Any) -> None:
    for part in split(answer, [1, 2], COUNTED):
        assert type(part.index) is type(answer.index)
        assert list(part.index) == list(range(len(part)))


@pytest.mark.parametrize("index", [None, pd.Index(["p", "q", "r"])])
def test_numbers_are_no_index_of_an_input_that_has_another(index: Any) -> None:
    with pytest.raises(NotByRow):  # they may be keys, by which the rows were grouped
        split(pd.Series([1, 2, 3], index=COUNTED), [1, 2], index)


def test_rows_that_were_sorted_are_not_cut() -> None:
    data = pd.DataFrame({"a": [3, 1, 2]}, index=COUNTED)
    with pytest.raises(NotByRow):
        split(data.sort_values("a"), [1, 2], COUNTED)


@pytest.mark.parametrize("order", ["C", "F"])
def test_part_lies_in_memory_as_an_answer_of_its_own(order: Any) -> None:
    answer = np.asarray(np.arange(12, dtype="float32").reshape(6, 2), order=order)
    for part, rows in zip(split(answer, [1, 5]), (1, 5), strict=True):
        alone = np.asarray(np.zeros((rows, 2), "float32"), order=order)
        assert part.flags.c_contiguous == alone.flags.c_contiguous


@given(
    st.lists(st.lists(st.tuples(st.floats(), st.integers(-9, 9)), min_size=1), min_size=1),
)
def test_parts_of_what_was_stacked_are_what_they_were(calls: list[list[tuple[float, int]]]) -> None:
    arrays = [np.array([row[0] for row in call]) for call in calls]
    frames = [
        pd.DataFrame({"x": pd.Series([row[0] for row in call]), "n": [row[1] for row in call]})
        for call in calls
    ]
    counts = [len(call) for call in calls]
    for inputs in (arrays, frames):
        assert len({rows(data).layout for data in inputs}) == 1
        for part, was in zip(split(stacked(inputs), counts), inputs, strict=True):
            assert_same(part, was)
