from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from pyfuncserver.codec import tensors
from pyfuncserver.errors import InvalidInput, ModelFailed, ModelStatus, NotReady, UnknownModel
from pyfuncserver.model.call import Call, Form, Predictions, Reply, Request, RequestedOutput
from pyfuncserver.model.call import Tensors as Payload
from pyfuncserver.model.catalogue import Catalogue
from pyfuncserver.model.description import Description
from pyfuncserver.model.identity import Identity
from pyfuncserver.protocol.rest.v2 import V2

OUTPUTS = ModelSignature(outputs=Schema([TensorSpec(np.dtype("float64"), (-1,), "y")]))
DIALECT = V2(Catalogue.of(Identity("m", "1", "m-1"), Description("", OUTPUTS)))
ENTRY = Catalogue.of(Identity("m", "1", "m-1"), Description("", OUTPUTS))["m-1"]


def request(body: bytes, length: bytes | None = None) -> Request:
    def header(name: bytes) -> bytes | None:
        assert name == b"inference-header-content-length"
        return length

    return Request("m-1", body, "r-1", header=header)


def decode(body: Any, raw: bytes = b"") -> Payload:
    head = json.dumps(body).encode()
    length = str(len(head)).encode() if raw else None
    call = DIALECT.decode(request(head + raw, length))
    assert call.form is Form.TENSORS
    payload = call.payload
    assert isinstance(payload, Payload)
    return payload


def tensor(**changes: Any) -> dict[str, Any]:
    head = {"name": "x", "shape": [2], "datatype": "INT32", "data": [1, 2], **changes}
    return {name: value for name, value in head.items() if value is not None}


def test_decode() -> None:
    found = decode(
        {
            "id": "7",
            "parameters": {"content_type": "np", "k": 1.5},
            "inputs": [
                tensor(parameters={"content_type": "str"}),
                tensor(name="z", data=[[3], [4]]),
            ],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}, {"name": "z"}],
        }
    )  # fmt: skip
    assert [(t.name, t.datatype, t.values.tolist()) for t in found.tensors] == [
        ("x", "INT32", [1, 2]),
        ("z", "INT32", [3, 4]),
    ]
    assert found.tensors[0].parameters == {"content_type": "str"}
    assert (found.id, found.content_type) == ("7", "np")
    assert found.params == {"content_type": "np", "k": 1.5}
    assert found.outputs == [
        RequestedOutput("y", {"binary_data": True}),
        RequestedOutput("z", {}),
    ]


def test_an_id_is_made_of_the_requests() -> None:
    assert decode({"inputs": [tensor()]}).id == "r-1"
    assert decode({"inputs": [tensor()], "id": None}).id == "r-1"


def test_decode_binary() -> None:
    raw = struct.pack("<2i", 1, 2) + b"\x01\x00\x00\x00a"
    inputs = [
        tensor(data=None, parameters={"binary_data_size": 8}),
        tensor(name="between"),
        tensor(name="s", datatype="BYTES", shape=[1], data=None,
               parameters={"binary_data_size": 5}),
    ]  # fmt: skip
    found = decode({"inputs": inputs}, raw)
    assert [t.values.tolist() for t in found.tensors] == [[1, 2], [1, 2], [b"a"]]


SECRET = "mine"

BAD: dict[str, tuple[Any, str]] = {
    "a list": ([SECRET], "Expected a JSON object"),
    "inputs of another kind": ({"inputs": {}}, "inputs is not a list of objects"),
    "an input of another kind": ({"inputs": [SECRET]}, "inputs is not a list of objects"),
    "no name": ({"inputs": [tensor(name=None)]}, "inputs[0] needs a name"),
    "a number as name": ({"inputs": [tensor(name=1)]}, "inputs[0] needs a name"),
    "no datatype": ({"inputs": [tensor(datatype=None)]}, "inputs[0] needs a name, a datatype"),
    "a shape that is none": ({"inputs": [tensor(shape=2)]}, "inputs[0] needs"),
    "another datatype": ({"inputs": [tensor(datatype=SECRET)]}, "the datatype is none of BOOL"),
    "the wrong count": ({"inputs": [tensor(), tensor(shape=[3])]}, "inputs[1]: the shape has 3"),
    "a text": ({"inputs": [tensor(data=[1, SECRET])]}, "inputs[0]: INT32 holds no string"),
    "data that are none": ({"inputs": [tensor(data=SECRET)]}, "inputs[0]: it needs a list"),
    "no data": ({"inputs": [tensor(data=None)]}, "inputs[0]: it needs a list"),
    "parameters that are none": ({"inputs": [tensor(parameters=[])]}, "parameters of inputs[0]"),
    "parameters, of the request": ({"parameters": 1}, "parameters of the request"),
    "an id": ({"id": 7, "inputs": [tensor()]}, "id and content_type are strings"),
    "a content type": ({"parameters": {"content_type": 7}}, "id and content_type are strings"),
    "an output without a name": ({"outputs": [{}]}, "outputs[0] needs a name"),
    "outputs that are none": ({"outputs": 7}, "outputs is not a list of objects"),
    "an output's parameters": (
        {"outputs": [{"name": "y", "parameters": 1}]},
        "parameters of outputs[0]",
    ),
    "binary without a body": (
        {"inputs": [tensor(data=None, parameters={"binary_data_size": 8})]},
        "inputs[0]: its binary_data_size is not the size of what follows",
    ),
    "binary and data": (
        {"inputs": [tensor(parameters={"binary_data_size": 0})]},
        "inputs[0]: it has data and binary_data_size",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_requests(case: str) -> None:
    body, said = BAD[case]
    with pytest.raises(InvalidInput) as caught:
        decode(body)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b"\xff", b"[" * 2000])
def test_what_is_not_json(body: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^The request is not JSON: "):
        DIALECT.decode(request(body))


@pytest.mark.parametrize("size", [True, -1, 1.0, "8", 9, None, 10**30])
def test_sizes_of_binary_data(size: Any) -> None:
    with pytest.raises(InvalidInput, match="its binary_data_size is not"):
        decode({"inputs": [tensor(data=None, parameters={"binary_data_size": size})]}, b"12345678")


@pytest.mark.parametrize("length", [b"", b"0", b"-1", b"1.0", b"999", b"x", b"9" * 5000, b"\xb2"])
def test_lengths_of_the_json(length: bytes) -> None:
    with pytest.raises(InvalidInput, match="Inference-Header-Content-Length is not the length"):
        DIALECT.decode(request(b'{"inputs": []}', length))


def test_bytes_that_nobody_has() -> None:
    with pytest.raises(InvalidInput, match="3 bytes follow the JSON that no input has"):
        decode({"inputs": [tensor()]}, b"123")


def encode(value: Any, **payload: Any) -> Reply:
    call = Call(Form.TENSORS, Payload([], id="7", **payload), origin=ENTRY)
    return DIALECT.encode(Predictions(value, call))


def outputs(value: Any, **payload: Any) -> list[dict[str, Any]]:
    reply = encode(value, **payload)
    assert (reply.status, reply.content_type, reply.headers) == (200, "", ())
    body = json.loads(reply.body)
    found: list[dict[str, Any]] = body.pop("outputs")
    assert body == {"model_name": "m", "model_version": "1", "id": "7"}
    return found


def test_encode() -> None:
    assert outputs(np.array([[1, 2], [3, 4]], "i4")) == [
        {"name": "y", "datatype": "INT32", "shape": [2, 2], "data": [1, 2, 3, 4]}
    ]
    frame = pd.DataFrame({"a": np.array([1, 2], "f2"), "b": ["x", None], "c": [True, False]})
    assert outputs(frame) == [
        {"name": "a", "datatype": "FP16", "shape": [2], "data": [1, 2]},
        {"name": "b", "datatype": "BYTES", "shape": [2], "data": ["x", None]},
        {"name": "c", "datatype": "BOOL", "shape": [2], "data": [True, False]},
    ]
    assert outputs(np.array([[1, 2], [3, 4]])[:, 1])[0]["data"] == [2, 4]
    assert outputs([np.nan, np.inf, 1])[0]["data"] == [None, None, 1]


def test_bytes_in_json() -> None:
    assert outputs([b"a", "b"])[0]["data"] == ["a", "b"]
    (coded,) = outputs([b"\xff", "b", None])
    assert coded["data"] == ["/w==", "Yg==", None]
    assert coded["parameters"] == {"content_type": "base64"}
    (day,) = outputs(pd.Timestamp("2024-02-29"))
    assert (day["data"], day["parameters"]) == (
        ["2024-02-29T00:00:00"],
        {"content_type": "datetime"},
    )


def raw_outputs(value: Any, **payload: Any) -> tuple[list[dict[str, Any]], bytes]:
    reply = encode(value, **payload)
    assert reply.content_type == "application/octet-stream"
    ((name, length),) = reply.headers
    assert name == "Inference-Header-Content-Length"
    return json.loads(reply.body[: int(length)])["outputs"], reply.body[int(length) :]


def test_all_binary() -> None:
    value = {"a": np.array([1, 2], "i2"), "b": ["x"]}
    found, raw = raw_outputs(value, params={"binary_data_output": True})
    assert found == [
        {"name": "a", "datatype": "INT16", "shape": [2], "parameters": {"binary_data_size": 4}},
        {"name": "b", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}},
    ]
    assert raw == b"\x01\x00\x02\x00\x01\x00\x00\x00x"


def test_some_binary() -> None:
    value = {"a": np.array([1, 2], "i2"), "b": np.array([True]), "c": [1]}
    wanted = [RequestedOutput("b", {"binary_data": True}), RequestedOutput("a")]
    found, raw = raw_outputs(value, outputs=wanted)
    assert [(o["name"], "data" in o) for o in found] == [("b", False), ("a", True)]
    assert raw == b"\x01"
    wanted = [RequestedOutput("b"), RequestedOutput("a", {"binary_data": False})]
    found, raw = raw_outputs(value, outputs=wanted, params={"binary_data_output": True})
    assert [(o["name"], "data" in o) for o in found] == [("b", False), ("a", True)]


def test_an_output_that_is_not_there() -> None:
    with pytest.raises(InvalidInput, match=r"outputs\[0\] is none of the model's outputs: a, b"):
        encode({"a": [1], "b": [1]}, outputs=[RequestedOutput(SECRET)])


@pytest.mark.parametrize("value", [object(), [1, "a"], {"a": [{}]}])
def test_an_answer_that_no_tensor_holds(value: Any) -> None:
    with pytest.raises(ModelFailed, match="cannot be sent as tensors"):
        encode(value)


def test_a_null_cannot_be_raw() -> None:
    with pytest.raises(ModelFailed):
        encode(["a", None], params={"binary_data_output": True})


def test_errors() -> None:
    for error, status in ((UnknownModel("n"), 404), (NotReady("later"), 503)):
        reply = DIALECT.error(error)
        assert (reply.status, reply.reason) == (status, "")
        assert json.loads(reply.body) == {"error": str(error)}
    reply = DIALECT.error(ModelStatus(422, "no such user"))
    assert (reply.status, reply.reason) == (422, "no such user")


def test_a_round_trip_in_raw() -> None:
    values = np.random.default_rng(0).normal(size=(3, 4))
    found, raw = raw_outputs(values, params={"binary_data_output": True})
    again = tensors.from_raw(found[0]["datatype"], found[0]["shape"], raw)
    assert again.tobytes() == values.tobytes()
