"""The Open Inference Protocol over gRPC: a real daemon, asked with messages of its own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from harness import Daemon, wait_until

from pyfuncserver.codec import inference, upi
from pyfuncserver.codec.tensors import DTYPES, Tensor, from_raw, to_raw

BOTH = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1"}
WAIT_S = 30
TOKEN = "the-secret-token"
SECRET = "the model's own secret"

Save = Callable[..., Path]
Infer = Callable[..., Any]


def models() -> Any:
    from behaviour import oip_models  # where warnings are no errors

    return oip_models


@pytest.fixture(scope="session")
def acting_model(save_model: Save) -> Path:
    return save_model("acting", lambda _, path: models().save(models().Acting(), path))


@pytest.fixture(scope="session")
def scaling_model(save_model: Save) -> Path:
    return save_model("scaling", lambda _, path: models().save_scaling(path))


@pytest.fixture(scope="session")
def rows_model(save_model: Save) -> Path:
    return save_model("rows", lambda models, path: models.save_rows(path))


@pytest.fixture(scope="module")
def acting(acting_model: Path) -> Iterator[Daemon]:
    env = {**BOTH, "MAX_BODY_SIZE": "100000"}
    env["GRPC_OPTIONS"] = '{"grpc.max_send_message_length": 90000}'
    with Daemon(acting_model, env=env) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def scaling(scaling_model: Path) -> Iterator[Daemon]:
    with Daemon(scaling_model, env={**BOTH, "CARAML_MODEL_NAME": "scaling"}) as daemon:
        yield daemon


def ask(
    where: Daemon | grpc.Channel, name: str, request: Any = None, timeout: float = 30, **more: Any
) -> Any:
    """Call a method; a request may be a message, its bytes, or None for an empty one."""
    if isinstance(where, Daemon):
        with where.channel() as channel:
            return ask(channel, name, request, timeout, **more)
    body = request if isinstance(request, bytes) else b""
    if request is not None and not isinstance(request, bytes):
        body = request.SerializeToString()
    answer = where.unary_unary(f"/{inference.SERVICE}/{name}")(body, timeout=timeout, **more)
    return inference.parse(f"{name}Response", answer)


def refusal(*args: Any, **more: Any) -> tuple[str, str]:
    """Give the code's name and the details with which a call fails."""
    with pytest.raises(grpc.RpcError) as caught:
        ask(*args, **more)
    return caught.value.code().name, caught.value.details()


def request(*tensors: Tensor, raw: bool = True, model: str = "model", **fields: Any) -> Any:
    made = inference.messages().ModelInferRequest(model_name=model, **fields)
    response = inference.response_of({}, tensors, raw)  # its outputs are as inputs are
    for output in response.outputs:
        made.inputs.add().MergeFromString(output.SerializeToString())
    made.raw_input_contents.extend(response.raw_output_contents)
    return made


def x(values: Any, dtype: Any = np.float64, name: str = "x") -> Tensor:
    array = np.array(values, dtype)
    datatype = next(key for key, kept in DTYPES.items() if kept == array.dtype)
    return Tensor(name, datatype, array)


def values(response: Any) -> dict[str, Any]:
    """Give an answer's tensors by their names."""
    if response.raw_output_contents:
        return {
            output.name: from_raw(output.datatype, list(output.shape), data)
            for output, data in zip(response.outputs, response.raw_output_contents, strict=True)
        }
    asked = inference.messages().ModelInferRequest()
    for output in response.outputs:
        asked.inputs.add().MergeFromString(output.SerializeToString())
    return {tensor.name: tensor.values for tensor in inference.inputs_of(asked)}


SAMPLES = {
    "BOOL": [True, False, True],
    "INT8": [-128, 0, 127],
    "INT16": [-(2**15), 0, 2**15 - 1],
    "INT32": [-(2**31), 0, 2**31 - 1],
    "INT64": [-(2**63), 0, 2**63 - 1],
    "UINT8": [0, 1, 255],
    "UINT16": [0, 1, 2**16 - 1],
    "UINT32": [0, 1, 2**32 - 1],
    "UINT64": [0, 1, 2**64 - 1],
    "FP16": [1.5, float("inf"), float("nan")],
    "FP32": [1.5, float("-inf"), float("nan")],
    "FP64": [0.1, 1e300, float("nan")],
    "BYTES": [b"a", b"", b"\xff\x00"],
}


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_every_datatype_comes_back_as_it_was_sent(acting: Daemon, raw: bool) -> None:
    names = [name for name in SAMPLES if raw or name != "FP16"]
    sent = [Tensor(name, name, np.array([SAMPLES[name]], DTYPES[name]).T) for name in names]
    answer = ask(acting, "ModelInfer", request(*sent, raw=raw, id="7"))
    assert (answer.model_name, answer.model_version, answer.id) == ("model", "1", "7")
    assert [(output.name, output.datatype) for output in answer.outputs] == [(n, n) for n in names]
    assert all(list(output.shape) == [3, 1] for output in answer.outputs)
    assert len(answer.raw_output_contents) == (len(names) if raw else 0)
    found = values(answer)
    for tensor in sent:
        np.testing.assert_array_equal(found[tensor.name], tensor.values, strict=True)


def test_text_is_text_to_the_model_and_bytes_on_the_wire(acting: Daemon) -> None:
    for raw in (True, False):
        sent = request(x(["ä".encode(), b"x"], object), raw=raw)
        assert values(ask(acting, "ModelInfer", sent))["output-0"].tolist() == ["ä".encode(), b"x"]


def test_half_floats_have_no_typed_contents(acting: Daemon) -> None:
    sent = request(x([1, 2], np.float16), x([1, 2], np.int8, "i"))
    del sent.raw_input_contents[:]
    sent.inputs[1].contents.int_contents.extend([1, 2])
    code, details = refusal(acting, "ModelInfer", sent)
    assert (code, "FP16 travels raw" in details) == ("INVALID_ARGUMENT", True)


def test_an_empty_tensor_and_one_of_many_dimensions(acting: Daemon) -> None:
    sent = [Tensor("e", "FP32", np.empty((0, 3), np.float32)), x(np.ones((1, 2, 3, 4)), name="d")]
    for raw in (True, False):
        found = values(ask(acting, "ModelInfer", request(*sent, raw=raw)))
        assert (found["e"].shape, found["d"].shape) == ((0, 3), (1, 2, 3, 4))


@pytest.mark.parametrize(("name", "version"), [("model", ""), ("model-1", "1"), ("model", "1")])
def test_names_of_the_model(acting: Daemon, name: str, version: str) -> None:
    answer = ask(acting, "ModelInfer", request(x([1.0]), model=name, model_version=version))
    assert (answer.model_name, answer.model_version, len(answer.id)) == ("model", "1", 32)
    ready = inference.messages().ModelReadyRequest(name=name, version=version)
    assert ask(acting, "ModelReady", ready).ready


def test_other_models(acting: Daemon) -> None:
    before = acting.metric("pyfuncserver_request_errors_total", dialect="v2_grpc")
    for name, version in (("other", ""), ("model", "2"), ("model-1", "2")):
        asked = request(x([1.0]), model=name, model_version=version)
        assert refusal(acting, "ModelInfer", asked)[0] == "NOT_FOUND"
        for method in ("ModelReady", "ModelMetadata"):
            message = getattr(inference.messages(), f"{method}Request")(name=name, version=version)
            assert refusal(acting, method, message)[0] == "NOT_FOUND"
    counted = acting.metric("pyfuncserver_request_errors_total", dialect="v2_grpc")
    assert counted == before + 3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda sent: sent.inputs[0].shape.append(2),
        lambda sent: sent.inputs.pop(),
        lambda sent: sent.raw_input_contents.append(b""),
        lambda sent: sent.inputs[0].contents.fp64_contents.append(1),
        lambda sent: setattr(sent.inputs[0], "datatype", "FP63"),
        lambda sent: setattr(sent.inputs[0], "datatype", ""),
        lambda sent: sent.inputs[0].shape.__setitem__(0, -1),
        lambda sent: sent.inputs[0].shape.extend([2**62, 2**62, 0]),
        lambda sent: sent.inputs[0].shape.extend([1] * 100),
        lambda sent: setattr(sent, "model_name", ""),
        lambda sent: sent.outputs.add(name="nobody"),
        lambda sent: sent.inputs.add().CopyFrom(sent.inputs[0]),
        lambda sent: sent.parameters["p"].SetInParent(),
        lambda sent: (sent.inputs.pop(), sent.raw_input_contents.pop()),
    ],
)
def test_requests_that_are_wrong(acting: Daemon, spoil: Callable[[Any], None]) -> None:
    sent = request(x([7331.0]))
    spoil(sent)
    code, details = refusal(acting, "ModelInfer", sent)
    assert code == "INVALID_ARGUMENT"
    assert details
    assert "7331" not in details
    assert "Traceback" not in details


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\x01\xff", b"\x0a\x05model\x2a\x7f", b""])
def test_bytes_that_are_no_request(acting: Daemon, body: bytes) -> None:
    assert refusal(acting, "ModelInfer", body)[0] == "INVALID_ARGUMENT"
    assert refusal(acting, "ModelMetadata", body)[0] == "INVALID_ARGUMENT"


def test_what_is_too_large(acting: Daemon) -> None:
    code, details = refusal(acting, "ModelInfer", request(x(np.ones(15_000))))
    assert (code, "100000 bytes (MAX_BODY_SIZE)" in details) == ("RESOURCE_EXHAUSTED", True)
    code, details = refusal(acting, "ModelInfer", request(x(np.ones(12_000))))
    assert code == "RESOURCE_EXHAUSTED"
    assert "The answer exceeds the limit of 90000 bytes" in details


def test_deadline(acting: Daemon) -> None:
    def passed() -> float:
        return acting.metric(
            "pyfuncserver_request_errors_total", dialect="v2_grpc", kind="deadline"
        )

    before, started = passed(), time.monotonic()
    sent = request(x([5.0], name="seconds"), x([1.0]))
    assert refusal(acting, "ModelInfer", sent, timeout=1)[0] == "DEADLINE_EXCEEDED"
    assert time.monotonic() - started < 5
    wait_until(lambda: passed() == before + 1, WAIT_S)


def test_the_models_own_faults(acting: Daemon) -> None:
    for name, what in (("fail", "failed to answer"), ("odd", "cannot be sent as tensors")):
        sent = request(x([1.0], name=name), x([1.0]))
        code, details = refusal(acting, "ModelInfer", sent)
        assert (code, what in details, "error id" in details) == ("INTERNAL", True, True)
        assert SECRET not in details
        error_id = details.rpartition("error id ")[2].rstrip(")")
        assert any(error_id in line for line in acting.log_lines())


def test_upi_is_spoken_on_the_same_port(acting: Daemon) -> None:
    with acting.channel() as channel:
        asked = upi.messages().PredictValuesRequest(target_name="t")
        asked.prediction_table.columns.add(name="a", type=upi.DOUBLE)
        asked.prediction_table.rows.add(row_id="1").values.add(double_value=1.5)
        answer = acting.upi(asked, channel=channel)
        assert answer.prediction_result_table.rows[0].values[0].double_value == 1.5
        assert values(ask(channel, "ModelInfer", request(x([1.5]))))["output-0"].tolist() == [1.5]


def test_a_signature_of_tensors(scaling: Daemon) -> None:
    sent = x([[1, 2, 3]], np.float32)
    for raw in (True, False):
        answer = ask(scaling, "ModelInfer", request(sent, raw=raw, model="scaling"))
        found = values(answer)
        assert (found["y"].tolist(), found["rows"].tolist()) == ([[2, 4, 6]], [1])
    asked = request(sent, model="scaling", outputs=[{"name": "rows"}])
    inference.put_parameters(asked.parameters, {"factor": 3.0, "unknown": True})
    assert list(values(ask(scaling, "ModelInfer", asked))) == ["rows"]
    del asked.outputs[:]
    assert values(ask(scaling, "ModelInfer", asked))["y"].tolist() == [[3, 6, 9]]


@pytest.mark.parametrize(
    "sent",
    [
        x([[1, 2, 3]], np.float64),
        x([["1", "2", "3"]], object),
        x([[1, 2]], np.float32),
        x([1, 2, 3], np.float32),
    ],
    ids=["doubles", "strings", "too few", "too flat"],
)
def test_what_the_signature_refuses(scaling: Daemon, sent: Tensor) -> None:
    for raw in (True, False):
        code, details = refusal(scaling, "ModelInfer", request(sent, raw=raw, model="scaling"))
        assert code == "INVALID_ARGUMENT"
        assert details


def test_the_controls(scaling: Daemon) -> None:
    with scaling.channel() as channel:
        assert ask(channel, "ServerLive").live
        assert ask(channel, "ServerReady").ready
        (entry,) = ask(channel, "RepositoryIndex").models
        assert (entry.name, entry.version, entry.state) == ("scaling", "1", "READY")
        assert refusal(channel, "RepositoryModelLoad")[0] == "INVALID_ARGUMENT"
        assert refusal(channel, "RepositoryModelLoad", b"\x12\x05other")[0] == "NOT_FOUND"


def test_a_model_is_loaded_again_while_it_serves(scaling_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(scaling_model, tmp_path / "model")
    named = inference.messages().RepositoryModelLoadRequest(model_name="model")
    sent = request(x([[1, 2, 3]], np.float32))
    with Daemon(model, env={"CARAML_PROTOCOL": "UPI_V1"}) as daemon:
        before = daemon.worker_pids()
        answer = ask(daemon, "RepositoryModelLoad", named, timeout=60)
        assert (answer.model_name, answer.isLoaded) == ("model", True)
        # The ready file is written a moment later.
        after = wait_until(lambda: daemon.worker_pids() - before, WAIT_S)
        (model / "MLmodel").write_text("spoilt", encoding="utf-8")
        code, details = refusal(daemon, "RepositoryModelLoad", named, timeout=60)
        assert (code, "serve on: the model" in details) == ("INTERNAL", True)
        assert daemon.worker_pids() == after
        assert values(ask(daemon, "ModelInfer", sent))["y"].tolist() == [[2, 4, 6]]


def test_metadata_is_that_of_rest(scaling: Daemon) -> None:
    with scaling.channel() as channel:
        server = ask(channel, "ServerMetadata")
        over_rest = scaling.http("GET", "/v2").json()
        assert {
            "name": server.name, "version": server.version, "extensions": list(server.extensions)
        } == over_rest  # fmt: skip
        asked = inference.messages().ModelMetadataRequest(name="scaling")
        model = ask(channel, "ModelMetadata", asked)
    assert [t.name for t in model.inputs] == ["x"]
    assert [t.name for t in model.outputs] == ["y", "rows"]
    assert {
        "name": model.name,
        "versions": list(model.versions),
        "platform": model.platform,
        "inputs": [_as_json(tensor) for tensor in model.inputs],
        "outputs": [_as_json(tensor) for tensor in model.outputs],
    } == scaling.http("GET", "/v2/models/scaling").json()


def _as_json(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def test_a_token_is_needed_for_predictions_and_the_repository(
    acting_model: Path, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n", encoding="utf-8")
    bearer = [("authorization", f"Bearer {TOKEN}")]
    model = inference.messages().RepositoryModelLoadRequest(model_name="model")
    guarded = {
        "ModelInfer": request(x([1.0])),
        "RepositoryIndex": None,
        "RepositoryModelLoad": model,
    }
    env = {"CARAML_PROTOCOL": "UPI_V1", "TOKEN_FILE": str(tokens)}
    with Daemon(acting_model, env=env) as daemon, daemon.channel() as channel:
        for name, message in guarded.items():
            assert refusal(channel, name, message)[0] == "UNAUTHENTICATED"
            assert ask(channel, name, message, metadata=bearer)
        assert refusal(channel, "RepositoryModelUnload", model)[0] == "UNAUTHENTICATED"
        assert ask(channel, "ServerReady").ready
        named = inference.messages().ModelMetadataRequest(name="model")
        assert ask(channel, "ModelMetadata", named).platform


def test_calls_that_wait_go_to_the_model_together(rows_model: Path) -> None:
    env = {"CARAML_PROTOCOL": "UPI_V1", "BATCH_MAX_SIZE": "8", "THREADS": "1"}
    with Daemon(rows_model, env=env) as daemon, daemon.channel() as channel:
        infer = channel.unary_unary(f"/{inference.SERVICE}/ModelInfer")

        def send(*numbers: float) -> Any:
            return infer.future(request(x(numbers)).SerializeToString(), timeout=WAIT_S)

        gate = daemon.gate()
        busy = send(2000.0 + gate.number)
        wait_until(lambda: daemon.metric("pyfuncserver_requests_in_flight") == 1, WAIT_S)
        calls = [send(number, number) for number in range(4)]
        wait_until(lambda: daemon.metric("pyfuncserver_requests_in_flight") == 5, WAIT_S)
        assert not busy.done()
        gate.open()
        for number, call in enumerate(calls):
            found = values(inference.parse("ModelInferResponse", call.result()))
            assert found["y"].tolist() == [2 * number] * 2
            assert found["rows"].tolist() == [8, 8]


def test_two_workers(acting_model: Path) -> None:
    env = {**BOTH, "WORKERS": "2"}

    def call(number: int) -> tuple[int, float]:
        with daemon.channel() as channel:
            answers = [values(ask(channel, "ModelInfer", one)) for one in asked(number)]
            return answers[0]["pid"][0], answers[1]["output-0"][0]

    def asked(number: int) -> tuple[Any, Any]:
        return request(x([1.0], name="pid"), x([1.0])), request(x([float(number)]))

    with Daemon(acting_model, env=env) as daemon, ThreadPoolExecutor(8) as threads:
        found: set[int] = set()

        def both_have_answered() -> bool:
            for number, (pid, echo) in enumerate(threads.map(call, range(16))):
                assert echo == number
                found.add(pid)
            return found == daemon.worker_pids()

        wait_until(both_have_answered, WAIT_S)


def test_bytes_elements_are_as_long_as_they_say(acting: Daemon) -> None:
    sent = request(x([b"abc", b"d"], object))
    assert sent.raw_input_contents[0] == to_raw(x([b"abc", b"d"], object))
    sent.raw_input_contents[0] = sent.raw_input_contents[0][:-1]
    assert refusal(acting, "ModelInfer", sent)[0] == "INVALID_ARGUMENT"
