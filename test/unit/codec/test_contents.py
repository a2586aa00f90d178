from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pyfuncserver.codec import contents, inference
from pyfuncserver.codec.tensors import DTYPES

FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def message(**fields: Any) -> Any:
    return inference.messages().InferTensorContents(**fields)


def test_every_datatype_but_one_has_a_field() -> None:
    assert {name for name in DTYPES if contents.can_hold(name)} == set(FIELDS)
    assert set(DTYPES) - set(FIELDS) == {"FP16"}


@given(data=st.data(), datatype=st.sampled_from(sorted(set(FIELDS) - {"BYTES"})))
def test_numbers_go_and_come_as_protobuf_has_them(data: st.DataObject, datatype: str) -> None:
    sizes = st.integers(0, 300)  # the length of the longer ones takes two bytes and three
    values = data.draw(arrays.arrays(DTYPES[datatype], sizes))
    made = message()
    contents.write(made, datatype, values)
    official = message(**{FIELDS[datatype]: values.tolist()})
    if DTYPES[datatype].kind != "f" or not np.isnan(values).any():  # there are many NaNs
        assert made.SerializeToString() == official.SerializeToString()
    for one in (made, official, message().FromString(official.SerializeToString())):
        found = contents.read(one, datatype)
        assert found.dtype == DTYPES[datatype]
        assert np.array_equal(found, values, equal_nan=DTYPES[datatype].kind == "f")


@given(st.lists(st.binary(max_size=5), max_size=20))
def test_bytes_go_and_come(elements: list[bytes]) -> None:
    made = message()
    values = np.empty(len(elements), object)
    values[:] = elements
    contents.write(made, "BYTES", values)
    assert list(made.bytes_contents) == elements
    assert contents.read(made, "BYTES").tolist() == elements


def test_text_is_sent_as_utf_8() -> None:
    made = message()
    contents.write(made, "BYTES", np.array([["ä", b"\xff"]], object))
    assert list(made.bytes_contents) == ["ä".encode(), b"\xff"]


def test_rows_are_written_one_after_the_other() -> None:
    made = message()
    contents.write(made, "FP32", np.arange(6, dtype=np.float32).reshape(2, 3).T)
    assert list(made.fp32_contents) == [0, 3, 1, 4, 2, 5]


def test_unpacked_and_unknown_fields_are_read_as_well() -> None:
    # "Parsers must accept both" (protobuf's encoding guide): one tag for each value.
    unpacked = b"".join(b"\x35" + np.float32(x).tobytes() for x in (1.5, -2.0))
    unknown = b"\xa2\x06\x03abc"  # field 100
    found = contents.read(message().FromString(unknown + unpacked + unknown), "FP32")
    assert found.tolist() == [1.5, -2.0]
    found = contents.read(message().FromString(b"\x0a\x03\x00\x01\x05"), "BOOL")
    assert found.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("datatype", "fields", "why"),
    [
        ("FP32", {"fp64_contents": [1.0]}, "in fp32_contents, and in no other"),
        ("FP32", {"fp32_contents": [1.0], "int_contents": [1]}, "in no other field"),
        ("BYTES", {"int_contents": [1]}, "in bytes_contents"),
        ("INT8", {"int_contents": [-129]}, "beyond INT8"),
        ("INT16", {"int_contents": [0, 32768]}, "beyond INT16"),
        ("UINT8", {"uint_contents": [256]}, "beyond UINT8"),
        ("UINT16", {"uint_contents": [65536]}, "beyond UINT16"),
        ("FP16", {}, "FP16 travels raw"),
        ("FP128", {}, "only BOOL, "),
    ],
)
def test_values_that_are_not_what_they_should_be(
    datatype: str, fields: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        contents.read(message(**fields), datatype)


def test_what_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="FP16 has no typed contents"):
        contents.write(message(), "FP16", np.ones(1, np.float16))
    with pytest.raises(ValueError, match="null"):
        contents.write(message(), "BYTES", np.array([None], object))
