"""Models that were saved without MLflow: a real daemon, asked in every dialect."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kind_models
import numpy as np
import pytest
from harness import Daemon, run_daemon_expecting_exit
from kind_models import NAMES, ROWS, post, v2, v2_grpc, v2_outputs, v2_tensor

BOTH = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1"}
V1 = "/v1/models/model-1:predict"


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Serve a directory that holds one file, as KServe and Seldon have it."""
    path = tmp_path_factory.mktemp("named")
    kind_models.save_joblib(kind_models.iris(named=True), path / "model.joblib")
    with Daemon(path, env={**BOTH, "WORKERS": "2"}) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Serve a file, with batches; its classes are texts."""
    labels = kind_models.LABELS[kind_models.IRIS.target]
    path = tmp_path_factory.mktemp("plain") / "iris.pickle"
    kind_models.save_pickle(kind_models.iris(named=False, classes=labels), path)
    env = {**BOTH, "MODEL_KIND": "sklearn", "PREDICT_PROBA": "true", "BATCH_MAX_SIZE": "8"}
    with Daemon(path, env={**env, "BATCH_MAX_DELAY_MS": "20"}) as daemon:
        yield daemon


def test_every_way_to_send_rows(named: Daemon) -> None:
    told = kind_models.answers(named, NAMES)
    assert told == {name: [0, 2] for name in told}


def test_plain_rows_of_a_model_without_names(plain: Daemon) -> None:
    told = kind_models.answers(plain)
    expected = kind_models.iris(named=False).predict_proba(ROWS)
    for name, found in told.items():
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=name)


def test_numbers_of_other_types(named: Daemon) -> None:
    whole = [[5, 3, 1, 0], [7, 3, 5, 2]]
    for datatype in ("INT32", "INT64", "UINT8"):
        answer = v2(named, v2_tensor("input-0", datatype, whole))
        assert v2_outputs(answer) == {"predict": [0, 2]}
    assert post(named, V1, {"instances": whole}).json() == {"predictions": [0, 2]}


def test_metadata(named: Daemon, plain: Daemon) -> None:
    told = kind_models.metadata(named)
    assert told["platform"] == "sklearn_estimator"
    assert told["inputs"] == [{"name": it, "datatype": "FP64", "shape": [-1]} for it in NAMES]
    assert told["outputs"] == [{"name": "predict", "datatype": "INT64", "shape": [-1]}]
    told = kind_models.metadata(plain)
    assert told["inputs"] == [{"name": "input-0", "datatype": "FP64", "shape": [-1, 4]}]
    assert told["outputs"] == [{"name": "predict_proba", "datatype": "FP64", "shape": [-1, 3]}]


def test_documentation(named: Daemon) -> None:
    document = named.http("GET", "/openapi.json").json()
    assert "petal width (cm)" in str(document["components"])
    assert "method" in str(document["components"])


def test_methods(named: Daemon, plain: Daemon) -> None:
    answer = post(named, V1, {"instances": ROWS, "params": {"method": "predict_proba"}})
    assert np.argmax(answer.json()["predictions"], axis=1).tolist() == [0, 2]
    body = {"dataframe_records": [dict(zip(NAMES, ROWS[0], strict=True))]}
    answer = post(named, "/invocations", {**body, "params": {"method": "predict_proba"}})
    assert np.shape(answer.json()["predictions"]) == (1, 3)
    answer = post(plain, V1, {"instances": ROWS, "params": {"method": "predict"}})
    assert answer.json() == {"predictions": ["setosa", "virginica"]}
    answer = post(named, V1, {"instances": ROWS, "params": {"method": "fit"}})
    assert answer.status == 400
    assert "names none of predict, predict_proba" in answer.text


def test_outputs_that_are_methods(named: Daemon, plain: Daemon) -> None:
    tensor = v2_tensor("any", "FP64", ROWS)
    answer = v2(named, tensor, outputs=[{"name": "predict_proba"}, {"name": "predict"}])
    found = v2_outputs(answer)
    assert list(found) == ["predict_proba", "predict"]
    assert np.argmax(found["predict_proba"], axis=1).tolist() == found["predict"] == [0, 2]
    answer = v2(named, tensor, parameters={"method": "predict_proba"})
    assert list(v2_outputs(answer)) == ["predict_proba"]
    over_grpc = v2_grpc(plain, ("any", np.array(ROWS)), outputs=["predict"])
    assert over_grpc == {"predict": [b"setosa", b"virginica"]}
    answer = v2(named, tensor, outputs=[{"name": "fit"}])
    assert answer.status == 400
    assert "none of the model's outputs: predict" in answer.text


REFUSED: list[tuple[Any, str]] = [
    ([[1, 2]], "takes 4 features, and the rows have 2"),
    ([[1, None, 3, 4]], "missing values"),
    ([["secret", 2, 3, 4]], "a text where this model takes a number"),
    ([[1, 2, 3, 4], [5]], "one length"),
    ([{NAMES[0]: 1}], f"lack features of the model: {NAMES[1]}, {NAMES[2]}, {NAMES[3]}"),
    ([1, 2, 3, 4], "no list of rows"),
    ([], "no list of rows"),
    ([[1, 2, 3, {"secret": 4}]], "neither numbers nor texts"),
]


@pytest.mark.parametrize(("rows", "said"), REFUSED)
@pytest.mark.parametrize("path", [V1, "/invocations"])
def test_bad_input(named: Daemon, rows: Any, said: str, path: str) -> None:
    answer = post(named, path, {"instances": rows})
    assert answer.status == 400, answer.text
    assert said in answer.text
    assert "secret" not in answer.text


def test_bad_input_spoils_no_batch(plain: Daemon) -> None:
    bodies = [{"instances": rows} for rows in ([ROWS[0]], [ROWS[1]], [[1, None, 3, 4]], [[1]]) * 4]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: post(plain, V1, body), bodies))
    assert [answer.status for answer in answers] == [200, 200, 400, 400] * 4


def test_the_pickle_is_announced(named: Daemon) -> None:
    (line,) = [line for line in named.log_lines() if "is a pickle" in line]
    assert " WARNING " in line
    assert "model.joblib is a pickle: to load it runs whatever code it holds" in line


@pytest.mark.parametrize(
    ("name", "env", "said"),
    [
        ("m.pkl", {}, "m.pkl cannot be loaded: m.pkl cannot be read as a pickle: "),
        ("m.txt", {}, "is not a directory, and no file of a known kind: name its kind with"),
        ("m.pkl", {"MODEL_KIND": "mlflow"}, "is not a directory, as a model of the kind mlflow is"),
    ],
)
def test_a_file_that_is_no_model(tmp_path: Path, name: str, env: dict[str, str], said: str) -> None:
    (tmp_path / name).write_text("hello world")
    status, output = run_daemon_expecting_exit(["--model_dir", str(tmp_path / name)], env)
    assert status == 1
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("pyfuncserver: ")]
    assert f"the model {tmp_path / name} " in line
    assert said in line
