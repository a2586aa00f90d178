"""CONTRACTS, section 7: the Open Inference Protocol over REST, by what clients of it send."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import Answer, Daemon

Save = Callable[..., Path]

FEATURES = [f"{part} {size} (cm)" for part in ("sepal", "petal") for size in ("length", "width")]
ROWS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]
JSON_LENGTH = "Inference-Header-Content-Length"


def infer(daemon: Daemon, body: Any, raw: bytes = b"", path: str = "model") -> Answer:
    head = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {JSON_LENGTH: str(len(head))} if raw else {}
    return daemon.http("POST", f"/v2/models/{path}/infer", head + raw, headers)


def tensor(name: str, datatype: str, data: Any, **parameters: Any) -> dict[str, Any]:
    shape = list(np.shape(np.array(data, dtype=object)))
    head = {"name": name, "datatype": datatype, "shape": shape, "data": data}
    return {**head, "parameters": parameters} if parameters else head


def outputs(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer.text
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


def refusal(answer: Answer, status: int = 400) -> str:
    """Give what is said, which is all that the body holds."""
    assert answer.status == status, answer.text
    body = answer.json()
    assert list(body) == ["error"]
    assert "Traceback" not in body["error"]
    return str(body["error"])


def saved(save_model: Save, name: str) -> Path:
    def save(_: Any, path: Path) -> Path:
        import tensor_models

        made: Path = getattr(tensor_models, f"save_{name}")(path)
        return made

    return save_model(f"tensors_{name}", save)


# Columns


@pytest.fixture(scope="module")
def iris(over_transport: None, iris_model: Path) -> Iterator[Daemon]:
    with Daemon(iris_model) as running:
        yield running


def test_the_server(iris: Daemon) -> None:
    body = iris.http("GET", "/v2").json()
    assert (body["name"], sorted(body)) == ("pyfuncserver", ["extensions", "name", "version"])
    assert body["extensions"] == ["binary_tensor_data", "model_repository"]
    assert iris.http("GET", "/v2/models").json() == {"models": ["model"]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/model/ready", {"name": "model", "ready": True}),
        ("/v2/models/model-1/ready", {"name": "model-1", "ready": True}),
        ("/v2/models/model/versions/1/ready", {"name": "model", "ready": True}),
    ],
)
def test_health(iris: Daemon, path: str, body: dict[str, Any]) -> None:
    answer = iris.http("GET", path)
    assert (answer.status, answer.json()) == (200, body)
    assert iris.http("HEAD", path).status == 200


@pytest.mark.parametrize("path", ["model", "model-1", "model/versions/1", "model-1/versions/1"])
def test_metadata(iris: Daemon, path: str) -> None:
    answer = iris.http("GET", f"/v2/models/{path}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json() == {
        "name": "model",
        "versions": ["1"],
        "platform": "mlflow_sklearn",
        "inputs": [{"name": name, "datatype": "FP64", "shape": [-1]} for name in FEATURES],
        "outputs": [{"name": "output-0", "datatype": "INT64", "shape": [-1]}],
    }


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "nobody"),
    ("GET", "nobody/ready"),
    ("GET", "model/versions/2"),
    ("GET", "model/versions/2/ready"),
    ("POST", "nobody/infer"),
    ("POST", "model/versions/2/infer"),
])  # fmt: skip
def test_a_model_that_is_not_there(iris: Daemon, method: str, path: str) -> None:
    answer = iris.http(method, f"/v2/models/{path}", b"{}" if method == "POST" else None)
    assert refusal(answer, 404).endswith("does not exist.")


def test_paths_and_methods(iris: Daemon) -> None:
    refusal(iris.http("GET", "/v2/nothing"), 404)
    refusal(iris.http("GET", "/v2/models/model/infer"), 405)
    refusal(iris.http("POST", "/v2/health/live", b""), 405)


@pytest.mark.parametrize("path", ["model", "model-1", "model/versions/1"])
def test_a_tensor_for_each_column(iris: Daemon, path: str) -> None:
    columns = zip(FEATURES, zip(*ROWS, strict=True), strict=True)
    inputs = [tensor(name, "FP64", list(column)) for name, column in columns]
    answer = infer(iris, {"id": "42", "inputs": inputs}, path=path)
    assert answer.json() == {
        "model_name": "model",
        "model_version": "1",
        "id": "42",
        "outputs": [{"name": "output-0", "datatype": "INT64", "shape": [2], "data": [0, 2]}],
    }
    inputs = [tensor(head["name"], "FP32", [[x] for x in head["data"]]) for head in inputs[::-1]]
    assert outputs(infer(iris, {"inputs": inputs}, path=path)) == {"output-0": [0, 2]}


def test_one_tensor_for_all_columns(iris: Daemon) -> None:
    nested = tensor("predict", "FP32", ROWS)
    flat = {**nested, "data": [*ROWS[0], *ROWS[1]]}
    for head in (nested, flat):
        assert outputs(infer(iris, {"inputs": [head]})) == {"output-0": [0, 2]}


def test_binary_both_ways(iris: Daemon) -> None:
    raw = np.array(ROWS, "<f8").tobytes()
    head = {"name": "x", "datatype": "FP64", "shape": [2, 4]}
    inputs = [{**head, "parameters": {"binary_data_size": len(raw)}}]
    assert outputs(infer(iris, {"inputs": inputs}, raw)) == {"output-0": [0, 2]}
    answer = infer(iris, {"inputs": inputs, "parameters": {"binary_data_output": True}}, raw)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/octet-stream")
    length = int(answer.headers[JSON_LENGTH])
    (output,) = json.loads(answer.body[:length])["outputs"]
    assert output == {
        "name": "output-0",
        "datatype": "INT64",
        "shape": [2],
        "parameters": {"binary_data_size": 16},
    }
    assert struct.unpack("<2q", answer.body[length:]) == (0, 2)


def test_an_id_is_made_where_none_is_given(iris: Daemon) -> None:
    answer = infer(iris, {"inputs": [tensor("x", "FP64", ROWS)]})
    assert answer.json()["id"] == answer.headers["X-Request-Id"]


def test_outputs_that_are_asked_for(iris: Daemon) -> None:
    body = {"inputs": [tensor("x", "FP64", ROWS)], "outputs": [{"name": "output-0"}]}
    assert outputs(infer(iris, body)) == {"output-0": [0, 2]}
    body["outputs"] = [{"name": "mine"}]
    said = refusal(infer(iris, body))
    assert said == "outputs[0] is none of the model's outputs: output-0"


WHOLE = tensor("x", "FP64", ROWS)

REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": (b"", "not JSON"),
    "no JSON": (b"mine", "not JSON"),
    "a list": ([WHOLE], "Expected a JSON object"),
    "no inputs": ({}, "There are no inputs"),
    "empty inputs": ({"inputs": []}, "There are no inputs"),
    "V1": ({"instances": ROWS}, "There are no inputs"),
    "another datatype": ({"inputs": [{**WHOLE, "datatype": "mine"}]}, "the datatype is none of"),
    "a negative shape": ({"inputs": [{**WHOLE, "shape": [-1, 4]}]}, "not negative"),
    "a huge shape": ({"inputs": [{**WHOLE, "shape": [10**12, 10**12]}]}, "the data 8"),
    "a text": ({"inputs": [tensor("x", "FP64", [["mine", 1, 2, 3]])]}, "holds no string"),
    "a null": ({"inputs": [tensor("x", "INT64", [[None, 1, 2, 3]])]}, "holds no null"),
    "too narrow": ({"inputs": [tensor("x", "FP64", [[1, 2, 3]])]}, "has 3 columns, the model 4"),
    "a column is missing": ({"inputs": [tensor(FEATURES[0], "FP64", [1.5])]}, FEATURES[1]),
    "bytes for numbers": (
        {"inputs": [tensor("x", "BYTES", [["mine", "1", "2", "3"]])]},
        "Can not safely convert",
    ),
    "several lengths": (
        {"inputs": [tensor(FEATURES[0], "FP64", [1]), tensor(FEATURES[1], "FP64", [1, 2])]},
        "several numbers of rows",
    ),
    "shared memory": (
        {"inputs": [{**WHOLE, "data": None, "parameters": {"shared_memory_region": "mine"}}]},
        "needs a list as its data",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(iris: Daemon, case: str) -> None:
    body, said = REFUSED[case]
    answer = infer(iris, body)
    assert said in refusal(answer)
    assert "mine" not in answer.text, "the client's data is not echoed"


def test_mangled_binary_bodies(iris: Daemon) -> None:
    raw = np.array(ROWS, "<f8").tobytes()
    head = {"name": "x", "datatype": "FP64", "shape": [2, 4]}
    for size, data in ((64, raw[:-1]), (63, raw), (65, raw), (0, raw), (-1, raw), ("64", raw)):
        inputs = [{**head, "parameters": {"binary_data_size": size}}]
        refusal(infer(iris, {"inputs": inputs}, data))
    body = json.dumps({"inputs": [WHOLE]}).encode()
    for length in ("0", "-1", "x", str(len(body) - 1), str(len(body) + 1), "9" * 99):
        answer = iris.http("POST", "/v2/models/model/infer", body, {JSON_LENGTH: length})
        assert refusal(answer)
    assert outputs(infer(iris, {"inputs": [WHOLE]})) == {"output-0": [0, 2]}


# The repository


def test_the_index(iris: Daemon) -> None:
    entry = {"name": "model", "version": "1", "state": "READY", "reason": ""}
    for body in (b"", b"{}", b'{"ready": true}'):
        answer = iris.http("POST", "/v2/repository/index", body)
        assert (answer.status, answer.json()) == (200, [entry])
    for body in (b"[]", b"{", b"[" + b" " * 70_000 + b"]"):
        refusal(iris.http("POST", "/v2/repository/index", body))


def test_what_the_repository_refuses(iris: Daemon) -> None:
    path = "/v2/repository/models"
    refusal(iris.http("POST", f"{path}/nobody/load", b""), 404)
    refusal(iris.http("POST", f"{path}/nobody/unload", b""), 404)
    body = json.dumps({"parameters": {"config": "mine"}})
    assert "no parameters" in refusal(iris.http("POST", f"{path}/model/load", body))
    refusal(iris.http("GET", f"{path}/model/load"), 405)


# Tensors


@pytest.fixture(scope="module")
def doubled(over_transport: None, save_model: Save) -> Iterator[Daemon]:
    with Daemon(saved(save_model, "doubled"), env={"MAX_BODY_SIZE": "4096"}) as running:
        yield running


def test_a_signature_of_one_tensor(doubled: Daemon) -> None:
    metadata = doubled.http("GET", "/v2/models/model").json()
    assert metadata["platform"] == "mlflow_pyfunc"
    assert metadata["inputs"] == [{"name": "input-0", "datatype": "FP32", "shape": [-1, 3]}]
    assert metadata["outputs"] == [{"name": "output-0", "datatype": "FP32", "shape": [-1, 3]}]
    body = {"inputs": [tensor("anything", "FP32", [[1, 2.5, 3]])]}
    assert outputs(infer(doubled, body)) == {"output-0": [2, 5, 6]}
    raw = np.array([[1, 2.5, 3]], "<f4").tobytes()
    head = {"name": "x", "datatype": "FP32", "shape": [1, 3]}
    body = {"inputs": [{**head, "parameters": {"binary_data_size": len(raw)}}]}
    assert outputs(infer(doubled, body, raw)) == {"output-0": [2, 5, 6]}


def test_what_a_signature_of_one_tensor_refuses(doubled: Daemon) -> None:
    def said(*inputs: Any) -> str:
        return refusal(infer(doubled, {"inputs": list(inputs)}))

    assert "does not match expected shape" in said(tensor("x", "FP32", [[1, 2]]))
    assert "does not match expected shape" in said(tensor("x", "FP32", [1, 2, 3]))
    assert "dtype of input float64" in said(tensor("x", "FP64", [[1, 2, 3]]))
    assert "takes float32, not BYTES" in said(tensor("x", "BYTES", [["mine"]]))
    assert "one input, not 2" in said(*[tensor(n, "FP32", [[1, 2, 3]]) for n in "xy"])


def test_more_than_may_be(doubled: Daemon) -> None:
    body = {"inputs": [tensor("x", "FP32", [[1.0, 2.0, 3.0]] * 400)]}
    assert "4096" in refusal(infer(doubled, body), 413)


@pytest.fixture(scope="module")
def named(over_transport: None, save_model: Save) -> Iterator[Daemon]:
    with Daemon(saved(save_model, "named")) as running:
        yield running


def test_a_signature_of_named_tensors(named: Daemon) -> None:
    metadata = named.http("GET", "/v2/models/model").json()
    assert [tuple(head.values()) for head in metadata["inputs"]] == [
        ("a", "FP64", [-1, 2]),
        ("b", "INT64", [-1]),
    ]
    assert [head["name"] for head in metadata["outputs"]] == ["sum", "b"]
    a, b = tensor("a", "FP64", [[1, 2], [3, 4]]), tensor("b", "INT32", [5, 6])
    assert outputs(infer(named, {"inputs": [b, a]})) == {"sum": [3, 7], "b": [5, 6]}
    wanted = {"inputs": [a, b], "outputs": [{"name": "b"}]}
    assert outputs(infer(named, wanted)) == {"b": [5, 6]}
    assert "missing inputs ['b']" in refusal(infer(named, {"inputs": [a]}))


# What V2 cannot say


@pytest.fixture(scope="module")
def columns(over_transport: None, save_model: Save) -> Iterator[Daemon]:
    with Daemon(saved(save_model, "columns")) as running:
        yield running


def test_bytes_dates_and_params(columns: Daemon) -> None:
    inputs = [
        tensor("text", "BYTES", ["\N{SNOWMAN}", "b"]),
        tensor("blob", "BYTES", ["/wA=", "QUI="], content_type="base64"),
        tensor("day", "BYTES", ["2024-02-28", "2024-02-29T12:00:00Z"]),
    ]
    body = {"inputs": inputs, "parameters": {"times": 2, "binary_data_output": False, "other": 1}}
    answer = infer(columns, body)
    assert outputs(answer) == {
        "text": ["\N{SNOWMAN}", "B"],
        "blob": ["AP8=", "QkE="],
        "day": ["2024-02-29T00:00:00", "2024-03-01T12:00:00"],
        "sign": ["!!", "!!"],
    }
    parameters = {head["name"]: head.get("parameters") for head in answer.json()["outputs"]}
    assert parameters == {
        "text": None,
        "blob": {"content_type": "base64"},
        "day": {"content_type": "datetime"},
        "sign": None,
    }


def test_bytes_in_raw(columns: Daemon) -> None:
    def raw(*elements: bytes) -> bytes:
        return b"".join(struct.pack("<I", len(element)) + element for element in elements)

    given = {"text": raw(b"a"), "blob": raw(b"\x00\xff"), "day": raw(b"2024-02-28")}
    inputs = [
        {"name": name, "datatype": "BYTES", "shape": [1, 1],
         "parameters": {"binary_data_size": len(data)}}
        for name, data in given.items()
    ]  # fmt: skip
    body = {"inputs": inputs, "outputs": [{"name": "blob", "parameters": {"binary_data": True}}]}
    answer = infer(columns, body, b"".join(given.values()))
    assert answer.body[int(answer.headers[JSON_LENGTH]) :] == raw(b"\xff\x00")


def test_bytes_that_do_not_fit(columns: Daemon) -> None:
    good = {"text": ["a"], "blob": ["b"], "day": ["2024-02-28"]}

    def said(**changed: Any) -> str:
        inputs = [tensor(name, "BYTES", data) for name, data in {**good, **changed}.items()]
        answer = infer(columns, {"inputs": inputs})
        assert "mine" not in answer.text
        return refusal(answer)

    assert said(day=["mine"]) == "Input 'day' holds what is not a date of ISO 8601"
    assert said(day=["2024-02-30"]) == "Input 'day' holds what is not a date of ISO 8601"
    assert "holds no integer" in said(text=[1])
    body = {"inputs": [tensor(name, "BYTES", data) for name, data in good.items()]}
    assert "times" in refusal(infer(columns, {**body, "parameters": {"times": "mine"}}))


# No signature


@pytest.fixture(scope="module")
def told(over_transport: None, save_model: Save) -> Iterator[Daemon]:
    with Daemon(saved(save_model, "told")) as running:
        yield running


NUMBERS, TEXT = tensor("n", "INT16", [1, 2]), tensor("t", "BYTES", ["a", "b"])
BLOB = tensor("b", "BYTES", ["AP8=", "QQ=="], content_type="base64")
DAY = tensor("d", "BYTES", ["2024-02-29", "2024-03-01"], content_type="datetime")


@pytest.mark.parametrize(
    ("inputs", "content_type", "handed"),
    [
        ([NUMBERS], "", {"type": "ndarray", "": "int16 [2] int16"}),
        ([NUMBERS], "np", {"type": "ndarray", "": "int16 [2] int16"}),
        ([TEXT], "", {"type": "ndarray", "": "object [2] str"}),
        ([BLOB], "", {"type": "ndarray", "": "object [2] bytes"}),
        ([DAY], "", {"type": "ndarray", "": "datetime64[ns] [2] datetime64"}),
        ([NUMBERS], "dict", {"type": "dict", "n": "int16 [2] int16"}),
        (
            [NUMBERS, TEXT],
            "",
            {"type": "dict", "n": "int16 [2] int16", "t": "object [2] str"},
        ),
        (
            [NUMBERS, TEXT, DAY],
            "pd",
            {"type": "DataFrame", "n": "int16", "t": "object", "d": "datetime64[ns]"},
        ),
    ],
)
def test_a_model_without_a_signature(
    told: Daemon, inputs: list[Any], content_type: str, handed: dict[str, str]
) -> None:
    parameters = {"content_type": content_type} if content_type else {}
    found = outputs(infer(told, {"inputs": inputs, "parameters": parameters}))
    assert found == {name: [said] for name, said in handed.items()}


def test_no_signature_no_metadata(told: Daemon) -> None:
    metadata = told.http("GET", "/v2/models/model").json()
    assert (metadata["inputs"], metadata["outputs"]) == ([], [])
    answer = infer(told, {"inputs": [NUMBERS], "parameters": {"content_type": "mine"}})
    assert "content_type is none of" in refusal(answer)


# Models that answer something else, or not


def test_models_that_answer_only_json(over_transport: None, legacy_model: Path) -> None:
    with Daemon(legacy_model) as daemon:
        said = refusal(infer(daemon, {"inputs": [WHOLE]}), 501)
        assert said == "A legacy model does not answer TENSORS calls"
        assert daemon.predict({"any": 1}).status == 200
