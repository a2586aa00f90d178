"""ONNX graphs: inputs by name, types and shapes as the graph has them, forks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import kind_models
import numpy as np
import pandas as pd
import pytest
from harness import Daemon, run_daemon_expecting_exit
from kind_models import IRIS, ROWS, post, v2, v2_grpc, v2_outputs, v2_tensor

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model import kinds
from pyfuncserver.model.kinds.onnx import Graph

onnx = pytest.importorskip("onnx", reason="onnx IS NOT INSTALLED")
pytest.importorskip("onnxruntime", reason="onnxruntime IS NOT INSTALLED")
skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx IS NOT INSTALLED")

BOTH = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1"}
V1 = "/v1/models/model-1:predict"
Value = tuple[str, str, list[Any] | None]


def save_classifier(path: Path) -> Path:
    """Save a graph with two outputs, one of them a map for each row."""
    made = skl2onnx.to_onnx(kind_models.iris(named=False), IRIS.data[:1].astype(np.float32))
    path.write_bytes(made.SerializeToString())
    return path


def save_graph(
    path: Path,
    nodes: list[Any],
    inputs: list[Value],
    outputs: list[Value],
    constants: Sequence[Any] = (),
) -> Path:
    def values(specs: list[Value]) -> list[Any]:
        kinds = onnx.TensorProto
        make = onnx.helper.make_tensor_value_info
        return [make(name, getattr(kinds, kind), shape) for name, kind, shape in specs]

    graph = onnx.helper.make_graph(nodes, "graph", values(inputs), values(outputs), constants)
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def negation(path: Path, kind: str, shape: Any, operator: str = "Neg") -> Graph:
    nodes = [onnx.helper.make_node(operator, ["x"], ["y"])]
    return saved(path, nodes, [("x", kind, shape)], [("y", kind, shape)])


def saved(path: Path, nodes: list[Any], inputs: list[Value], outputs: list[Value]) -> Graph:
    """Save a graph, and load it here."""
    save_graph(path / "m.onnx", nodes, inputs, outputs)
    graph = kinds.artefact_of(kinds.load(kinds.find(path), kinds.Options()))
    assert isinstance(graph, Graph)
    return graph


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


def test_no_rows(classifier: Daemon) -> None:
    empty = {"name": "X", "datatype": "FP32", "shape": [0, 4], "data": []}
    found = v2(classifier, empty).json()["outputs"]
    assert [(it["datatype"], it["shape"]) for it in found] == [("INT64", [0]), ("FP32", [0, 0])]


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
        ({"size": [1e300], "count": [1], "name": ["a"]}, "'size' has a number that is too large"),
        ({"size": [1, 2], "count": [1, 2, 3], "name": ["a"]}, "do not fit the model's graph"),
        ([[1, 2, 3]], "takes its inputs by name: size, count, name"),
    ],
)
def test_bad_input(joined: Daemon, data: Any, said: str) -> None:
    answer = post(joined, V1, {"inputs": data})
    assert answer.status == 400
    assert said in answer.json()["reason"]
    assert "secret" not in answer.text
    assert not any("onnxruntime:" in line for line in joined.log_lines())  # its own complaints


def test_what_only_the_graph_refuses(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Reshape", ["x", "to"], ["y"])]
    to = onnx.helper.make_tensor("to", onnx.TensorProto.INT64, [2], [-1, 4])
    inputs: list[Value] = [("x", "FLOAT", ["n", "k"])]
    save_graph(tmp_path / "m.onnx", nodes, inputs, [("y", "FLOAT", None)], [to])
    with Daemon(tmp_path, env=BOTH) as daemon:
        assert v2(daemon, v2_tensor("x", "FP32", ROWS)).status == 200
        answer = v2(daemon, v2_tensor("x", "FP32", [[1, 2, 3]]))
        assert (answer.status, answer.json()) == (
            400,
            {"error": "The inputs do not fit the model's graph, or one another"},
        )
        with pytest.raises(grpc.RpcError) as raised:
            v2_grpc(daemon, ("x", np.ones((1, 3), np.float32)))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        empty = v2(daemon, v2_tensor("x", "FP32", np.zeros((0, 4))))
        assert empty.json()["outputs"][0]["shape"] == [0, 4]


def test_want_of_memory_is_no_fault_of_the_inputs(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Expand", ["x", "to"], ["y"])]
    inputs: list[Value] = [("x", "FLOAT", [1]), ("to", "INT64", [1])]
    graph = saved(tmp_path, nodes, inputs, [("y", "FLOAT", ["n"])])
    assert graph.predict(graph.read({"x": [1], "to": [3]})).tolist() == [1, 1, 1]
    data = graph.read({"x": [1], "to": [10**17]})
    with pytest.raises(Exception, match="Failed to allocate memory") as raised:
        graph.predict(data)
    assert not isinstance(raised.value, InvalidInput)


def test_inputs_of_any_rank(tmp_path: Path) -> None:
    """The runtime says nothing of the shape, as it does of a single value's."""
    graph = negation(tmp_path, "FLOAT", None)
    for data in ([[1, 2]], [1], 1):
        np.testing.assert_array_equal(graph.predict(graph.read(data)), -np.array(data))
    graph = negation(tmp_path, "FLOAT", [])
    assert graph.predict(graph.read(1)) == -1


def test_values_that_are_not_of_the_type(tmp_path: Path) -> None:
    graph = negation(tmp_path, "BOOL", ["n"], "Not")
    assert graph.predict(graph.read([True, False])).tolist() == [False, True]
    for data in ([True, None], [1, 0], np.array(["x", True], object)):
        with pytest.raises(InvalidInput, match="holds what is no bool"):
            graph.read(data)
    graph = negation(tmp_path, "FLOAT16", ["n"])
    assert graph.predict(graph.read([1.5, None])).tolist() == pytest.approx(
        [-1.5, np.nan], nan_ok=True
    )
    with pytest.raises(InvalidInput, match="has a number that is too large"):
        graph.read([1e6])
    graph = negation(tmp_path, "UINT8", ["n"], "Identity")
    assert graph.predict(graph.read([0, 255])).tolist() == [0, 255]
    with pytest.raises(InvalidInput, match="holds what is no uint8"):
        graph.read([-1])
    graph = negation(tmp_path, "INT32", ["n"])
    for wrong in ([2**40], [2**70], [1.5], [1, None]):
        with pytest.raises(InvalidInput, match="holds what is no int32"):
            graph.read(wrong)


def test_nulls_of_pandas_own(tmp_path: Path) -> None:
    graph = negation(tmp_path, "FLOAT", ["n", 2])
    frame = pd.DataFrame({name: pd.array([1, None], dtype="Int64") for name in "ab"})
    found = graph.predict(graph.read(frame))
    np.testing.assert_array_equal(found, [[-1, -1], [np.nan, np.nan]])
    assert graph.predict(graph.read(pd.DataFrame({"a": [1], "b": [2]}))).tolist() == [[-1, -2]]


def test_one_long_text_does_not_lengthen_the_others(tmp_path: Path) -> None:
    graph = negation(tmp_path, "STRING", ["n"], "Identity")
    texts = ["x" * 10**6, *["y"] * 10**5]
    assert graph.predict(graph.read(texts)).tolist() == texts


def test_graphs_that_are_not_served(tmp_path: Path) -> None:
    with pytest.raises(kinds.Unloadable) as raised:
        negation(tmp_path, "BFLOAT16", ["n"], "Identity")
    assert str(raised.value) == "'x' is a tensor(bfloat16), which is not served"


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
    for content in (b"hello world", b""):
        path.write_bytes(content)
        with pytest.raises(kinds.Unloadable, match="cannot be read by ONNX Runtime: "):
            kinds.load(kinds.find(path), kinds.Options())
    path.write_bytes(whole[:200])
    status, output = run_daemon_expecting_exit(["--model_dir", str(path)])
    assert status == 1
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("pyfuncserver: ")]
    assert f"the model {path} cannot be loaded: m.onnx cannot be read by ONNX Runtime" in line
