from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json as std
import math
import sys
import types
import uuid
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyfuncserver.codec import json

UTC = datetime.timezone.utc
MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 15, tzinfo=UTC)
OBJECTS = np.array([1, "a", None, b"\x00"], dtype=object)


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 3


@dataclasses.dataclass
class Point:
    x: float
    tags: list[str]


class Model(pydantic.BaseModel):
    name: str
    when: datetime.date
    point: Point


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is not JSON")


def through(value: object) -> Any:
    """Write a value, and read it by the standard library as strictly as JSON is."""
    return std.loads(json.dumps(value), parse_constant=refuse)


def through_slowly(value: object) -> Any:
    """The same, beside a key that orjson refuses, so that the other writer does the work."""
    return through({1: value})["1"]


CASES: dict[str, tuple[Any, Any]] = {
    # Python's own
    "none": (None, None),
    "nan": (math.nan, None),
    "infinity": (math.inf, None),
    "minus infinity": (-math.inf, None),
    "tuple": ((1, "a"), [1, "a"]),
    "set of one": ({1}, [1]),
    "frozenset": (frozenset(["a"]), ["a"]),
    "bytes": (b"\x00\xff", {"b64": "AP8="}),
    "bytearray": (bytearray(b"\x00"), {"b64": "AA=="}),
    "memoryview": (memoryview(b"\x00"), {"b64": "AA=="}),
    "beyond 64 bits": (2**70, 2**70),
    "below 64 bits": (-(2**70), -(2**70)),
    "uint64": (2**64 - 1, 2**64 - 1),
    "lone surrogate": ("a\ud800", "a\ud800"),
    "decimal": (decimal.Decimal("1.5"), 1.5),
    "decimal nan": (decimal.Decimal("NaN"), None),
    "enum": (Colour.RED, "red"),
    "int enum": (Size.BIG, 3),
    "uuid": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "mapping": (types.MappingProxyType({"a": 1}), {"a": 1}),
    "dataclass": (Point(1.5, ["a"]), {"x": 1.5, "tags": ["a"]}),
    "pydantic": (
        Model(name="n", when=MOMENT.date(), point=Point(0.5, [])),
        {"name": "n", "when": "2024-02-29", "point": {"x": 0.5, "tags": []}},
    ),
    "date": (MOMENT.date(), "2024-02-29"),
    "datetime": (MOMENT, "2024-02-29T12:30:15+00:00"),
    "naive datetime": (MOMENT.replace(tzinfo=None), "2024-02-29T12:30:15"),
    "time": (datetime.time(12, 30), "12:30:00"),
    "time with zone": (datetime.time(12, 30, tzinfo=UTC), "12:30:00+00:00"),
    "timedelta": (datetime.timedelta(days=1, seconds=2), "P1DT0H0M2S"),
    # NumPy scalars
    "bool_": (np.bool_(True), True),
    "float16": (np.float16(1.5), 1.5),
    "float32": (np.float32(0.5), 0.5),
    "float64 nan": (np.float64("nan"), None),
    "longdouble": (np.longdouble(1.5), 1.5),
    "longdouble infinity": (np.longdouble("inf"), None),
    "int8": (np.int8(-3), -3),
    "np.uint64": (np.uint64(2**64 - 1), 2**64 - 1),
    "str_": (np.str_("ä"), "ä"),
    "bytes_": (np.bytes_(b"\x00a"), {"b64": "AGE="}),
    "datetime64": (np.datetime64("2024-02-29T12:30:15"), "2024-02-29T12:30:15"),
    "datetime64 NaT": (np.datetime64("NaT", "s"), None),
    "timedelta64": (np.timedelta64(1, "D"), "P1DT0H0M0S"),
    "timedelta64 NaT": (np.timedelta64("NaT", "s"), None),
    # NumPy arrays
    "0-d": (np.array(1.5), 1.5),
    "0-d nan": (np.array(math.nan), None),
    "0-d date": (np.array("2024-02-29", dtype="M8[D]"), "2024-02-29T00:00:00"),
    "0-d object": (np.array("x", dtype=object), "x"),
    "0-d str": (np.array("x"), "x"),
    "empty": (np.zeros((0, 3)), []),
    "rows without columns": (np.zeros((2, 0)), [[], []]),
    "2-d": (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
    "strided": (np.arange(6.0)[::2], [0.0, 2.0, 4.0]),
    "reversed": (np.arange(3)[::-1], [2, 1, 0]),
    "transposed": (np.array([[1, 2], [3, 4]]).T, [[1, 3], [2, 4]]),
    "big-endian": (np.array([1.5, math.nan], dtype=">f4"), [1.5, None]),
    "big-endian integers": (np.array([1, 258], dtype=">i2"), [1, 258]),
    "float16 array": (np.array([1.5, math.inf], dtype="f2"), [1.5, None]),
    "longdouble array": (np.array([1.5, math.nan], dtype=np.longdouble), [1.5, None]),
    "longdouble strided": (np.array([1.5, 2, 3], dtype=np.longdouble)[::2], [1.5, 3.0]),
    "bools": (np.array([True, False]), [True, False]),
    "uint64 array": (np.array([2**64 - 1], dtype="u8"), [2**64 - 1]),
    "nan array": (np.array([1, math.nan, math.inf, -math.inf]), [1.0, None, None, None]),
    "strings": (np.array(["a", "ä"]), ["a", "ä"]),
    "byte strings": (np.array([b"a"]), [{"b64": "YQ=="}]),
    "objects": (OBJECTS, [1, "a", None, {"b64": "AA=="}]),
    "arrays in objects": (np.array([np.arange(2), None], dtype=object), [[0, 1], None]),
    "dates": (np.array(["2024-02-29", "NaT"], dtype="M8[D]"), ["2024-02-29T00:00:00", None]),
    "dates in 2-d": (np.array([["NaT"]], dtype="M8[ns]"), [[None]]),
    "durations": (
        np.array([np.timedelta64(1, "h"), np.timedelta64("NaT", "h")]),
        ["P0DT1H0M0S", None],
    ),
    "structured": (np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]), [[1, 2.5]]),
    "masked integers": (np.ma.array([1, 2], mask=[False, True]), [1, None]),
    # pandas
    "NA": (pd.NA, None),
    "NaT": (pd.NaT, None),
    "timestamp": (pd.Timestamp(MOMENT), "2024-02-29T12:30:15+00:00"),
    "pandas timedelta": (pd.Timedelta("1s"), "P0DT0H0M1S"),
    "series": (pd.Series([1.5, math.nan]), [1.5, None]),
    "integers with NA": (pd.Series([1, None], dtype="Int64"), [1, None]),
    "booleans with NA": (pd.Series([True, None], dtype="boolean"), [True, None]),
    "series of dates": (
        pd.Series(pd.to_datetime(["2024-02-29", None])),
        ["2024-02-29T00:00:00", None],
    ),
    "categorical series": (pd.Series(["a", None], dtype="category"), ["a", None]),
    "index": (pd.Index([1, 2]), [1, 2]),
    "date index": (pd.DatetimeIndex(["2024-02-29"]), ["2024-02-29T00:00:00"]),
    "frame": (
        pd.DataFrame({"n": [1, 2], "s": ["x", None], "f": [0.5, math.nan]}),
        [{"n": 1, "s": "x", "f": 0.5}, {"n": 2, "s": None, "f": None}],
    ),
    "frame of other types": (
        pd.DataFrame(
            {
                "c": pd.Categorical(["a", None]),
                "t": pd.to_datetime(["2024-02-29", None], utc=True),
                "b": [b"\x00", None],
            }
        ),
        [
            {"c": "a", "t": "2024-02-29T00:00:00+00:00", "b": {"b64": "AA=="}},
            {"c": None, "t": None, "b": None},
        ],
    ),
    "frame with numbered columns": (pd.DataFrame([[1, 2.5]]), [{"0": 1, "1": 2.5}]),
    "frame with an index": (pd.DataFrame({"a": [1]}, index=["row"]), [{"a": 1}]),
    "empty frame": (pd.DataFrame({"a": []}), []),
    "series of objects": (pd.Series([{"a": np.int64(1)}]), [{"a": 1}]),
    # What pandas gives where it was handed arrays and not series
    "categorical": (pd.Categorical(["a", None]), ["a", None]),
    "unique of strings": (pd.Series(["a", "b"]).unique(), ["a", "b"]),
    "extension array": (pd.array([1, None], dtype="Int64"), [1, None]),
}


@pytest.mark.parametrize(("value", "expected"), CASES.values(), ids=CASES)
def test_value(value: object, expected: object) -> None:
    written = through(value)
    assert written == expected
    assert repr(written) == repr(expected), "integers stay integers, floats stay floats"


@pytest.mark.parametrize(("value", "expected"), CASES.values(), ids=CASES)
def test_value_inside(value: object, expected: object) -> None:
    assert through({"a": [value]}) == {"a": [expected]}


@pytest.mark.parametrize(("value", "expected"), CASES.values(), ids=CASES)
def test_value_beside_what_orjson_refuses(value: object, expected: object) -> None:
    written = through_slowly(value)
    assert written == expected
    assert repr(written) == repr(expected)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("write", [through, through_slowly])
def test_matrix(write: Any) -> None:
    assert write(np.matrix([[1, 2]])) == [[1, 2]]


def test_set() -> None:
    assert sorted(through({1, 2, 3})) == [1, 2, 3]


KEYS: list[tuple[Any, str]] = [
    (1, "1"),
    (2**70, str(2**70)),
    (1.5, "1.5"),
    (True, "true"),
    (None, "null"),
    (np.int64(3), "3"),
    (np.str_("s"), "s"),
    (MOMENT.date(), "2024-02-29"),
    (Colour.RED, "red"),
    ("\ud800", "\ud800"),
]


@pytest.mark.parametrize(("key", "expected"), KEYS, ids=repr)
def test_key(key: object, expected: str) -> None:
    assert through({key: np.float32(0.5)}) == {expected: 0.5}


@pytest.mark.parametrize("key", [(1, 2), b"x"])
def test_key_that_json_cannot_hold(key: object) -> None:
    with pytest.raises(TypeError, match=type(key).__name__):
        json.dumps({key: 1})


def test_private_field_of_a_dataclass_does_not_depend_on_its_neighbours() -> None:
    secretive = dataclasses.make_dataclass("Secretive", [("a", int), ("_b", int)])
    assert through(secretive(1, 2)) == through_slowly(secretive(1, 2))


COLUMNS: dict[str, Any] = {
    "float32": np.array([0.1, np.nan, np.inf], "float32"),
    "uint64": np.array([1, 2, 2**64 - 1], "uint64"),
    "longdouble": np.array([1, 2, 3], "longdouble"),
    "bool": [True, False, True],
    "string": ["x", None, "y"],
    "object": [[1], {"a": np.int64(1)}, (1, None)],
    "Int64": pd.array([1, None, 3], "Int64"),
    "boolean": pd.array([True, None, False], "boolean"),
    "category": pd.Categorical(["a", "b", None]),
    "datetime": pd.to_datetime(["2020-01-01", None, "2021-01-01"]),
    "zoned": pd.to_datetime(["2020-01-01", None, "2021-01-01"]).tz_localize("Europe/Paris"),
    "timedelta": pd.to_timedelta([1, None, 3], "s"),
    "sparse": pd.arrays.SparseArray([0.0, 1.0, np.nan]),
    "decimal": [decimal.Decimal("1.5")] * 3,
    "large": [2**70, 1, 2],
}


@pytest.mark.parametrize("names", [*([name] for name in COLUMNS), list(COLUMNS)], ids=str)
def test_a_row_of_a_frame_is_the_same_among_few_and_among_many(names: list[str]) -> None:
    few = pd.DataFrame({name: COLUMNS[name] for name in names})
    many = few.take(list(range(3)) * 100)
    assert std.loads(json.dumps(many)) == std.loads(json.dumps(few)) * 100


def test_columns_of_one_name_are_not_dropped_silently() -> None:
    frame = pd.DataFrame([[1, 2]], columns=["a", "a"])
    try:
        written = json.dumps(frame)
    except (TypeError, ValueError) as error:
        assert "a" in str(error)  # noqa: PT017  refused, or both are there
    else:
        assert b"1" in written
        assert b"2" in written


def list_in_itself() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def dict_in_itself() -> Any:
    value: dict[str, Any] = {}
    value["a"] = [value]
    return value


def array_in_itself() -> Any:
    value = np.empty(1, dtype=object)
    value[0] = value
    return value


@pytest.mark.parametrize("make", [list_in_itself, dict_in_itself, array_in_itself])
def test_value_that_contains_itself(make: Any) -> None:
    with pytest.raises(ValueError, match="contains itself"):
        json.dumps(make())


@pytest.mark.parametrize("depth", [300, 600, 1024])
def test_what_can_be_read_can_be_written(depth: int) -> None:
    for body in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
        limit = sys.getrecursionlimit()
        assert json.dumps(json.loads(body)) == body
        assert sys.getrecursionlimit() == limit


def test_nesting_deeper_than_orjsons_limit() -> None:
    value: Any = 1
    for _ in range(260):
        value = [value]
    assert through(value) == value


@pytest.mark.parametrize(
    "value",
    [1j, np.complex64(1j), np.array([1j]), object(), object, len, {"a": [object()]}],
    ids=lambda value: type(value).__name__,
)
def test_unknown_type_is_named(value: object) -> None:
    with pytest.raises(TypeError, match=r"complex|object|type|builtin_function_or_method"):
        json.dumps(value)


def test_no_carriage_of_numpy_flags_between_arrays() -> None:
    base = np.arange(12, dtype="i4").reshape(3, 4)
    assert through([base, base.T, base[:, 1], np.asfortranarray(base)]) == [
        base.tolist(),
        base.T.tolist(),
        base[:, 1].tolist(),
        base.tolist(),
    ]


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_integer_types_to_their_bounds(kind: str) -> None:
    bounds = np.iinfo(kind)
    for order in "<>":
        values = np.array([bounds.min, bounds.max], dtype=order + kind)
        assert through(values) == [bounds.min, bounds.max]
        assert through(values[1]) == bounds.max


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**80), max_value=2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(max_examples=100)
@given(PLAIN)
def test_plain_value_comes_back(value: object) -> None:
    assert through(value) == value
    assert through_slowly(value) == value


@settings(max_examples=100)
@given(st.lists(st.floats(width=64)), st.sampled_from(["f2", "f4", "f8", ">f8", "longdouble"]))
def test_array_is_written_as_its_numbers_would_be(numbers: list[float], kind: str) -> None:
    with np.errstate(over="ignore"):
        array = np.array(numbers, dtype=kind)
    written = [math.nan if number is None else number for number in through(array)]
    finite = np.isfinite(array)
    assert [math.isfinite(number) for number in written] == finite.tolist()
    assert np.array_equal(np.array(written)[finite].astype(kind), array[finite])


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b"[Infinity]", b"\xff", b"{'a': 1}", b"1 2"])
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)
    assert issubclass(json.JSONDecodeError, ValueError)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_body_of_any_buffer(kind: Any) -> None:
    assert json.loads(kind(b'{"a": [1, 2.5, null, "\\u00e4"]}')) == {"a": [1, 2.5, None, "ä"]}
