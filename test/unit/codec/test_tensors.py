from __future__ import annotations

import math
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from pyfuncserver.codec import tensors
from pyfuncserver.codec.tensors import DTYPES, Tensor

NUMERIC = [name for name in DTYPES if name != "BYTES"]
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


def nested(values: np.ndarray[Any, Any], datatype: str) -> Tensor:
    return Tensor("x", datatype, values)


@pytest.mark.parametrize("datatype", NUMERIC)
@settings(max_examples=30)
@given(data=st.data())
def test_numbers_come_back_from_raw(datatype: str, data: st.DataObject) -> None:
    values = data.draw(arrays_of.arrays(DTYPES[datatype], SHAPES))
    raw = tensors.to_raw(nested(values, datatype))
    assert len(raw) == values.nbytes
    found = tensors.from_raw(datatype, values.shape, raw)
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    assert found.tobytes() == values.tobytes()
    assert found.flags.writeable
    assert tensors.datatype_of(found) == datatype


@pytest.mark.parametrize("datatype", NUMERIC)
@settings(max_examples=30)
@given(data=st.data())
def test_numbers_come_back_from_lists(datatype: str, data: st.DataObject) -> None:
    finite = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else {}
    elements = arrays_of.from_dtype(DTYPES[datatype], **finite)
    values = data.draw(arrays_of.arrays(DTYPES[datatype], SHAPES, elements=elements))
    flat = tensors.to_list(values)
    assert tensors.from_list(datatype, values.shape, flat).tolist() == values.tolist()
    if values.ndim:
        again = tensors.from_list(datatype, values.shape, values.tolist())
        assert (again.dtype, again.shape, again.tolist()) == (
            DTYPES[datatype],
            values.shape,
            values.tolist(),
        )


@given(st.lists(st.one_of(st.binary(), st.text(st.characters(codec="utf-8")))))
def test_bytes_come_back(elements: list[Any]) -> None:
    shape = (len(elements),)
    values = tensors.from_list("BYTES", shape, elements)
    assert tensors.to_list(values) == elements
    raw = tensors.to_raw(nested(values, "BYTES"))
    expected = [e.encode() if isinstance(e, str) else e for e in elements]
    assert tensors.to_list(tensors.from_raw("BYTES", shape, raw)) == expected
    assert tensors.from_raw("BYTES", shape, memoryview(raw)).flags.writeable


@given(st.sampled_from(list(DTYPES)), st.binary(max_size=64), st.lists(st.integers(-1, 9)))
def test_any_raw_bytes_give_an_array_or_a_value_error(
    datatype: str, data: bytes, shape: list[int]
) -> None:
    try:
        found = tensors.from_raw(datatype, shape, data)
    except ValueError:
        return
    assert found.shape == tuple(shape)
    assert len(tensors.to_raw(nested(found, datatype))) == len(data)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=20,
)


@settings(max_examples=50)
@given(st.sampled_from(list(DTYPES)), st.lists(JSON), st.lists(JSON))
def test_any_json_gives_an_array_or_a_value_error(
    datatype: str, data: list[Any], shape: list[Any]
) -> None:
    try:
        found = tensors.from_list(datatype, shape, data)
    except ValueError:
        return
    assert found.shape == tuple(shape)
    assert found.dtype == DTYPES[datatype]


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_null_among_floats_is_nan(datatype: str) -> None:
    found = tensors.from_list(datatype, [2], [1, None])
    assert found.dtype == tensors.DTYPES[datatype]
    assert (found[0], np.isnan(found[1])) == (1, True)


def test_raw_is_little_endian() -> None:
    assert tensors.from_raw("INT16", [2], b"\x01\x02\xff\xff").tolist() == [513, -1]
    big = np.array([1.5], ">f4")
    assert tensors.to_raw(nested(big, "FP32")) == struct.pack("<f", 1.5)
    assert tensors.datatype_of(big) == "FP32"
    columns = np.array([[1, 2], [3, 4]], "i4").T
    assert tensors.to_raw(nested(columns, "INT32")) == struct.pack("<4i", 1, 3, 2, 4)


def test_a_boolean_is_any_byte() -> None:
    found = tensors.from_raw("BOOL", [3], b"\x00\x01\x02")
    assert found.view(np.uint8).tolist() == [0, 1, 1]


BAD_RAW = {
    "a datatype": (("FP8", [1], b"1"), "the datatype is none of BOOL,"),
    "too short": (("FP32", [2], b"1234"), "2 elements of FP32 are 8 bytes, not 4"),
    "too long": (("BOOL", [1], b"12"), "1 elements of BOOL are 1 bytes, not 2"),
    "a negative size": (("BOOL", [-1], b"1"), "integers that are not negative"),
    "a fraction": (("BOOL", [1.0], b"1"), "integers that are not negative"),
    "a boolean size": (("BOOL", [True], b"1"), "integers that are not negative"),
    "a text": (("BOOL", ["1"], b"1"), "integers that are not negative"),
    "33 dimensions": (("BOOL", [1] * 33, b"1"), "no more than 32 dimensions"),
    "huge": (("FP64", [10**30], b""), "elements of FP64 are"),
    "huge and empty": (("FP64", [10**30, 0], b""), "too large"),
    "huge text": (("BYTES", [10**12], b"\x01\x00\x00\x00a"), "elements of BYTES are more than 5"),
    "no length": (("BYTES", [1], b"\x01\x00"), "1 elements of BYTES are more than 2 bytes"),
    "a length beyond": (("BYTES", [1], b"\xff\xff\xff\xffa"), "end in element 0 of 1"),
    "a length cut": (("BYTES", [2], b"\x02\x00\x00\x00ab\x01\x00"), "end in element 1 of 2"),
    "left over": (("BYTES", [1], b"\x00\x00\x00\x00a"), "1 bytes are left after 1 elements"),
}


@pytest.mark.parametrize("case", BAD_RAW)
def test_bad_raw(case: str) -> None:
    arguments, said = BAD_RAW[case]
    tracemalloc.start()
    with pytest.raises(ValueError, match=said):
        tensors.from_raw(*arguments)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


BAD_LISTS = {
    "too few": (("FP32", [2], [1]), "the shape has 2 elements, the data 1"),
    "too many": (("FP32", [], [1, 2]), "the shape has 1 elements, the data 2"),
    "nested otherwise": (("INT8", [2, 3], [[1, 2], [3, 4], [5, 6]]), "not the shape"),
    "uneven": (("INT8", [3], [[1, 2], [3]]), "nested unevenly"),
    "uneven depth": (("INT8", [2], [[1], 2]), "nested unevenly"),
    "deeper later": (("INT8", [2], [1, [2]]), "INT8 holds no list"),
    "null": (("INT64", [1], [None]), "INT64 holds no null"),
    "text for a number": (("FP64", [1], ["1"]), "FP64 holds no string"),
    "a number for text": (("BYTES", [1], [1]), "BYTES holds no integer"),
    "null for text": (("BYTES", [2], ["a", None]), "BYTES holds no null"),
    "a number for a boolean": (("BOOL", [1], [1]), "BOOL holds no integer"),
    "a boolean for a number": (("INT32", [2], [1, True]), "INT32 holds no boolean"),
    "a fraction": (("INT32", [1], [1.0]), "INT32 holds no number"),
    "an object": (("INT32", [1], [{}]), "INT32 holds no object"),
    "beyond INT8": (("INT8", [1], [128]), "out of INT8's range"),
    "below UINT64": (("UINT64", [2], [-1, 2**63]), "out of UINT64's range"),
    "beyond UINT64": (("UINT64", [1], [2**64]), "out of UINT64's range"),
    "beyond INT64": (("INT64", [1], [2**63]), "out of INT64's range"),
    "beyond FP16": (("FP16", [1], [1e5]), "out of FP16's range"),
    "beyond FP32": (("FP32", [1], [1e39]), "out of FP32's range"),
    "beyond FP64": (("FP64", [1], [10**400]), "out of FP64's range"),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_bad_lists(case: str) -> None:
    arguments, said = BAD_LISTS[case]
    with pytest.raises(ValueError, match=said):
        tensors.from_list(*arguments)


def test_one_long_text_among_many_numbers_costs_nothing() -> None:
    data: list[Any] = [1] * 1000 + ["x" * 10_000_000]
    tracemalloc.start()
    with pytest.raises(ValueError, match="holds no string"):
        tensors.from_list("FP64", [1001], data)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_lists_are_read_exactly() -> None:
    assert tensors.from_list("UINT64", [2], [0, 2**64 - 1]).tolist() == [0, 2**64 - 1]
    assert tensors.from_list("INT64", [2], [-(2**63), 2**63 - 1]).tolist() == [-(2**63), 2**63 - 1]
    assert tensors.from_list("FP64", [2], [1, 0.5]).tolist() == [1.0, 0.5]
    infinite = tensors.from_list("FP32", [2], [math.inf, math.nan]).tolist()
    assert infinite[0] == math.inf
    assert math.isnan(infinite[1])
    assert tensors.from_list("INT8", [3], [[1], [2], [3]]).shape == (3,)
    assert tensors.from_list("INT8", [0, 3], []).shape == (0, 3)
    assert tensors.from_list("INT8", [2, 0], [[], []]).shape == (2, 0)
    assert tensors.from_list("INT8", (1,), (7,)).tolist() == [7]


def test_bytes_as_text() -> None:
    def texts(*elements: Any) -> Any:
        found = tensors.texts_of(tensors.objects_of(list(elements), (len(elements), 1)))
        return None if found is None else found.tolist()

    assert texts(b"a", "b", "\N{SNOWMAN}".encode()) == [["a"], ["b"], ["\N{SNOWMAN}"]]
    assert texts("a") == [["a"]]
    assert texts() == []
    assert texts(b"a", b"\xff") is None
    with pytest.raises(ValueError, match="BYTES holds no null"):
        texts("a", None)


def test_what_bytes_cannot_hold() -> None:
    for element, said in ((None, "BYTES holds no null"), ("\ud800", "surrogates not allowed")):
        values = tensors.objects_of([element], (1,))
        with pytest.raises(ValueError, match=said):
            tensors.to_raw(nested(values, "BYTES"))


def test_datatypes_of_other_arrays() -> None:
    assert tensors.datatype_of(np.array(["a"])) == "BYTES"
    assert tensors.datatype_of(np.array([b"a"])) == "BYTES"
    assert tensors.datatype_of(np.array([None])) == "BYTES"
    for dtype in ("complex128", "datetime64[ns]", "longdouble"):
        with pytest.raises(ValueError, match="no datatype holds"):
            tensors.datatype_of(np.zeros(1, dtype))
