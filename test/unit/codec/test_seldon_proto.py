from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyfuncserver.codec import seldon_proto, tftensor
from pyfuncserver.codec.seldon import Kind, Message, Meta


def new() -> Any:
    return seldon_proto.classes().SeldonMessage()


def there_and_back(message: Message) -> Message:
    return seldon_proto.parse_message(seldon_proto.write_message(message))


META = Meta("p", {"a": [1.0, None, {"b": True}], "c": "x"}, {"r": -1}, {"m": "image:1"})


@pytest.mark.parametrize("message", [
    Message(Kind.STRING, "ä", (), META),
    Message(Kind.STRING, ""),
    Message(Kind.BINARY, b"\0\xff"),
    Message(Kind.JSON, {"a": [1.5, None, {"b": [True, "x"]}]}),
    Message(Kind.JSON, None),
    Message(Kind.NDARRAY, [[1.0, "a"], [None, True]], ("x", "y")),
    Message(Kind.NDARRAY, []),
])  # fmt: skip
def test_there_and_back(message: Message) -> None:
    assert there_and_back(message) == message


@pytest.mark.parametrize("kind", [Kind.TENSOR, Kind.TFTENSOR])
@pytest.mark.parametrize("array", [np.array([[1.5, np.nan]]), np.zeros((0, 3)), np.array([2.0])])
def test_arrays_there_and_back(kind: Kind, array: np.ndarray[Any, Any]) -> None:
    found = there_and_back(Message(kind, array, ("a",)))
    assert (found.kind, found.names) == (kind, ("a",))
    assert found.value.shape == array.shape
    np.testing.assert_array_equal(found.value, array)


def test_an_id_is_made_for_what_brings_none() -> None:
    text = type(new())(strData="a").SerializeToString()
    assert seldon_proto.parse_message(text, "made").meta.puid == "made"


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x1a\x00"])
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"message|data"):
        seldon_proto.parse_message(data)


def test_custom_data_is_refused() -> None:
    message = new()
    message.customData.type_url = "x"
    with pytest.raises(ValueError, match="customData"):
        seldon_proto.parse_message(message.SerializeToString())


@pytest.mark.parametrize(("shape", "values"), [
    ((2,), [1.0]), ((-1,), [1.0]), ((0,), [1.0]), ((1,) * 33, [1.0]), ((0, 2**31 - 1), []),
    ((2**31 - 1,) * 200_000, []),  # whose product takes a minute
])  # fmt: skip
def test_a_tensor_that_does_not_fill_its_shape(shape: Any, values: Any) -> None:
    message = new()
    message.data.tensor.shape.extend(shape)
    message.data.tensor.values.extend(values)
    with pytest.raises(ValueError, match="shape"):
        seldon_proto.parse_message(message.SerializeToString())


def test_an_answer_too_deep_for_a_value() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ValueError, match="deep"):
        seldon_proto.write_message(Message(Kind.JSON, deep))


NESTED: list[Any] = [lambda value: [value], lambda value: {"a": value}]


@pytest.mark.parametrize("kind", [Kind.JSON, Kind.NDARRAY])
@pytest.mark.parametrize("nest", NESTED)
def test_an_answer_is_only_as_deep_as_clients_read(nest: Any, kind: Kind) -> None:
    value: Any = 1
    for _ in range(60):
        message = Message(kind, [value] if kind is Kind.NDARRAY else value)
        try:
            data = seldon_proto.write_message(message)
        except ValueError:
            break
        assert seldon_proto.parse_message(data).value == message.value
        value = nest(value)
    assert 30 < str(value).count("[") + str(value).count("{") < 55


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), float("-inf")])
def test_a_reward_that_is_no_number(reward: float) -> None:
    """It would spoil the sum of them all, for good."""
    feedback = seldon_proto.classes().Feedback(reward=reward)
    with pytest.raises(ValueError, match="reward is a number"):
        seldon_proto.parse_feedback(feedback.SerializeToString())


def test_feedback() -> None:
    feedback = seldon_proto.classes().Feedback(reward=0.5)
    feedback.response.meta.puid = "p"
    feedback.response.meta.routing["r"] = 2
    found = seldon_proto.parse_feedback(feedback.SerializeToString(), "made")
    assert (found.request.meta.puid, found.reward, found.truth.kind) == ("p", 0.5, Kind.NONE)
    assert found.response.meta.routing == {"r": 2}
    assert seldon_proto.parse_feedback(b"", "made").request.meta.puid == "made"


# TensorProto

TYPES = [
    *("float16", "float32", "float64", "bool"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
]


@pytest.mark.parametrize("name", TYPES)
def test_each_type_of_a_tensorproto(name: str) -> None:
    array = np.array([[0, 1, 1]]).astype(name)
    tensor = new().data.tftensor
    tftensor.fill(tensor, array)
    found = tftensor.array_of(tensor)
    assert (found.dtype, found.tolist()) == (array.dtype, array.tolist())


@pytest.mark.parametrize(("number", "field", "values", "expected"), [
    (1, "float_val", [1.5], [1.5]),
    (3, "int_val", [-1], [-1]),
    (10, "bool_val", [True], [True]),
    (19, "half_val", [0x3E00], [1.5]),
    (7, "string_val", [b"a"], [b"a"]),
    (23, "uint64_val", [2**63], [2**63]),
])  # fmt: skip
def test_values_that_are_written_out(number: int, field: str, values: Any, expected: Any) -> None:
    tensor = new().data.tftensor
    tensor.dtype = number
    tensor.tensor_shape.dim.add(size=1)
    getattr(tensor, field).extend(values)
    assert tftensor.array_of(tensor).tolist() == expected


def test_booleans_of_other_bytes_count_once() -> None:
    tensor = type(new().data.tftensor)(dtype=10, tensor_content=b"\x02\x00\xff")
    tensor.tensor_shape.dim.add(size=3)
    assert tftensor.array_of(tensor).view("u1").tolist() == [1, 0, 1]


@pytest.mark.parametrize("sizes", [[2**62] * 100_000, [1] * 33, [0, 2**62, 2**62], [0, 2**40]])
def test_a_tensorproto_without_end(sizes: list[int]) -> None:
    tensor = type(new().data.tftensor)(dtype=1)
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    with pytest.raises(ValueError, match="tftensor"):
        tftensor.array_of(tensor)


@pytest.mark.parametrize(("number", "size", "fields"), [
    (0, 1, {}),
    (20, 1, {}),
    (1, 2, {"float_val": [1]}),
    (1, -1, {"float_val": [1]}),
    (1, 2, {"tensor_content": b"\0" * 7}),
    (4, 1, {"int_val": [256]}),
    (1, 2**40, {}),
])  # fmt: skip
def test_a_tensorproto_that_is_refused(number: int, size: int, fields: Any) -> None:
    tensor = type(new().data.tftensor)(dtype=number, **fields)
    tensor.tensor_shape.dim.add(size=size)
    with pytest.raises(ValueError, match="tensor"):
        tftensor.array_of(tensor)


def test_an_array_that_no_tensorproto_holds() -> None:
    with pytest.raises(ValueError, match="no tensor holds"):
        tftensor.fill(new().data.tftensor, np.array(["a"]))


def test_the_public_numbers() -> None:
    fields = seldon_proto.classes().SeldonMessage.DESCRIPTOR.fields_by_name
    assert {name: field.number for name, field in fields.items()} == {
        "status": 1,
        "meta": 2,
        "data": 3,
        "binData": 4,
        "strData": 5,
        "jsonData": 6,
        "customData": 7,
    }
