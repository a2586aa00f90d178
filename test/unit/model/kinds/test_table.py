"""Rows of features: whatever a client sends, what the model gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.kinds.table import Table
from pyfuncserver.model.kinds.texts import records_of, texts_of

NAMED, PLAIN = Table(["a", "b"]), Table(width=2)
SAME: list[Any] = [
    [[1, 2], [3, None]],
    [{"a": 1, "b": 2}, {"a": 3, "b": None}],
    {"a": [1, 3], "b": [2, None]},
    {"a": np.array([[1], [3]]), "b": np.array([2, np.nan], np.float32)},
    np.array([[1, 2], [3, np.nan]], np.float32),
    pd.DataFrame({"a": [1, 3], "b": [2, None]}),
    pd.DataFrame([[1, 2], [3, None]]),
]


@pytest.mark.parametrize("data", SAME)
@pytest.mark.parametrize("table", [NAMED, PLAIN])
def test_all_that_say_the_same(table: Table, data: Any) -> None:
    expected = np.array([[1, 2], [3, np.nan]])
    found = table.array(data, np.float32)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(table.objects(data).astype(float), expected)
    assert table.objects(data).dtype == np.float64


@pytest.mark.parametrize("data", SAME)
def test_a_frame(data: Any) -> None:
    frame = NAMED.frame(data)
    assert list(frame) == ["a", "b"]
    np.testing.assert_array_equal(frame.to_numpy(), np.array([[1, 2], [3, np.nan]]))


@pytest.mark.parametrize(
    "data",
    [
        [{"b": "x", "other": 3, "a": 1}],
        {"b": ["x"], "a": [1], "other": [3]},
        pd.DataFrame({"b": ["x"], "a": [1]}),
        {"a": 1, "b": "x"},
        [[1, "x"]],
    ],
)
def test_a_frame_of_mixed_types(data: Any) -> None:
    frame = NAMED.frame(data)
    assert frame.to_dict("records") == [{"a": 1, "b": "x"}]


def test_types_are_kept_by_column() -> None:
    frame = NAMED.frame([{"a": 1, "b": "x"}, {"a": 2, "b": None}])
    assert frame["a"].dtype == np.int64
    assert frame["b"].tolist()[0] == "x"
    assert pd.isna(frame["b"].tolist()[1])


def test_texts_stay_texts_where_all_are_null_or_numbers() -> None:
    table = Table(["a", "b"], texts={"b"})
    for cell in (None, 3):
        for data in ([[1, cell]], [{"a": 1, "b": cell}]):
            frame = table.frame(data)
            assert frame["b"].dtype == object
            assert frame.to_dict("records") == [{"a": 1, "b": cell}]


@pytest.mark.parametrize("table", [NAMED, PLAIN])
def test_nulls_of_pandas_own(table: Table) -> None:
    frame = pd.DataFrame({name: pd.array([1, None], dtype="Int64") for name in "ab"})
    expected = np.array([[1, 1], [np.nan, np.nan]])
    np.testing.assert_array_equal(table.array(frame, np.float32), expected)
    np.testing.assert_array_equal(table.objects(frame), expected)


def test_names_that_were_saved_without_spaces() -> None:
    table = Table(["length_(cm)", "b"])
    assert table.array([{"length (cm)": 1, "b": 2}], np.float32).tolist() == [[1, 2]]
    assert list(table.frame({"b": [2], "length (cm)": [1]})) == ["length_(cm)", "b"]


def test_names_that_the_model_does_not_know_say_nothing() -> None:
    assert PLAIN.array([{"x": 1, "y": 2}], np.float64).tolist() == [[1, 2]]


def test_one_feature_needs_no_rows_of_lists() -> None:
    assert Table(width=1).array([1, 2], np.float64).tolist() == [[1], [2]]
    assert Table(["a"]).frame([1, 2])["a"].tolist() == [1, 2]


def test_rows_of_a_model_that_does_not_tell_its_features() -> None:
    assert Table().objects([[1], [2]]).tolist() == [[1], [2]]
    assert Table().objects([["x"], ["y"]]).tolist() == [["x"], ["y"]]
    assert Table().objects([1, 2]).tolist() == [1, 2]


REFUSED: list[tuple[Any, str]] = [
    ([[1, 2, 3]], "takes 2 features, and the rows have 3"),
    ([1, 2], "is no list of rows"),
    ([[[1, 2]]], "is no list of rows"),
    ([[1, 2], [3]], "one length"),
    ([{"a": 1, "b": 2}, {"a": 3}], "not all the same names"),
    ({"a": [1, 2], "b": 3}, "neither all lists nor all single"),
    ({"a": [1, 2], "b": [3]}, "several numbers of rows"),
    ({"a": [[1, 2]], "b": [[3, 4]]}, "more than one value"),
    ({}, "neither all lists nor all single"),
]


@pytest.mark.parametrize(("data", "said"), REFUSED)
@pytest.mark.parametrize("read", ["array", "objects", "frame"])
def test_what_is_refused(data: Any, said: str, read: str) -> None:
    table = NAMED if read == "frame" else PLAIN
    how = [np.float32] if read == "array" else []
    with pytest.raises(InvalidInput, match=said):
        getattr(table, read)(data, *how)


def test_numbers_that_are_too_large() -> None:
    for value in (1e300, 10**400):
        with pytest.raises(InvalidInput, match="a number that is too large"):
            PLAIN.array([[value, 1]], np.float32)
    assert PLAIN.array([[np.inf, 1]], np.float32).tolist() == [[np.inf, 1]]


def test_one_long_text_does_not_lengthen_the_others() -> None:
    """NumPy's own strings are all as long as the longest: here that would be 4 TB."""
    long = "x" * 10**6
    texts = [long, *["y"] * 10**6]
    assert len(texts_of(texts)) == len(texts)
    assert NAMED.frame({"a": texts, "b": texts}).shape == (len(texts), 2)
    assert PLAIN.objects([[1, text] for text in texts]).shape == (len(texts), 2)


def test_cells_that_are_neither_numbers_nor_texts() -> None:
    for read in (PLAIN.objects, NAMED.frame):
        with pytest.raises(InvalidInput, match="neither numbers nor texts"):
            read([[1, {"a": 2}]])


def test_features_that_are_missing() -> None:
    many = Table([f"f{place}" for place in range(8)])
    with pytest.raises(InvalidInput, match="lack features of the model: f1, f2, f3, f4, f5 and 2"):
        many.array([{"f0": 1}], np.float32)


def test_a_text_among_numbers_is_not_repeated() -> None:
    with pytest.raises(InvalidInput, match="no number") as raised:
        PLAIN.array([["secret", 1]], np.float32)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "data",
    [
        ["x", "y"],
        [["x"], ["y"]],
        [{"any": "x"}, {"any": "y"}],
        {"any": ["x", "y"]},
        pd.DataFrame({"any": ["x", "y"]}),
        pd.DataFrame([["x"], ["y"]]),
        np.array(["x", "y"], object),
    ],
)
def test_texts(data: Any) -> None:
    assert texts_of(data) == ["x", "y"]


def test_a_text() -> None:
    assert texts_of("x") == ["x"]


@pytest.mark.parametrize("data", [[1], [["x", "y"]], [], {"a": ["x"], "b": ["y"]}, [None]])
def test_what_are_no_texts(data: Any) -> None:
    with pytest.raises(InvalidInput):
        texts_of(data)


def test_texts_by_name() -> None:
    names = ("question", "context")
    expected = [{"question": "q", "context": "c"}]
    assert records_of(expected, names) == expected
    assert records_of({"text_input": "q", "context": "c"}, names) == expected
    for data in ([["q", "c"]], [{"question": "q"}], {"question": ["q", "r"], "context": ["c"]}):
        with pytest.raises(InvalidInput):
            records_of(data, names)
