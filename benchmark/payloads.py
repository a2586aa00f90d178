"""The same rows in every server's own words, and whether an answer repeats them."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

SIZES = {"small": 100, "medium": 6_500, "large": 78_000}
"""About so many bytes of body."""

REGIONS = ("sea", "eu", "us")
COLUMNS = ["id", "age", "score", "amount", "region"]

Body = Callable[[int], bytes]
"""Makes a body of about so many bytes."""
IsEchoed = Callable[[bytes, bytes], bool]
"""Tells by a request's body and its answer's whether all values came back."""


def row(number: int) -> list[Any]:
    """Give a row of two texts, an integer and two doubles; every row is another, and has no 0.

    A zero is not sent by proto3, so that an answer would be shorter than its request.
    """
    fraction = (number + 1) * 2_654_435_761 % 1_000_003 / 1_000_003
    age = 20 + number % 50
    return [
        f"d-{number:05}",
        age,
        round(fraction, 6),
        round(fraction * 700, 3),
        REGIONS[number % 3],
    ]


def rows(size_bytes: int) -> list[list[Any]]:
    """Give at least one row, and so many that they take about the given size as JSON."""
    made: list[list[Any]] = []
    length = 0
    while not made or length < size_bytes:
        made.append(row(len(made)))
        length += len(_json(made[-1])) + 1
    return made


def v1(size_bytes: int) -> bytes:
    """KServe's V1 protocol, which most of the peers speak."""
    return _json({"instances": rows(size_bytes - 15)})


def dataframe_split(size_bytes: int) -> bytes:
    """What `mlflow models serve` takes."""
    return _json({"dataframe_split": {"columns": COLUMNS, "data": rows(size_bytes - 75)}})


def seldon(size_bytes: int) -> bytes:
    return _json({"jsonData": {"instances": rows(size_bytes - 28)}})


def v2(size_bytes: int) -> bytes:
    """A tensor of doubles in the Open Inference Protocol."""
    count = max(2, (size_bytes - 66) // 9)
    values = [row(number)[2] for number in range(count)]
    tensor = {"name": "x", "shape": [count], "datatype": "FP64", "data": values}
    return _json({"inputs": [tensor]})


def v2_typed(size_bytes: int) -> bytes:
    """The same tensor over gRPC, as the datatype's own field: packed, so byte for byte as raw."""
    values = _doubles(size_bytes)
    contents = _field(5, _field(7, values))
    return _field(1, b"echo") + _field(5, _tensor_head(len(values) // 8) + contents)


def v2_raw(size_bytes: int) -> bytes:
    """The same tensor over gRPC, raw."""
    values = _doubles(size_bytes)
    return _field(1, b"echo") + _field(5, _tensor_head(len(values) // 8)) + _field(7, values)


def iris(_size_bytes: int) -> bytes:
    """One flower; a forest's work does not depend on which."""
    flower = {
        "sepal length (cm)": 5.1,
        "sepal width (cm)": 3.5,
        "petal length (cm)": 1.4,
        "petal width (cm)": 0.2,
    }
    return _json({"instances": [flower]})


def upi(size_bytes: int) -> bytes:
    """A UPI request: a table whose rows are a text, an integer and two doubles."""
    # Encoded here, by the protocol's own rules, so that the generator needs no generated code.
    types = (("id", 3), ("age", 2), ("score", 1), ("amount", 1))
    columns = b"".join(
        _field(2, _field(1, name.encode()) + _varint_field(2, kind)) for name, kind in types
    )
    table = _field(1, b"drivers") + columns
    count = 0
    while not count or len(table) < size_bytes:
        table += _field(3, _upi_row(count))
        count += 1
    return _field(1, table) + _field(2, b"echo")


def has_same_leaves(request: bytes, answer: bytes) -> bool:
    """Tell whether every value of the request's rows is in a JSON answer, however nested."""
    asked = Counter(map(str, _leaves(_data_of(json.loads(request)))))
    return not asked - Counter(map(str, _leaves(json.loads(answer))))


def has_one_prediction(_request: bytes, answer: bytes) -> bool:
    return len(json.loads(answer)["predictions"]) == 1


def has_same_table(request: bytes, answer: bytes) -> bool:
    """Tell whether a UPI answer holds the request's table: its first field, byte for byte."""
    return _first_field(request) == _first_field(answer)


def has_same_doubles(request: bytes, answer: bytes) -> bool:
    """Tell whether an answer holds the tensor that a V2 request over gRPC ends with."""
    start = request.index(_doubles(0))  # the first values are the same in every size
    return request[start:] in answer


def _data_of(request: dict[str, Any]) -> Any:
    if "inputs" in request:
        return [tensor["data"] for tensor in request["inputs"]]
    if "dataframe_split" in request:
        return request["dataframe_split"]["data"]
    return request.get("jsonData", request)["instances"]


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict | list):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(branch)
    else:
        yield tree


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _doubles(size_bytes: int) -> bytes:
    """Give at least two doubles, little-endian, and so many that a message is about so long."""
    count = max(2, (size_bytes - 28) // 8)
    return struct.pack(f"<{count}d", *(row(number)[2] for number in range(count)))


def _tensor_head(count: int) -> bytes:
    return _field(1, b"x") + _field(2, b"FP64") + _field(3, _varint(count))


def _upi_row(number: int) -> bytes:
    name, age, score, amount, _ = row(number)
    values = (
        _field(3, name.encode()),
        _varint_field(2, age),
        b"\x09" + struct.pack("<d", score),
        b"\x09" + struct.pack("<d", amount),
    )
    return _field(1, str(number).encode()) + b"".join(_field(2, value) for value in values)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _first_field(message: bytes) -> bytes:
    length, shift, at = 0, 0, 1
    while message[at] > 127:
        length |= (message[at] & 127) << shift
        shift, at = shift + 7, at + 1
    length |= message[at] << shift
    return message[at + 1 : at + 1 + length]
