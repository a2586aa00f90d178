from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from pyfuncserver.codec import inference
from pyfuncserver.errors import (
    InvalidInput,
    ModelAborted,
    ModelFailed,
    NotReady,
    TooLarge,
    UnknownModel,
)
from pyfuncserver.model.call import Call, Complete, Form, Predictions, Request, RequestedOutput
from pyfuncserver.model.catalogue import Catalogue
from pyfuncserver.model.description import Description
from pyfuncserver.model.identity import Identity
from pyfuncserver.protocol.limit import Limit
from pyfuncserver.protocol.oip.dialect import Oip

IDENTITY = Identity("m", "1", "m-1")
MODELS = Catalogue.of(IDENTITY)
RAW = {"raw_input_contents": [np.arange(3.0).tobytes()]}
TYPED = {"contents": {"fp64_contents": [0, 1, 2]}}
NO_NAME = r"\[A-Za-z0-9_.-\]"


def message(**fields: Any) -> Any:
    fields = {"model_name": "m", "inputs": [tensor()], **fields}
    return inference.messages().ModelInferRequest(**fields)


def parameter(**choice: Any) -> dict[str, Any]:
    """Give parameters with one, p, which is as it should be or not."""
    # Not a dict in a dict, which protobuf 4 does not take.
    return {"p": inference.messages().InferParameter(**choice)}


def content_type(**choice: Any) -> dict[str, Any]:
    return {"content_type": parameter(**choice)["p"]}


def tensor(**fields: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP64", "shape": [3], **fields}


def request(asked: Any, model: str = "m-1") -> Request:
    body = asked if isinstance(asked, bytes) else asked.SerializeToString()
    return Request(model, body, "id", {"foo": "bar"}, context="context")


def decoded(asked: Any) -> Call:
    return Oip(MODELS).decode(request(asked))


def signature(names: list[str]) -> Any:
    """Give one whose outputs have these names."""
    specs = [TensorSpec(np.dtype("float64"), (-1,), name) for name in names]
    return ModelSignature(outputs=Schema(specs)) if specs else None


def answered(value: Any, names: list[str] | None = None, **fields: Any) -> Any:
    dialect = Oip(Catalogue.of(IDENTITY, Description("", signature(names or []))))
    call = dialect.decode(request(message(**{**RAW, **fields})))
    reply = dialect.encode(Predictions(value, call))
    assert reply.status == "OK"
    return inference.messages().ModelInferResponse.FromString(reply.body)


@pytest.mark.parametrize(
    ("asked", "is_raw"), [(message(**RAW), True), (message(inputs=[tensor(**TYPED)]), False)]
)
def test_decode(asked: Any, is_raw: bool) -> None:
    call = decoded(asked)
    assert (call.form, call.headers, call.context) == (Form.TENSORS, {"foo": "bar"}, "context")
    assert call.origin == (is_raw, MODELS["m-1"])
    (found,) = call.payload.tensors
    assert (found.name, found.values.tolist()) == ("x", [0, 1, 2])
    assert (call.payload.id, call.payload.content_type, call.payload.outputs) == ("id", "", [])


def test_what_a_request_says_beside_its_tensors() -> None:
    asked = message(**RAW, id="7", outputs=[{"name": "y"}])
    inference.put_parameters(asked.parameters, {"content_type": "pd", "n": 1})
    inference.put_parameters(asked.outputs[0].parameters, {"n": 2.5})
    payload = decoded(asked).payload
    assert (payload.id, payload.content_type) == ("7", "pd")
    assert payload.params["n"] == 1
    assert payload.outputs == [RequestedOutput("y", {"n": 2.5})]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (b"\xff", "not a ModelInferRequest"),
        (message(), "the shape has 3 elements"),
        (message(inputs=[tensor(shape=[-3])], **RAW), "not negative"),
        (message(**RAW, parameters=content_type(bool_param=True)), "is a string"),
        (message(**RAW, parameters=parameter()), "a parameter has no value"),
        (message(**RAW, outputs=[{"name": "y", "parameters": parameter()}]), "has no value"),
        (message(**RAW, model_name=""), NO_NAME),
        (message(**RAW, model_name="m\n"), NO_NAME),
        (message(**RAW, model_name="m" * 300), NO_NAME),
        (message(**RAW, model_version="/"), NO_NAME),
    ],
)
def test_requests_that_are_refused(asked: Any, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        decoded(asked)
    body = request(asked).body
    assert Oip(MODELS).model_of(body) == "m-1"  # so that it comes so far


@pytest.mark.parametrize(
    ("name", "version", "key"),
    [
        ("m", "", "m-1"),
        ("m", "1", "m-1"),
        ("m-1", "", "m-1"),
        ("m-1", "1", "m-1"),
        ("m", "2", "m/versions/2"),
        ("other", "", "other"),
        ("n" * 200, "1", "n" * 200 + "/versions/1"),
    ],
)
def test_model_that_is_asked_for(name: str, version: str, key: str) -> None:
    asked = message(model_name=name, model_version=version)
    assert Oip(MODELS).model_of(asked.SerializeToString()) == key


def spoilt() -> st.SearchStrategy[bytes]:
    """Give whole requests of which some bytes are others, more, or missing."""
    whole = [message(**RAW, id="7", outputs=[{"name": "y"}]), message(inputs=[tensor(**TYPED)])]
    bodies = [asked.SerializeToString() for asked in whole]

    def spoil(body: bytes, at: int, gone: int, put: bytes) -> bytes:
        at %= len(body)
        return body[:at] + put + body[at + gone :]

    return st.builds(
        spoil, st.sampled_from(bodies), st.integers(0), st.integers(0, 3), st.binary(max_size=3)
    )


@given(st.one_of(spoilt(), st.binary(max_size=30)))
def test_bytes_of_any_kind_are_read_or_refused(body: bytes) -> None:
    dialect = Oip(MODELS)
    asked = Request(dialect.model_of(body), body, "id")
    if asked.model != IDENTITY.full_name:
        return  # the service refuses it
    with contextlib.suppress(InvalidInput, UnknownModel):
        assert dialect.decode(asked).form is Form.TENSORS


def test_model_that_is_named_twice() -> None:
    body = message(**RAW).SerializeToString()
    body += inference.messages().ModelInferRequest(model_version="2").SerializeToString()
    assert Oip(MODELS).model_of(body) == "m-1"
    with pytest.raises(UnknownModel, match="m/versions/2"):
        decoded(body)


def test_an_answer_names_the_model_and_the_request() -> None:
    response = answered(np.ones(1), model_name="m-1", id="7")
    assert (response.model_name, response.model_version, response.id) == ("m", "1", "7")
    assert answered(np.ones(1)).id == "id"


def test_raw_is_answered_in_raw() -> None:
    value = np.array([[1.5, 2.5]], np.float32)
    response = answered(value)
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("output-0", "FP32", [1, 2])
    assert not output.HasField("contents")
    assert list(response.raw_output_contents) == [value.tobytes()]


def test_typed_is_answered_in_typed() -> None:
    typed = {"raw_input_contents": [], "inputs": [tensor(**TYPED)]}
    response = answered(pd.DataFrame({"a": [1, 2], "b": ["x", "ä"]}), **typed)
    assert not response.raw_output_contents
    assert [output.name for output in response.outputs] == ["a", "b"]
    assert list(response.outputs[0].contents.int64_contents) == [1, 2]
    assert list(response.outputs[1].contents.bytes_contents) == [b"x", "ä".encode()]


def test_half_floats_go_raw_whatever_was_asked() -> None:
    typed = {"raw_input_contents": [], "inputs": [tensor(**TYPED)]}
    response = answered(np.ones(2, np.float16), **typed)
    assert list(response.raw_output_contents) == [np.ones(2, np.float16).tobytes()]


def test_outputs_have_the_names_of_the_signature() -> None:
    assert [output.name for output in answered(np.ones(2), ["y"]).outputs] == ["y"]


def test_outputs_that_are_asked_for() -> None:
    value = {"a": np.ones(1), "b": np.zeros(2)}
    response = answered(value, outputs=[{"name": "b"}, {"name": "a"}])
    assert [output.name for output in response.outputs] == ["b", "a"]
    assert [len(data) for data in response.raw_output_contents] == [16, 8]
    with pytest.raises(InvalidInput, match=r"outputs\[1\] is none of the model's outputs: a, b"):
        answered(value, outputs=[{"name": "b"}, {"name": "c"}])


class Unreadable:
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise KeyError("the model's own")


@pytest.mark.parametrize("value", [object(), np.ones(1, complex), Unreadable(), [None, "x"]])
def test_answers_that_no_tensor_holds(value: object) -> None:
    with pytest.raises(ModelFailed, match="error id"):
        answered(value)


def test_answer_that_is_complete_is_framed_too() -> None:
    call = decoded(message(**RAW))
    assert Oip(MODELS).encode(Complete([1.5], call)).status == "OK"


def test_answer_that_grpc_would_not_send_names_the_setting() -> None:
    answer = Predictions(np.ones(9), decoded(message(**RAW)))
    size = len(Oip(MODELS).encode(answer).body)
    assert Oip(MODELS, Limit(size, "the option")).encode(answer).status == "OK"
    with pytest.raises(TooLarge, match=rf"limit of {size - 1} bytes \(the option\)"):
        Oip(MODELS, Limit(size - 1, "the option")).encode(answer)


def test_error() -> None:
    reply = Oip(MODELS).error(NotReady("wait"))
    assert (reply.body, reply.status, reply.reason) == (b"", "UNAVAILABLE", "wait")
    assert reply.cause is None


def test_abort_of_the_model_is_handed_back() -> None:
    error, cause = ModelAborted("DATA_LOSS"), Exception()
    error.__cause__ = cause
    reply = Oip(MODELS).error(error)
    assert reply.cause is cause
    assert reply.status == "DATA_LOSS"
