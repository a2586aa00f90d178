from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyfuncserver.codec import json, seldon
from pyfuncserver.codec.seldon import ARRAYS, Kind, Message, Meta, answer_of, body_of

NDARRAY, TENSOR = Message(Kind.NDARRAY, []), Message(Kind.TENSOR, np.zeros(0))


def written(message: Message) -> Any:
    return json.loads(json.dumps(body_of(message)))


def test_a_request_with_an_array() -> None:
    body = {"data": {"names": ["a"], "ndarray": [[1]]}, "meta": {"tags": {"x": 1}}}
    found = seldon.message_from(body, "p")
    assert (found.kind, found.value, found.names) == (Kind.NDARRAY, [[1]], ("a",))
    assert found.meta == Meta("p", {"x": 1})


def test_a_tensor_keeps_whole_numbers() -> None:
    for values, kind in (
        ([1, 2], "i"),
        ([1, 2.5], "f"),
        ([1, "NaN"], "f"),
        ([1, None], "f"),
        ([True, False], "f"),
    ):
        body = {"data": {"tensor": {"shape": [2, 1], "values": values}}}
        found = seldon.message_from(body).value
        assert (found.shape, found.dtype.kind) == ((2, 1), kind)


def test_an_empty_tensor() -> None:
    assert seldon.message_from({"data": {"tensor": {"shape": [0, 3]}}}).value.shape == (0, 3)


@pytest.mark.parametrize("values", [[[1], [2]], ["x"], [{}], [10**400], 5])
def test_what_is_no_tensor(values: Any) -> None:
    with pytest.raises(ValueError, match=r"data\.tensor"):
        seldon.message_from({"data": {"tensor": {"values": values}}})


@pytest.mark.parametrize("shape", [
    [10**18] * 100_000,  # whose product takes half a minute
    [1] * 33, [0, 10**18], [0, 2**62, 2**62], [0, 2**64], [2**62, 2**62], [-1], [1.5], [True],
])  # fmt: skip
def test_what_is_no_shape(shape: Any) -> None:
    with pytest.raises(ValueError, match=r"data\.tensor"):
        seldon.message_from({"data": {"tensor": {"shape": shape, "values": []}}})


def test_a_long_text_among_a_tensors_values_takes_no_memory() -> None:
    values = ["1." + "0" * 100_000, *[1] * 100_000]  # 40 GB, as NumPy's strings
    found = seldon.message_from({"data": {"tensor": {"values": values}}}).value
    assert (found.dtype, found.sum()) == (np.float64, 100_001)


def test_nulls_count_as_nothing_but_in_jsondata() -> None:
    assert seldon.message_from({"strData": "", "binData": None}).kind is Kind.STRING
    assert seldon.message_from({"jsonData": None}).kind is Kind.JSON
    assert seldon.message_from({"jsonData": None, "strData": "a"}).value == "a"


def test_feedback_takes_its_id_from_the_prediction() -> None:
    found = seldon.feedback_from({"response": {"meta": {"puid": "r"}}}, "made")
    assert found.request.meta.puid == "r"
    found = seldon.feedback_from({"request": {"meta": {"puid": "q"}, "strData": "a"}}, "made")
    assert (found.request.meta.puid, found.truth.kind, found.reward) == ("q", Kind.NONE, 0.0)
    assert seldon.feedback_from({}, "made").request.meta.puid == "made"


ANSWERS: list[tuple[Any, Message, Any]] = [
    (np.array([[1.5, 2]]), NDARRAY, {"names": ["t:0", "t:1"], "ndarray": [[1.5, 2.0]]}),
    (np.array([[1, 2]]), TENSOR,
     {"names": ["t:0", "t:1"], "tensor": {"shape": [1, 2], "values": [1, 2]}}),
    (np.array([1, 2]), NDARRAY, {"names": [], "ndarray": [1, 2]}),
    ([0.5, 1], TENSOR, {"names": [], "tensor": {"shape": [2], "values": [0.5, 1.0]}}),
    (["a", "b"], TENSOR, {"names": [], "ndarray": ["a", "b"]}),
    ([["a", 1], ["b", 2]], NDARRAY, {"names": ["t:0", "t:1"], "ndarray": [["a", 1], ["b", 2]]}),
    ([[1], [1, 2]], TENSOR, {"names": [], "ndarray": [[1], [1, 2]]}),
    (3.5, NDARRAY, {"names": [], "ndarray": [3.5]}),
    (np.float32(1.5), TENSOR, {"names": [], "tensor": {"shape": [1], "values": [1.5]}}),
    (True, TENSOR, {"names": [], "ndarray": [True]}),
    (None, NDARRAY, {"names": [], "ndarray": [None]}),
    (pd.DataFrame({"x": [1, 2], 0: ["a", None]}), NDARRAY,
     {"names": ["x", "0"], "ndarray": [[1, "a"], [2, None]]}),
    (pd.DataFrame({"x": [1], "y": [0.5]}), NDARRAY, {"names": ["x", "y"], "ndarray": [[1, 0.5]]}),
    (pd.DataFrame({"x": [1], "y": [0.5]}), TENSOR,
     {"names": ["x", "y"], "tensor": {"shape": [1, 2], "values": [1.0, 0.5]}}),
    (pd.DataFrame({"x": pd.array([1, None], "Int64")}), TENSOR,
     {"names": ["x"], "tensor": {"shape": [2, 1], "values": [1.0, "NaN"]}}),
    (pd.DataFrame({"x": [True]}), TENSOR, {"names": ["x"], "ndarray": [[True]]}),
    (pd.Series([1, 2], name="s"), TENSOR,
     {"names": ["s"], "tensor": {"shape": [2], "values": [1, 2]}}),
    (pd.Series(["a"]), TENSOR, {"names": [], "ndarray": ["a"]}),
    (np.array([np.inf, -np.inf]), TENSOR,
     {"names": [], "tensor": {"shape": [2], "values": ["Infinity", "-Infinity"]}}),
    (np.array([np.nan]), NDARRAY, {"names": [], "ndarray": [None]}),
    (np.array(["2020-01-01"], "datetime64[s]"), TENSOR,
     {"names": [], "ndarray": ["2020-01-01T00:00:00"]}),
]  # fmt: skip


@pytest.mark.parametrize(("value", "request_", "expected"), ANSWERS)
def test_an_answer_is_framed_as_its_request(value: Any, request_: Message, expected: Any) -> None:
    assert written(answer_of(value, request_))["data"] == expected


@pytest.mark.parametrize(("value", "expected"), [
    ({"a": np.array([1])}, {"jsonData": {"a": [1]}}),
    ("text", {"strData": "text"}),
    (b"\0", {"binData": "AA=="}),
])  # fmt: skip
def test_what_is_no_array(value: Any, expected: Any) -> None:
    for kind in ARRAYS:
        assert written(answer_of(value, Message(kind))) == {**expected, "meta": {}}


def test_a_request_that_was_no_array_is_answered_by_a_tensor() -> None:
    for request in (Message(Kind.STRING, "a"), seldon.NOTHING):
        assert answer_of([1.5], request).kind is Kind.TENSOR


def test_names_are_the_signatures_where_they_fit() -> None:
    assert answer_of(np.ones((1, 2)), NDARRAY, ("x", "y")).names == ("x", "y")
    assert answer_of(np.ones((1, 3)), NDARRAY, ("x", "y")).names == ("t:0", "t:1", "t:2")
    assert answer_of(np.ones(2), NDARRAY, ("x",)).names == ("x",)
    assert answer_of(pd.DataFrame({"own": [1]}), NDARRAY, ("x",)).names == ("own",)


def test_the_meta_goes_back() -> None:
    request = Message(Kind.STRING, "a", meta=Meta("p", {"t": 1}, {"r": 2}, {"m": "i"}))
    assert written(answer_of("b", request))["meta"] == {
        "puid": "p",
        "tags": {"t": 1},
        "routing": {"r": 2},
        "requestPath": {"m": "i"},
    }


def test_a_long_text_among_an_answers_takes_no_memory() -> None:
    """NumPy's strings would take 20 GB."""
    texts = ["x" * 1_000_000, *["a"] * 5000]
    assert answer_of(texts, TENSOR) == Message(Kind.NDARRAY, texts)
    assert answer_of([texts], NDARRAY).value == [texts]
