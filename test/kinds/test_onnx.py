"""ONNX graphs: inputs by name, types and shapes as the graph has them, forks."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kind_models
import numpy as np
import pytest
from harness import Daemon, run_daemon_expecting_exit
from kind_models import IRIS, ROWS, post, v2, v2_grpc, v2_outputs, v2_tensor

onnx = pytest.importorskip("onnx", reason="onnx IS NOT INSTALLED")
pytest.importorskip("onnxruntime", reason="onnxruntime IS NOT INSTALLED")
skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx IS NOT INSTALLED")

BOTH = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1"}
V1 = "/v1/models/model-1:predict"
Value = tuple[str, str, list[Any]]


def save_classifier(path: Path) -> Path:
    """Save a graph with two outputs, one of them a map for each row."""
    made = skl2onnx.to_onnx(kind_models.iris(named=False), IRIS.data[:1].astype(np.float32))
    path.write_bytes(made.SerializeToString())
    return path


def save_graph(path: Path, nodes: list[Any], inputs: list[Value], outputs: list[Value]) -> Path:
    def values(specs: list[Value]) -> list[Any]:
        kinds = onnx.TensorProto
        make = onnx.helper.make_tensor_value_info
        return [make(name, getattr(kinds, kind), shape) for name, kind, shape in specs]

    graph = onnx.helper.make_graph(nodes, "graph", values(inputs), values(outputs))
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def save_joined(path: Path) -> Path:
    """Save a graph of a column of floats, one of whole numbers and one of texts."""
    node = onnx.helper.make_node
    nodes = [
        node("Cast", ["count"], ["counted"], to=onnx.TensorProto.FLOAT),
        node("Add", ["size", "counted"], ["sum"]),
        node("Identity", ["name"], ["said"]),
    ]
    free = ["n", 1]
    inputs: list[Value] = [("size", "FLOAT", free), ("count", "INT64", free)]
    inputs.append(("name", "STRING", free))
    outputs: list[Value] = [("sum", "FLOAT", free), ("said", "STRING", free)]
    return save_graph(path, nodes, inputs, outputs)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    path = save_classifier(tmp_path_factory.mktemp("onnx") / "model.onnx")
    with Daemon(path.parent, env={**BOTH, "WORKERS": "2", "OMP_NUM_THREADS": "1"}) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    path = save_joined(tmp_path_factory.mktemp("onnx") / "m.onnx")
    with Daemon(path, env={**BOTH, "BATCH_MAX_SIZE": "8"}) as daemon:
        yield daemon


def test_every_way_to_send_rows(classifier: Daemon) -> None:
    columns = [f"x{place}" for place in range(4)]
    bodies = {
        V1: [
            {"instances": ROWS},
            {"instances": [{"X": row} for row in ROWS]},
            {"inputs": {"X": ROWS}},
            {"inputs": ROWS},
        ],
        "/invocations": [
            {"dataframe_split": {"columns": columns, "data": ROWS}},
            {"dataframe_split": {"data": ROWS}},
            {"dataframe_split": {"columns": ["X"], "data": [[row] for row in ROWS]}},
            {"instances": ROWS},
            {"inputs": {"X": ROWS}},
        ],
    }
    for path, each in bodies.items():
        for body in each:
            answer = post(classifier, path, body)
            assert answer.status == 200, (body, answer.text)
            assert answer.json()["predictions"]["output_label"] == [0, 2], body
    for datatype in ("FP32", "FP64"):
        answer = v2(classifier, v2_tensor("any", datatype, ROWS))
        assert v2_outputs(answer)["output_label"] == [0, 2]
    assert v2_grpc(classifier, ("X", np.array(ROWS, np.float32)))["output_label"] == [0, 2]


def test_all_outputs(classifier: Daemon) -> None:
    expected = kind_models.iris(named=False).predict_proba(ROWS)
    found = post(classifier, V1, {"instances": ROWS}).json()["predictions"]
    assert list(found) == ["output_label", "output_probability"]
    np.testing.assert_allclose(found["output_probability"], expected, atol=1e-5)
    tensor = v2_tensor("X", "FP64", ROWS)
    answer = v2(classifier, tensor, outputs=[{"name": "output_probability"}])
    np.testing.assert_allclose(v2_outputs(answer)["output_probability"], expected, atol=1e-5)


def test_metadata(classifier: Daemon, joined: Daemon) -> None:
    told = kind_models.metadata(classifier)
    assert told["platform"] == "onnx_onnxv1"
    assert told["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}]
    assert told["outputs"] == [
        {"name": "output_label", "datatype": "INT64", "shape": [-1]},
        {"name": "output_probability", "datatype": "FP32", "shape": [-1, -1]},
    ]
    kinds = [(it["name"], it["datatype"]) for it in kind_models.metadata(joined)["inputs"]]
    assert kinds == [("size", "FP32"), ("count", "INT64"), ("name", "BYTES")]


def test_inputs_by_name(joined: Daemon) -> None:
    expected = {"sum": [[1.5], [3.5]], "said": [["a"], ["b"]]}
    records = [{"size": 0.5, "count": 1, "name": "a"}, {"size": 1.5, "count": 2, "name": "b"}]
    columns = {name: [row[name] for row in records] for name in records[0]}
    deep = {name: [[cell] for cell in cells] for name, cells in columns.items()}
    for body in ({"instances": records}, {"inputs": columns}, {"inputs": deep}):
        assert post(joined, V1, body).json() == {"predictions": expected}
    frame = {"columns": list(columns), "data": [list(row.values()) for row in records]}
    answer = post(joined, "/invocations", {"dataframe_split": frame})
    assert answer.json() == {"predictions": expected}
    kinds = {"size": "FP32", "count": "INT64", "name": "BYTES"}
    tensors = [v2_tensor(name, kinds[name], cells) for name, cells in deep.items()]
    assert v2_outputs(v2(joined, *tensors)) == expected
    size, count = np.array(deep["size"], np.float32), np.array(deep["count"])
    names = np.array([[b"a"], [b"b"]], object)
    found = v2_grpc(joined, ("size", size), ("count", count), ("name", names))
    assert found == {"sum": [[1.5], [3.5]], "said": [[b"a"], [b"b"]]}


def test_rows_of_several_clients_are_put_together(joined: Daemon) -> None:
    def ask(place: int) -> Any:
        row = {"size": place, "count": 1, "name": str(place)}
        return post(joined, V1, {"instances": [row]}).json()["predictions"]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(32)))
    expected = [{"sum": [[it + 1.0]], "said": [[str(it)]]} for it in range(32)]
    assert found == expected


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"size": [1], "count": [1]}, "inputs that are not there: name"),
        ({"size": [1], "count": [1.5], "name": ["a"]}, "Input 'count' holds what is no int64"),
        ({"size": ["secret"], "count": [1], "name": ["a"]}, "Input 'size' holds what is no float"),
        ({"size": [1], "count": [1], "name": [3]}, "Input 'name' holds what is no string"),
        ({"size": [[1, 2]], "count": [1], "name": ["a"]}, "'size' is of the shape [-1, 1]"),
        ([[1, 2, 3]], "takes its inputs by name: size, count, name"),
    ],
)
def test_bad_input(joined: Daemon, data: Any, said: str) -> None:
    answer = post(joined, V1, {"inputs": data})
    assert answer.status == 400
    assert said in answer.json()["reason"]
    assert "secret" not in answer.text


def test_a_session_without_threads_is_shared(classifier: Daemon) -> None:
    for _ in range(20):
        assert classifier.predict({"instances": ROWS}).status == 200
    assert sum("model.loader loaded" in line for line in classifier.log_lines()) == 1


def test_each_worker_loads_a_session_with_threads(tmp_path: Path) -> None:
    save_classifier(tmp_path / "m.onnx")
    with Daemon(tmp_path, env={"WORKERS": "2", "OMP_NUM_THREADS": "2"}) as daemon:
        for _ in range(20):
            assert daemon.predict({"instances": ROWS}).status == 200
        assert sum("model.loader loaded" in line for line in daemon.log_lines()) == 2


def test_one_output_is_the_prediction_itself(tmp_path: Path) -> None:
    """Of a fixed number of rows, which no batch may exceed."""
    nodes = [onnx.helper.make_node("Neg", ["x"], ["y"])]
    save_graph(tmp_path / "m.onnx", nodes, [("x", "FLOAT", [1, 2])], [("y", "FLOAT", [1, 2])])
    with Daemon(tmp_path, env={"BATCH_MAX_SIZE": "8", "BATCH_MAX_DELAY_MS": "50"}) as daemon:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(daemon.predict, [{"instances": [[1, 2]]}] * 8))
        assert [answer.json() for answer in found] == [{"predictions": [[-1.0, -2.0]]}] * 8
        answer = daemon.predict({"instances": [[1, 2], [3, 4]]})
        assert answer.status == 400
        assert "Input 'x' is of the shape [1, 2]" in answer.text


def test_files_that_are_no_graph(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    whole = save_classifier(path).read_bytes()
    for content in (whole[:200], b"hello world", b""):
        path.write_bytes(content)
        status, output = run_daemon_expecting_exit(["--model_dir", str(path)])
        assert status == 1
        assert "Traceback" not in output
        (line,) = [line for line in output.splitlines() if line.startswith("pyfuncserver: ")]
        assert f"the model {path} cannot be loaded: m.onnx cannot be read by ONNX Runtime" in line
