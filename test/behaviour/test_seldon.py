"""CONTRACTS, section 9: Seldon's REST and gRPC, as its clients rely on them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import grpc
import pytest
from harness import Daemon
from seldon_requests import FEEDBACK, PREDICT, SaveSeldon, post, refused

from pyfuncserver.codec import seldon_proto

ROWS = [[1.5, 2], [3, 4]]
ANSWER = [[3.5, 7.0], [7.0, 14.0]]


@pytest.fixture(scope="module")
def daemon(over_transport: None, save_seldon: SaveSeldon) -> Iterator[Daemon]:
    with Daemon(save_seldon("columns"), env={"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1"}) as running:
        yield running


@pytest.fixture(scope="module")
def unsigned(over_transport: None, save_seldon: SaveSeldon) -> Iterator[Daemon]:
    env = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1", "BATCH_MAX_SIZE": "64"}
    with Daemon(save_seldon("whatever"), env=env) as running:
        yield running


# Predictions over REST


@pytest.mark.parametrize("path", [PREDICT, "/api/v0.1/predictions", "/predict"])
def test_an_ndarray_is_answered_by_an_ndarray(daemon: Daemon, path: str) -> None:
    body = {"data": {"names": ["a", "n"], "ndarray": ROWS}, "meta": {"puid": "p-1"}}
    assert post(daemon, body, path).json() == {
        "data": {"names": ["total", "double"], "ndarray": ANSWER},
        "meta": {"puid": "p-1"},
    }


def test_a_tensor_is_answered_by_a_tensor(daemon: Daemon) -> None:
    answer = post(daemon, {"data": {"tensor": {"shape": [2, 2], "values": [1.5, 2, 3, 4]}}})
    found = answer.json()
    assert found["data"] == {
        "names": ["total", "double"],
        "tensor": {"shape": [2, 2], "values": [3.5, 7.0, 7.0, 14.0]},
    }
    assert found["meta"] == {"puid": answer.headers["X-Request-Id"]}


def test_names_put_columns_in_order(daemon: Daemon) -> None:
    swapped = {"data": {"names": ["n", "a"], "ndarray": [[n, a] for a, n in ROWS]}}
    assert post(daemon, swapped).json()["data"]["ndarray"] == ANSWER


def test_values_by_column(daemon: Daemon) -> None:
    for held in ({"a": [1.5, 3], "n": [2.0, 4.0]}, {"a": 1.5, "n": 2}):
        tensor = post(daemon, {"jsonData": held}).json()["data"]["tensor"]
        assert tensor["values"][:2] == ANSWER[0]


def test_an_answer_without_numbers_is_an_ndarray(daemon: Daemon) -> None:
    answer = post(daemon, {"data": {"tensor": {"shape": [1, 2], "values": [1000, 1]}}})
    assert answer.json()["data"] == {"names": ["total"], "ndarray": [["1001.0"]]}


def test_what_else_the_meta_holds_goes_back(daemon: Daemon) -> None:
    meta = {"puid": "x", "tags": {"k": [1, None]}, "routing": {"r": 1}, "requestPath": {"m": "i"}}
    assert post(daemon, {"data": {"ndarray": ROWS}, "meta": meta}).json()["meta"] == meta


def _multipart(fields: Mapping[str, bytes], files: Mapping[str, bytes]) -> tuple[bytes, Any]:
    parts = [
        b'--limit\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        % (name.encode(), value)
        for name, value in fields.items()
    ]
    parts += [
        b'--limit\r\nContent-Disposition: form-data; name="%b"; filename="f"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n%b\r\n" % (name.encode(), value)
        for name, value in files.items()
    ]
    return b"".join(parts) + b"--limit--\r\n", {
        "Content-Type": "multipart/form-data; boundary=limit"
    }


def test_a_form(daemon: Daemon) -> None:
    held = json.dumps({"data": {"ndarray": ROWS}})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = post(daemon, urlencode({"json": held}), headers=headers)
    assert answer.json()["data"]["ndarray"] == ANSWER


def test_a_multipart_form(daemon: Daemon, unsigned: Daemon) -> None:
    data, meta = json.dumps({"ndarray": ROWS}).encode(), b'{"puid": "m"}'
    body, headers = _multipart({"data": data, "meta": meta}, {})
    found = post(daemon, body, headers=headers).json()
    assert (found["data"]["ndarray"], found["meta"]) == (ANSWER, {"puid": "m"})
    body, headers = _multipart({}, {"binData": b"a\0\r\n\xff"})
    found = post(unsigned, body, headers=headers).json()
    assert base64.b64decode(found["binData"]) == b"\xff\n\r\0a"
    body, headers = _multipart({}, {"strData": b"text"})
    assert post(unsigned, body, headers=headers).json()["strData"] == "TEXT"


BAD = {
    "no JSON": b"{",
    "not an object": b"[1]",
    "nothing in it": b"{}",
    "two things": b'{"strData": "a", "jsonData": 1}',
    "no array": b'{"data": {}}',
    "two arrays": b'{"data": {"ndarray": [], "tensor": {}}}',
    "an unknown type": b'{"customData": {"@type": "x"}}',
    "a TensorProto": b'{"data": {"tftensor": {}}}',
    "names that are none": b'{"data": {"names": [1], "ndarray": [[1, 2]]}}',
    "too few columns": b'{"data": {"ndarray": [[1]]}}',
    "too many names": b'{"data": {"names": ["a", "n", "x"], "ndarray": [[1, 2]]}}',
    "a name twice": b'{"data": {"names": ["a", "a"], "ndarray": [[1, 2]]}}',
    "other names": b'{"data": {"names": ["a", "x"], "ndarray": [[1, 2]]}}',
    "a torn tensor": b'{"data": {"tensor": {"shape": [2, 2], "values": [1, 2, 3]}}}',
    "a shape below 0": b'{"data": {"tensor": {"shape": [-1, 2], "values": [1, 2]}}}',
    "a tensor of text": b'{"data": {"tensor": {"shape": [1, 2], "values": ["secret", 1]}}}',
    "text for a number": b'{"data": {"ndarray": [["secret", 1]]}}',
    "rows and values": b'{"data": {"ndarray": [[1, 2], 3]}}',
    "no base64": b'{"binData": "secret!"}',
    "strData of no text": b'{"strData": 1}',
    "meta of no object": b'{"strData": "a", "meta": 1}',
    "text for columns": b'{"strData": "secret"}',
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request(daemon: Daemon, name: str) -> None:
    info = refused(post(daemon, BAD[name]), 400, "MICROSERVICE_BAD_DATA")
    assert info
    assert "secret" not in info


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_bad_form(daemon: Daemon, kind: str) -> None:
    for body in (b"\xff", b"json=secret", b"json"):
        info = refused(
            post(daemon, body, headers={"Content-Type": kind}), 400, "MICROSERVICE_BAD_DATA"
        )
        assert "secret" not in info


def test_a_model_that_fails(daemon: Daemon) -> None:
    answer = post(daemon, {"data": {"ndarray": [[-1, 1]]}})
    assert "error id" in refused(answer, 500, "MICROSERVICE_INTERNAL_ERROR")
    assert "secret" not in answer.text


def test_refusals_have_the_shape(daemon: Daemon) -> None:
    refused(daemon.http("GET", PREDICT), 405, "MICROSERVICE_BAD_DATA")
    refused(daemon.http("GET", "/api/v1.0/nothing"), 404, "MICROSERVICE_BAD_DATA")
    refused(daemon.http("POST", "/metadata", b""), 405, "MICROSERVICE_BAD_DATA")
    late = post(daemon, {"data": {"ndarray": ROWS}}, headers={"X-Request-Timeout": "soon"})
    refused(late, 400, "MICROSERVICE_BAD_DATA")


# A model without a signature


def test_arrays_stay_arrays(unsigned: Daemon) -> None:
    data = post(unsigned, {"data": {"names": ["x", "y"], "ndarray": ROWS}}).json()["data"]
    assert data == {"names": ["t:0", "t:1"], "ndarray": [[3.0, 4.0], [6.0, 8.0]]}
    flat = post(unsigned, {"data": {"tensor": {"values": [1, 2]}}}).json()["data"]
    assert flat == {"names": [], "tensor": {"shape": [2], "values": [2, 4]}}
    deep = post(unsigned, {"data": {"tensor": {"shape": [1, 1, 2], "values": [1, 2]}}}).json()
    assert deep["data"]["tensor"]["shape"] == [1, 1, 2]
    words = post(unsigned, {"data": {"ndarray": [["a", "b"]]}}).json()["data"]["ndarray"]
    assert words == [["a", "b"]]


def test_a_tensor_says_nan_as_protobuf_does(unsigned: Daemon) -> None:
    tensor = {"shape": [3], "values": [1, "NaN", "-Infinity"]}
    found = post(unsigned, {"data": {"tensor": tensor}}).json()["data"]["tensor"]
    assert found["values"] == [2.0, "NaN", "-Infinity"]


def test_ragged_rows(unsigned: Daemon) -> None:
    answer = post(unsigned, {"data": {"ndarray": [[1], [1, 2]]}})
    assert "lengths" in refused(answer, 400, "MICROSERVICE_BAD_DATA")


@pytest.mark.parametrize("held", [{"a": [1, {"b": None}]}, [1, 2], 5, None, True])
def test_json_is_handed_on(unsigned: Daemon, held: Any) -> None:
    found = post(unsigned, {"jsonData": held}).json()["jsonData"]
    assert found == {"type": type(held).__name__, "held": held}


def test_text_and_bytes_are_handed_on(unsigned: Daemon) -> None:
    assert post(unsigned, {"strData": "ä"}).json()["strData"] == "Ä"
    assert post(unsigned, {"binData": "AAE="}).json()["binData"] == "AQA="


# Feedback


@pytest.mark.parametrize("path", [FEEDBACK, "/api/v0.1/feedback", "/send-feedback"])
def test_feedback_is_handed_to_the_model(daemon: Daemon, path: str) -> None:
    before = [daemon.metric("pyfuncserver_feedback_total")]
    before += [
        daemon.metric("pyfuncserver_feedback_reward_total", sign=sign)
        for sign in ("positive", "negative")
    ]
    body = {
        "request": {"data": {"names": ["a", "n"], "ndarray": ROWS}},
        "response": {"meta": {"puid": "p-2", "routing": {"router": 1}}},
        "truth": {"data": {"tensor": {"shape": [2], "values": [1, 2]}}},
        "reward": 0.5,
    }
    found = post(daemon, body, path).json()
    assert found["jsonData"] == {
        "told": ["ndarray", "ndarray"],
        "shapes": [[2, 2], [2]],
        "names": ["a", "n"],
        "reward": 0.5,
        "routing": 1,
    }
    assert found["meta"] == {"puid": "p-2"}
    least = post(daemon, {"reward": -2}, path).json()["jsonData"]
    assert (least["told"], least["routing"]) == (["NoneType", "NoneType"], None)
    assert daemon.metric("pyfuncserver_feedback_total") == before[0] + 2
    rewards = [
        daemon.metric("pyfuncserver_feedback_reward_total", sign=sign)
        for sign in ("positive", "negative")
    ]
    assert rewards == [before[1] + 0.5, before[2] + 2]


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"reward": "much"}', b'{"truth": 1}'])
def test_bad_feedback(daemon: Daemon, body: bytes) -> None:
    refused(post(daemon, body, FEEDBACK), 400, "MICROSERVICE_BAD_DATA")


def test_a_model_that_fails_at_feedback(daemon: Daemon) -> None:
    answer = post(daemon, {"reward": 13}, FEEDBACK)
    refused(answer, 500, "MICROSERVICE_INTERNAL_ERROR")
    assert "secret" not in answer.text


def test_feedback_for_a_model_that_takes_none(unsigned: Daemon) -> None:
    found = post(unsigned, {"request": {"data": {"ndarray": ROWS}}, "reward": 1}, FEEDBACK).json()
    assert found["data"] == {"names": [], "ndarray": []}
    assert unsigned.metric("pyfuncserver_feedback_total") >= 1


# Pages


def test_health(daemon: Daemon) -> None:
    assert daemon.http("GET", "/health/ping").text == "pong"
    for path in ("/health/status", "/api/v1.0/health/status"):
        assert daemon.http("GET", path).status == 200


@pytest.mark.parametrize("path", ["/metadata", "/api/v1.0/metadata"])
def test_metadata(daemon: Daemon, path: str) -> None:
    found = daemon.http("GET", path).json()
    assert (found["name"], found["versions"]) == ("model", ["1"])
    assert found["inputs"] == [
        {"messagetype": "ndarray", "schema": {"names": ["a", "n"], "shape": [2]}}
    ]
    assert found["outputs"][0]["schema"] == {"names": ["total", "double"], "shape": [2]}


# gRPC


def call(daemon: Daemon, method: str, message: bytes) -> Any:
    with daemon.channel() as channel:
        return channel.unary_unary(f"/seldon.protos.{method}")(message, timeout=30)


def message(**fields: Any) -> Any:
    return seldon_proto.classes().SeldonMessage(**fields)


def parsed(data: bytes, name: str = "SeldonMessage") -> Any:
    return getattr(seldon_proto.classes(), name).FromString(data)


@pytest.mark.parametrize("service", ["Model", "Seldon"])
def test_predict_over_grpc(daemon: Daemon, service: str) -> None:
    request = message(meta={"puid": "g"})
    request.data.tensor.shape.extend((2, 2))
    request.data.tensor.values.extend((1.5, 2, 3, 4))
    answer = parsed(
        call(daemon, f"{service}.Predict".replace(".", "/"), request.SerializeToString())
    )
    assert list(answer.data.names) == ["total", "double"]
    assert list(answer.data.tensor.values) == [3.5, 7.0, 7.0, 14.0]
    assert answer.meta.puid == "g"


def test_rows_over_grpc(daemon: Daemon) -> None:
    request = message()
    request.data.names.extend(("n", "a"))
    row = request.data.ndarray.values.add().list_value.values
    row.add(number_value=2), row.add(number_value=1.5)
    answer = parsed(call(daemon, "Model/Predict", request.SerializeToString()))
    rows = [
        [cell.number_value for cell in row.list_value.values] for row in answer.data.ndarray.values
    ]
    assert rows == ANSWER[:1]
    assert answer.meta.puid


def test_a_tensorproto_over_grpc(daemon: Daemon) -> None:
    request = message()
    tensor = request.data.tftensor
    tensor.dtype = 1
    for size in (1, 2):
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.extend((1.5, 2))
    answer = parsed(call(daemon, "Model/Predict", request.SerializeToString())).data.tftensor
    assert [dim.size for dim in answer.tensor_shape.dim] == [1, 2]
    assert len(answer.tensor_content) == 16


def test_other_contents_over_grpc(unsigned: Daemon) -> None:
    for fields, expected in (
        ({"strData": "ab"}, "AB"),
        ({"binData": b"\0\1"}, b"\1\0"),
    ):
        request = message(**fields).SerializeToString()
        answer = parsed(call(unsigned, "Model/Predict", request))
        assert getattr(answer, next(iter(fields))) == expected
    request = message()
    request.jsonData.struct_value.fields["x"].number_value = 1
    answer = parsed(call(unsigned, "Model/Predict", request.SerializeToString()))
    assert answer.jsonData.struct_value.fields["type"].string_value == "dict"


def test_errors_over_grpc(daemon: Daemon) -> None:
    failing = message()
    failing.data.tensor.shape.extend((1, 2))
    failing.data.tensor.values.extend((-1, 2))
    torn = message()
    torn.data.tensor.shape.append(3)
    for method, body, code in (
        ("Model/Predict", b"\xff", "INVALID_ARGUMENT"),
        ("Model/Predict", b"", "INVALID_ARGUMENT"),
        ("Model/Predict", torn.SerializeToString(), "INVALID_ARGUMENT"),
        ("Model/Predict", failing.SerializeToString(), "INTERNAL"),
        ("Generic/SendFeedback", b"\xff", "INVALID_ARGUMENT"),
        ("Generic/Aggregate", b"", "UNIMPLEMENTED"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(daemon, method, body)
        assert caught.value.code().name == code
        assert "secret" not in caught.value.details()


@pytest.mark.parametrize("service", ["Model", "Seldon", "Generic"])
def test_feedback_over_grpc(daemon: Daemon, service: str) -> None:
    feedback = seldon_proto.classes().Feedback(reward=2)
    feedback.request.data.tensor.shape.extend((1, 2))
    feedback.request.data.tensor.values.extend((1, 2))
    before = daemon.metric("pyfuncserver_feedback_total")
    answer = parsed(call(daemon, f"{service}/SendFeedback", feedback.SerializeToString()))
    assert answer.jsonData.struct_value.fields["reward"].number_value == 2
    assert daemon.metric("pyfuncserver_feedback_total") == before + 1


@pytest.mark.parametrize("method", ["Model/Metadata", "Seldon/ModelMetadata"])
def test_metadata_over_grpc(daemon: Daemon, method: str) -> None:
    found = parsed(call(daemon, method, b""), "SeldonModelMetadata")
    assert (found.name, list(found.versions)) == ("model", ["1"])
    assert [part.messagetype for part in found.inputs] == ["ndarray"]
