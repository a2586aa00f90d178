"""XGBoost and LightGBM: what clients of other servers send, forks, and files that are none."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import kind_models
import numpy as np
import pytest
from harness import Daemon, run_daemon_expecting_exit
from kind_models import IRIS, ROWS, post

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model import kinds

lightgbm = pytest.importorskip("lightgbm", reason="lightgbm IS NOT INSTALLED")
xgboost = pytest.importorskip("xgboost", reason="xgboost IS NOT INSTALLED")

BOTH = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1", "WORKERS": "2"}
LETTERS = ["a", "b", "c", "d"]
MISSING = [[5.1, None, 1.4, 0.2], [6.7, 3.0, None, 2.3]]


def save_xgboost(path: Path, names: list[str] | None, trees: int = 3) -> Any:
    data = xgboost.DMatrix(IRIS.data, IRIS.target, feature_names=names)
    options = {"objective": "multi:softprob", "num_class": 3, "nthread": 1}
    booster = xgboost.train(options, data, trees)
    path.write_bytes(booster.save_raw("json" if path.suffix == ".json" else "ubj"))
    return lambda rows: booster.predict(
        xgboost.DMatrix(np.array(rows, np.float32), feature_names=names)
    )


def save_lightgbm(path: Path, names: list[str] | None, trees: int = 3) -> Any:
    data = lightgbm.Dataset(IRIS.data, IRIS.target, feature_name=names or "auto")
    options = {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(options, data, trees)
    booster.save_model(path)
    return lambda rows: booster.predict(np.array(rows, float))


def loaded(path: Path) -> Any:
    return kinds.artefact_of(kinds.load(kinds.find(path), kinds.Options()))


SAVED = [
    ("m.json", save_xgboost, LETTERS),
    ("m.bst", save_xgboost, None),
    ("m.txt", save_lightgbm, LETTERS),
    ("m.bst", save_lightgbm, None),
]


@pytest.fixture(scope="module", params=SAVED, ids=lambda it: f"{it[1].__name__}-{it[0]}")
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Daemon, Any, list[str] | None, str]]:
    name, save, names = request.param
    path = tmp_path_factory.mktemp("booster") / name
    expected = save(path, names)
    kind = "xgboost" if save is save_xgboost else "lightgbm"
    with Daemon(path, env=BOTH) as daemon:
        yield daemon, expected, names, kind


@pytest.mark.parametrize("rows", [ROWS, MISSING], ids=["whole", "missing"])
def test_every_way_to_send_rows(served: Any, rows: Any) -> None:
    daemon, expected, names, _ = served
    floats = [[float("nan") if cell is None else cell for cell in row] for row in rows]
    if rows is MISSING:
        answer = post(daemon, daemon.predict_path, {"instances": rows})
        told = {"v1 rows": answer.json()["predictions"]}
        told["grpc one"] = kind_models.v2_grpc(daemon, ("x", np.array(floats)))["predict"]
    else:
        told = kind_models.answers(daemon, names or ())
    for name, found in told.items():
        np.testing.assert_allclose(found, expected(floats), rtol=1e-5, err_msg=name)


def test_metadata(served: Any) -> None:
    daemon, _, names, kind = served
    told = kind_models.metadata(daemon)
    datatype = "FP32" if kind == "xgboost" else "FP64"
    assert told["platform"] == f"{kind}_booster"
    assert told["outputs"] == [{"name": "predict", "datatype": datatype, "shape": [-1, 3]}]
    if names is None:
        assert told["inputs"] == [{"name": "input-0", "datatype": datatype, "shape": [-1, 4]}]
    else:
        assert [it["name"] for it in told["inputs"]] == names


def test_forked_workers_predict(served: Any) -> None:
    """A prediction with OpenMP hangs in a process forked from one that has used it."""
    daemon, _, _, _ = served
    with ThreadPoolExecutor(4) as pool:
        ask = [pool.submit(daemon.predict, {"instances": ROWS}) for _ in range(80)]
        assert {future.result(timeout=60).status for future in ask} == {200}
    assert sum("model.loader loaded" in line for line in daemon.log_lines()) == 1


def test_what_else_it_can_tell(served: Any) -> None:
    daemon, expected, _, kind = served
    raw = "output_margin" if kind == "xgboost" else "raw_score"
    body = {"instances": ROWS, "params": {raw: True}}
    margins = np.exp(post(daemon, daemon.predict_path, body).json()["predictions"])
    likely = margins / margins.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(likely, expected(ROWS), rtol=1e-5)
    answer = post(daemon, daemon.predict_path, {"instances": ROWS, "params": {raw: "x"}})
    assert answer.status == 400


def test_no_rows(served: Any) -> None:
    daemon, _, _, _ = served
    empty = {"name": "x", "datatype": "FP32", "shape": [0, 4], "data": []}
    (output,) = kind_models.v2(daemon, empty).json()["outputs"]
    assert (output["shape"], output["data"]) == ([0, 3], [])
    assert kind_models.v2_grpc(daemon, ("x", np.zeros((0, 4), np.float32))) == {"predict": []}


def test_bad_input(served: Any) -> None:
    daemon, _, _, _ = served
    for rows in ([[1, 2]], [["secret", 1, 2, 3]], [[1, 2, 3, 4], [1]], [1, 2, 3, 4], []):
        answer = post(daemon, daemon.predict_path, {"instances": rows})
        assert answer.status == 400, answer.text
        assert "secret" not in answer.text


def test_an_infinite_value(served: Any) -> None:
    daemon, expected, _, kind = served
    rows = np.array(ROWS, np.float32)
    rows[0, 0] = np.inf
    if kind == "lightgbm":
        found = kind_models.v2_grpc(daemon, ("x", rows))["predict"]
        np.testing.assert_allclose(found, expected(rows), rtol=1e-5)
        return
    with pytest.raises(grpc.RpcError, match="has an infinite value") as raised:
        kind_models.v2_grpc(daemon, ("x", rows))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    answer = post(daemon, daemon.predict_path, {"instances": [[1e300, 1, 2, 3]]})
    assert answer.status == 400
    assert "a number that is too large" in answer.text


def test_two_things_at_once_that_it_can_tell(served: Any) -> None:
    daemon, _, _, kind = served
    contributions = "pred_contribs" if kind == "xgboost" else "pred_contrib"
    params = {"pred_leaf": True, contributions: True}
    answer = post(daemon, daemon.predict_path, {"instances": ROWS, "params": params})
    assert answer.status == 400
    assert f"pred_leaf and {contributions}" in answer.text


def test_what_a_linear_booster_cannot_tell(tmp_path: Path) -> None:
    data = xgboost.DMatrix(IRIS.data, IRIS.target)
    xgboost.train({"booster": "gblinear"}, data, 3).save_model(tmp_path / "m.json")
    model = loaded(tmp_path)
    with pytest.raises(InvalidInput, match="This booster does not tell pred_leaf"):
        model.predict(model.read(ROWS), {"pred_leaf": True})


def test_names_with_spaces(tmp_path: Path) -> None:
    """LightGBM saves them with underscores; clients have the names of the data."""
    data = lightgbm.Dataset(kind_models.FRAME, IRIS.target)
    booster = lightgbm.train({"objective": "regression", "verbose": -1, "num_threads": 1}, data, 3)
    booster.save_model(tmp_path / "m.txt")
    model = loaded(tmp_path)
    rows = kind_models.FRAME[:3]
    for data in (rows, rows.to_dict("records"), rows.to_dict("list")):
        np.testing.assert_allclose(model.predict(model.read(data)), booster.predict(rows))


def test_many_rows_with_two_threads(tmp_path: Path) -> None:
    """Loading many trees may start OpenMP's threads, which a fork would lose."""
    rows = np.tile(IRIS.data, (100, 1))
    for save in (save_xgboost, save_lightgbm):
        path = tmp_path / f"{save.__name__}.{'ubj' if save is save_xgboost else 'txt'}"
        expected = save(path, None, trees=50)
        with Daemon(path, env={**BOTH, "OMP_NUM_THREADS": "2"}) as daemon:
            with ThreadPoolExecutor(4) as pool:
                ask = [pool.submit(kind_models.v2_grpc, daemon, ("x", rows)) for _ in range(8)]
                found = [future.result(timeout=120)["predict"] for future in ask]
            for one in found:
                np.testing.assert_allclose(one, expected(rows), rtol=1e-4)


def complaint(path: Path, **env: str) -> str:
    status, output = run_daemon_expecting_exit(["--model_dir", str(path)], env)
    assert status == 1, output
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("pyfuncserver: ")]
    assert f"the model {path} " in line
    return line


def test_files_of_another_kind(tmp_path: Path) -> None:
    save_xgboost(tmp_path / "x.json", None)
    save_lightgbm(tmp_path / "l.txt", None)
    said = complaint(tmp_path / "x.json", MODEL_KIND="lightgbm")
    assert "x.json is no LightGBM model: its text does not begin with tree" in said
    said = complaint(tmp_path / "l.txt", MODEL_KIND="xgboost")
    assert "l.txt is no XGBoost model" in said
    said = complaint(tmp_path)
    assert "l.txt (lightgbm), x.json (xgboost): choose with --model_kind" in said


def test_torn_files(tmp_path: Path) -> None:
    save_xgboost(tmp_path / "x.json", None)
    torn = tmp_path / "torn.json"
    torn.write_bytes((tmp_path / "x.json").read_bytes()[:500])
    assert "torn.json cannot be read by XGBoost: XGBoostError: " in complaint(torn)
    save_lightgbm(tmp_path / "l.txt", None)
    torn = tmp_path / "torn.txt"
    torn.write_bytes((tmp_path / "l.txt").read_bytes()[:10])
    assert "torn.txt cannot be read by LightGBM: LightGBMError: " in complaint(torn)
