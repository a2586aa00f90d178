"""What is not shown by ``test_scoring_differential.py``: what MLflow cannot write, and speed."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyfuncserver.codec import scoring


def written(value: Any) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"a bare {name}")

    return json.loads(scoring.dumps(value), parse_constant=refuse)


@pytest.mark.parametrize(("value", "expected"), [
    (math.nan, None),
    ([math.inf, -math.inf], [None, None]),
    (np.array([0.5, math.nan], "f4"), [0.5, None]),
    ([np.float64(math.nan)], [None]),
    ({10**30: [math.nan, b"\xff"]}, {"1" + "0" * 30: [None, "/w==\n"]}),
    (pd.DataFrame({"a": [1.5, math.nan]}), [{"a": 1.5}, {"a": None}]),
])  # fmt: skip
def test_no_number_is_null(value: Any, expected: Any) -> None:
    assert written(value) == expected


def test_what_mlflow_cannot_write() -> None:
    assert written([pd.NA, {1}]) == [None, [1]]
    assert written({"frame": pd.DataFrame({"a": [1]})}) == {"frame": [{"a": 1}]}
    assert written(pd.DataFrame({"a": pd.array([1, None], "Int64")})) == [{"a": 1}, {"a": None}]
    assert written([np.longdouble(1.5)]) == [1.5]
    assert written(np.array([1.5], np.longdouble)) == [1.5]


@pytest.mark.parametrize("value", [object(), [1j], pd.DataFrame([[1]], columns=[("a", "b")])])
def test_what_no_json_can_hold(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        scoring.dumps(value)


def test_of_two_columns_of_one_name_the_last_stays() -> None:
    assert written(pd.DataFrame([[1, 2]], columns=["a", "a"])) == [{"a": 2}]
    assert written(pd.DataFrame([[1, 2, 3]], columns=[True, 1, "1"])) == [{"true": 2, "1": 3}]


@pytest.mark.parametrize("text", ["1" * 19, "-" + "1" * 25, "18446744073709551616", "0.1", "-0"])
def test_numbers_are_read_as_the_standard_library_reads_them(text: str) -> None:
    found, expected = scoring.loads(f"[{text}]".encode()), json.loads(f"[{text}]")
    assert repr(found) == repr(expected)


def test_what_is_no_json() -> None:
    for body in (b"", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(ValueError, match=r"."):
            scoring.loads(body)
