from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pyfuncserver.codec import inference, messages
from pyfuncserver.codec.tensors import DTYPES, Tensor, to_raw

FIELD = descriptor_pb2.FieldDescriptorProto
BOOL, INT32, INT64 = FIELD.TYPE_BOOL, FIELD.TYPE_INT32, FIELD.TYPE_INT64
UINT32, UINT64, FLOAT = FIELD.TYPE_UINT32, FIELD.TYPE_UINT64, FIELD.TYPE_FLOAT
DOUBLE, STRING, BYTES = FIELD.TYPE_DOUBLE, FIELD.TYPE_STRING, FIELD.TYPE_BYTES

# CONTRACTS, section 7, and the public specification. A list means repeated.
_TENSOR = {"name": (1, STRING), "datatype": (2, STRING), "shape": (3, [INT64])}
_LOAD = {
    "repository_name": (1, STRING),
    "model_name": (2, STRING),
    "parameters": (3, ["ParametersEntry"]),
}
MESSAGES: dict[str, dict[str, tuple[int, Any]]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, BOOL)},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, BOOL)},
    "ModelReadyRequest": {"name": (1, STRING), "version": (2, STRING)},
    "ModelReadyResponse": {"ready": (1, BOOL)},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {
        "name": (1, STRING), "version": (2, STRING), "extensions": (3, [STRING]),
    },
    "ModelMetadataRequest": {"name": (1, STRING), "version": (2, STRING)},
    "ModelMetadataResponse": {
        "name": (1, STRING), "versions": (2, [STRING]), "platform": (3, STRING),
        "inputs": (4, ["TensorMetadata"]), "outputs": (5, ["TensorMetadata"]),
    },
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "ModelInferRequest": {
        "model_name": (1, STRING), "model_version": (2, STRING), "id": (3, STRING),
        "parameters": (4, ["ParametersEntry"]), "inputs": (5, ["InferInputTensor"]),
        "outputs": (6, ["InferRequestedOutputTensor"]), "raw_input_contents": (7, [BYTES]),
    },
    "ModelInferRequest.InferInputTensor": {
        **_TENSOR, "parameters": (4, ["ParametersEntry"]), "contents": (5, "InferTensorContents"),
    },
    "ModelInferRequest.InferRequestedOutputTensor": {
        "name": (1, STRING), "parameters": (2, ["ParametersEntry"]),
    },
    "ModelInferResponse": {
        "model_name": (1, STRING), "model_version": (2, STRING), "id": (3, STRING),
        "parameters": (4, ["ParametersEntry"]), "outputs": (5, ["InferOutputTensor"]),
        "raw_output_contents": (6, [BYTES]),
    },
    "ModelInferResponse.InferOutputTensor": {
        **_TENSOR, "parameters": (4, ["ParametersEntry"]), "contents": (5, "InferTensorContents"),
    },
    "InferParameter": {
        "bool_param": (1, BOOL), "int64_param": (2, INT64), "string_param": (3, STRING),
        "double_param": (4, DOUBLE), "uint64_param": (5, UINT64),
    },
    "InferTensorContents": {
        "bool_contents": (1, [BOOL]), "int_contents": (2, [INT32]), "int64_contents": (3, [INT64]),
        "uint_contents": (4, [UINT32]), "uint64_contents": (5, [UINT64]),
        "fp32_contents": (6, [FLOAT]), "fp64_contents": (7, [DOUBLE]),
        "bytes_contents": (8, [BYTES]),
    },
    "RepositoryIndexRequest": {"repository_name": (1, STRING), "ready": (2, BOOL)},
    "RepositoryIndexResponse": {"models": (1, ["ModelIndex"])},
    "RepositoryIndexResponse.ModelIndex": {
        "name": (1, STRING), "version": (2, STRING), "state": (3, STRING), "reason": (4, STRING),
    },
    "ModelRepositoryParameter": {
        "bool_param": (1, BOOL), "int64_param": (2, INT64), "string_param": (3, STRING),
        "bytes_param": (4, BYTES),
    },
    "RepositoryModelLoadRequest": _LOAD,
    "RepositoryModelLoadResponse": {"model_name": (1, STRING), "isLoaded": (2, BOOL)},
    "RepositoryModelUnloadRequest": _LOAD,
    "RepositoryModelUnloadResponse": {"model_name": (1, STRING), "isUnloaded": (2, BOOL)},
}  # fmt: skip
METHODS = (
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer",
    "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload",
)  # fmt: skip


def request(**fields: Any) -> Any:
    return inference.messages().ModelInferRequest(**fields)


def tensor(datatype: str = "FP64", shape: tuple[int, ...] = (1,), **fields: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, **fields}


def valueless() -> dict[str, Any]:
    return {"p": inference.messages().InferParameter()}


def parsed(data: bytes) -> Any:
    return inference.parse("ModelInferRequest", data)


def test_messages_are_those_of_the_contract() -> None:
    found: dict[str, dict[str, tuple[int, Any]]] = {}

    def take(kind: Any, prefix: str = "") -> None:
        if kind.options.map_entry:
            return
        fields = {}
        for field in kind.field:
            type_ = field.type_name.rpartition(".")[2] or field.type
            fields[field.name] = (
                field.number,
                [type_] if field.label == field.LABEL_REPEATED else type_,
            )
        found[prefix + kind.name] = fields
        for nested in kind.nested_type:
            take(nested, f"{prefix}{kind.name}.")

    (file,) = inference.file_set().file
    for kind in file.message_type:
        take(kind)
    assert found == MESSAGES


def test_service_has_the_methods_of_the_contract() -> None:
    (file,) = inference.file_set().file
    (service,) = file.service
    assert f"{file.package}.{service.name}" == inference.SERVICE
    assert {(method.name, method.input_type, method.output_type) for method in service.method} == {
        (name, f".inference.{name}Request", f".inference.{name}Response") for name in METHODS
    }


STRANGER = """
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
file = descriptor_pb2.FileDescriptorProto(name="grpc_service.proto", package="inference")
file.message_type.add(name="ModelInferRequest").field.add(
    name="model_name", number=1, type=9, label=1)
def import_client():
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    message = pool.FindMessageTypeByName("inference.ModelInferRequest")
    return message_factory.GetMessageClass(message)(model_name="m")
"""
OURS = """
from pyfuncserver.codec import inference
ours = inference.messages().ModelInferRequest(model_name="m", model_version="1")
"""


@pytest.mark.parametrize("is_first", [True, False])
def test_a_model_may_import_another_package_of_that_name(
    run_script: Callable[..., str], is_first: bool
) -> None:
    imports = ["client = import_client()", OURS] if is_first else [OURS, "client = import_client()"]
    print_both = (
        "print(client.SerializeToString(), inference.asked_model(ours.SerializeToString()))"
    )
    found = run_script("\n".join([STRANGER, *imports, print_both]))
    assert found == "b'\\n\\x01m' ('m', '1')\n"


names = st.one_of(st.text(max_size=4), st.text(min_size=120, max_size=140))


@given(name=names, version=names, id_=st.text(max_size=3))
def test_asked_model_is_what_a_parser_finds(name: str, version: str, id_: str) -> None:
    data = request(
        model_name=name, model_version=version, id=id_, raw_input_contents=[b"\x0a\x01m"]
    ).SerializeToString()
    assert inference.asked_model(data) == (name, version)


@given(st.binary(max_size=12))
def test_asked_model_of_any_bytes(data: bytes) -> None:
    """What is read ahead is what a parser finds, but for what is said again further behind."""
    try:
        found = inference.asked_model(data)
    except ValueError:
        with pytest.raises(ValueError, match="not a ModelInferRequest"):
            parsed(data)
        return
    assert all(isinstance(text, str) for text in found)


def test_asked_model_in_another_order() -> None:
    version_first = request(model_version="2").SerializeToString()
    name = request(model_name="m").SerializeToString()
    assert inference.asked_model(version_first + name) == ("m", "2")
    assert inference.asked_model(name + name + version_first) == ("m", "2")
    assert inference.asked_model(request(id="7").SerializeToString() + name) == ("m", "")
    assert inference.asked_model(b"") == ("", "")


@pytest.mark.parametrize("data", [b"\x0a\x01\xff", b"\x0a\x05m", b"\xff", b"\x0a"])
def test_bytes_that_are_no_message(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a ModelInferRequest"):
        inference.asked_model(data)
    with pytest.raises(ValueError, match="not a ModelInferRequest"):
        parsed(data)


@given(data=st.data(), datatype=st.sampled_from(sorted(set(DTYPES) - {"BYTES"})))
def test_a_tensor_comes_back_as_it_went(data: st.DataObject, datatype: str) -> None:
    dtype = DTYPES[datatype]
    values = data.draw(arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0)))
    sent = Tensor("x", datatype, values, {"p": 1})
    typed = inference.response_of({}, [sent], raw=False)
    raw = inference.response_of({}, [sent], raw=True)
    assert list(raw.raw_output_contents) == [to_raw(sent)]
    assert bool(typed.raw_output_contents) == (datatype == "FP16")
    for response in (typed, raw):
        asked = request(raw_input_contents=list(response.raw_output_contents))
        asked.inputs.add().MergeFromString(response.outputs[0].SerializeToString())
        (found,) = inference.inputs_of(parsed(asked.SerializeToString()))
        assert (found.name, found.datatype, found.parameters) == ("x", datatype, {"p": 1})
        assert (found.values.dtype, found.values.shape) == (dtype, values.shape)
        assert np.array_equal(found.values, values, equal_nan=dtype.kind == "f")


@given(st.lists(st.binary(max_size=4), max_size=5))
def test_bytes_come_back_as_they_went(elements: list[bytes]) -> None:
    values = np.empty(len(elements), object)
    values[:] = elements
    for raw in (False, True):
        response = inference.response_of({}, [Tensor("x", "BYTES", values)], raw)
        asked = request(raw_input_contents=list(response.raw_output_contents))
        asked.inputs.add().MergeFromString(response.outputs[0].SerializeToString())
        (found,) = inference.inputs_of(asked)
        assert found.values.tolist() == elements


def test_one_tensor_that_goes_raw_only_takes_the_others_with_it() -> None:
    both = [
        Tensor("a", "FP32", np.ones(2, np.float32)),
        Tensor("h", "FP16", np.ones(1, np.float16)),
    ]
    response = inference.response_of({"id": "7"}, both, raw=False)
    assert [len(data) for data in response.raw_output_contents] == [8, 2]
    assert not any(output.HasField("contents") for output in response.outputs)
    assert response.id == "7"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"inputs": [tensor()], "raw_input_contents": [b"", b""]}, "1 inputs have 2 raw"),
        ({"inputs": [tensor(), tensor()], "raw_input_contents": [b""]}, "2 inputs have 1 raw"),
        ({"inputs": [tensor()], "raw_input_contents": [bytes(7)]}, r"inputs\[0\]: .* not 7"),
        ({"inputs": [tensor()]}, r"inputs\[0\]: the shape has 1 elements, the data 0"),
        (
            {"inputs": [tensor(contents={"fp64_contents": [1]})], "raw_input_contents": [bytes(8)]},
            r"inputs\[0\]: it has contents beside raw_input_contents",
        ),
        (
            {"inputs": [tensor(), tensor(shape=[-1])], "raw_input_contents": [bytes(8), b""]},
            r"inputs\[1\]: a shape is",
        ),
        ({"inputs": [tensor("FP128")]}, r"inputs\[0\]: only BOOL"),
        ({"inputs": [tensor("FP128")], "raw_input_contents": [b""]}, "datatype is none of"),
        ({"inputs": [tensor(contents={"int_contents": [1]})]}, "in fp64_contents"),
        ({"inputs": [tensor(shape=[2, 2], contents={"fp64_contents": [1]})]}, "shape has 4"),
        ({"inputs": [tensor(shape=[0], parameters=valueless())]}, "a parameter has no value"),
    ],
)
def test_tensors_that_are_not_as_the_protocol_says(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        inference.inputs_of(request(**fields))


values = st.one_of(
    st.booleans(),
    st.integers(inference.INT64_MIN, inference.UINT64_MAX),
    st.floats(allow_nan=False),
    st.text(max_size=5),
)


@given(st.dictionaries(st.text(max_size=3), values, max_size=4))
def test_parameters_come_back_as_they_went(given_: dict[str, Any]) -> None:
    message = request()
    inference.put_parameters(message.parameters, given_)
    found = inference.parameters_of(parsed(message.SerializeToString()).parameters)
    assert found == given_
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in given_.items()
    }


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, None, [1], object()])
def test_parameters_that_the_protocol_does_not_have(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        inference.put_parameters(request().parameters, {"p": value})


def test_our_messages_are_in_no_default_pool(run_script: Callable[..., str]) -> None:
    assert (
        run_script(
            OURS + "from google.protobuf import descriptor_pool as p\n"
            "try:\n    p.Default().FindFileByName('inference/grpc_service.proto')\n"
            "except KeyError:\n    print('not there')"
        )
        == "not there\n"
    )
    assert messages.file_set("inference.binpb") == inference.file_set()
