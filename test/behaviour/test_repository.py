"""Several models from one repository, and what clients may change of it while it serves."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from harness import Answer, Daemon, run_daemon_expecting_exit, wait_until

from pyfuncserver.codec import inference, seldon, seldon_proto, upi

BOTH = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1", "WORKERS": "2"}
WAIT_S = 60
REASON = "KeyError: 'weights are missing'"

Put = Callable[..., Path]


@pytest.fixture(scope="session")
def put(save_model: Callable[..., Path]) -> Put:
    """Give `put(path, mark)`, which puts a model there that answers it; None for a broken one.

    A name in the place of the mark is that of another class of `marked_models`; a mark that is
    negative has a model brought whose code says it.
    """

    def put(path: Path, mark: int | str | None) -> Path:
        def how(_: Any, saved: Path) -> Path:
            from behaviour import marked_models  # where warnings are no errors

            if isinstance(mark, int) and mark < 0:
                return marked_models.save_coded(mark, saved)
            if isinstance(mark, int):
                return marked_models.save(marked_models.Marked(mark), saved)
            return marked_models.save(getattr(marked_models, mark or "Broken")(), saved)

        draft = path.with_name(f".{path.name}")
        shutil.copytree(save_model(f"marked-{mark}", how), draft)
        draft.rename(path)
        return path

    return put


@pytest.fixture(scope="module")
def root(put: Put, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a repository: a in three versions, b in one that is the folder itself, c broken.

    The two versions of coded have modules of one name; deadly ends the process that loads it.
    """
    root = tmp_path_factory.mktemp("repository")
    (root / "a").mkdir()
    for version, mark in (("9", 9), ("10", 10), ("2", 2)):
        put(root / "a" / version, mark)
    put(root / "b", 1)
    put(root / "c", None)
    (root / "coded").mkdir()
    put(root / "coded" / "1", -1)
    put(root / "coded" / "2", -2)
    put(root / "deadly", "Deadly")
    (root / ".hidden").mkdir()
    (root / "a file").touch()
    return root


@pytest.fixture(scope="module")
def daemon(root: Path) -> Iterator[Daemon]:
    with Daemon("", repository=root, env={**BOTH, "CARAML_MODEL_NAME": "b"}) as running:
        yield running


def predict(daemon: Daemon, path: str, body: Any = None) -> Answer:
    body = {"instances": [[0]]} if body is None else body
    kind = {"Content-Type": "application/json"}
    return daemon.http("POST", path, json.dumps(body), kind)


def mark_of(answer: Answer) -> int:
    assert answer.status == 200, answer.text
    mark = answer.json()["predictions"][0][0]
    assert isinstance(mark, int)
    return mark


def index(daemon: Daemon) -> dict[str, tuple[str, str]]:
    """Give the state and the reason of each model, by its name and version."""
    entries = daemon.http("POST", "/v2/repository/index").json()
    return {f"{e['name']}/{e['version']}": (e["state"], e["reason"]) for e in entries}


def change(daemon: Daemon, name: str, what: str) -> Answer:
    return daemon.http("POST", f"/v2/repository/models/{name}/{what}", b"{}")


# Names


@pytest.mark.parametrize(
    ("path", "mark"),
    [
        ("/v1/models/a:predict", 10),
        ("/v1/models/a-10:predict", 10),
        ("/v1/models/a-2:predict", 2),
        ("/v1/models/b:predict", 1),
        ("/v1/models/b-1:predict", 1),
        ("/invocations", 1),
        ("/models/a/invocations", 10),
        ("/models/a-9/invocations", 9),
        ("/models/a/versions/2/invocations", 2),
        ("/models/b/versions/1/invocations", 1),
        ("/v1/models/coded-1:predict", -1),
        ("/v1/models/coded-2:predict", -2),
    ],
)
def test_models_by_their_names_and_versions(daemon: Daemon, path: str, mark: int) -> None:
    assert mark_of(predict(daemon, path)) == mark


@pytest.mark.parametrize(
    ("path", "mark"),
    [("/v1/models/a:predict", 10), ("/models/a/versions/9/invocations", 9), ("/invocations", 1)],
)
def test_names_beside_the_fast_path(daemon: Daemon, path: str, mark: int) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    body = gzip.compress(b'{"instances": [[0]]}')
    assert mark_of(daemon.http("POST", path, body, headers)) == mark


@pytest.mark.parametrize(
    ("front", "name", "version", "mark"),
    [("a", "a", "10", 10), ("a/versions/9", "a", "9", 9), ("a-2", "a", "2", 2), ("b", "b", "1", 1)],
)
def test_v2(daemon: Daemon, front: str, name: str, version: str, mark: int) -> None:
    tensor = {"name": "x", "shape": [1, 1], "datatype": "INT64", "data": [0]}
    body = predict(daemon, f"/v2/models/{front}/infer", {"inputs": [tensor]}).json()
    assert (body["model_name"], body["model_version"]) == (name, version)
    assert body["outputs"][0]["data"][0] == mark
    metadata = daemon.http("GET", f"/v2/models/{front}").json()
    assert metadata["versions"] == (["2", "9", "10"] if name == "a" else ["1"])
    assert daemon.http("GET", f"/v2/models/{front}/ready").json()["ready"] is True


@pytest.mark.parametrize(
    ("path", "mark"),
    [("/api/v1.0/predictions", 1), ("/models/a/versions/9/api/v1.0/predictions", 9)],
)
def test_seldon(daemon: Daemon, path: str, mark: int) -> None:
    answer = predict(daemon, path, {"data": {"ndarray": [[0]]}})
    assert answer.json()["data"]["ndarray"][0][0] == mark
    described = daemon.http("GET", "/models/a/versions/9/metadata").json()
    assert (described["name"], described["versions"]) == ("a", ["9"])


def test_what_there_is(daemon: Daemon) -> None:
    assert daemon.http("GET", "/v1/models").json()["models"] == [
        *("a-2", "a-9", "a-10", "b-1"),
        *("coded-1", "coded-2"),
    ]
    assert daemon.http("GET", "/v2/models").json() == {"models": ["a", "b", "coded"]}
    found = index(daemon)
    assert list(found) == [
        *("a/2", "a/9", "a/10", "b/1", "c/1"),
        *("coded/1", "coded/2", "deadly/1"),
    ]
    assert found["a/9"] == ("READY", "")
    state, reason = found["c/1"]
    assert state == "UNAVAILABLE"
    assert REASON in reason
    state, reason = found["deadly/1"]
    assert (state, "exited with status 3" in reason) == ("UNAVAILABLE", True)
    assert daemon.metric("pyfuncserver_model_info", name="a") == 3


def test_a_model_that_has_not_loaded_stops_no_other(daemon: Daemon) -> None:
    for path in ("/v1/models/c:predict", "/models/c/invocations", "/v2/models/c/infer"):
        answer = predict(daemon, path)
        assert (answer.status, "not loaded" in answer.text) == (503, True)
    assert daemon.http("GET", "/v1/models/c").status == 503
    assert daemon.http("GET", "/v2/models/c/ready").json() == {"name": "c", "ready": False}
    assert daemon.http("GET", "/v2/models/c").status == 503


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/d:predict",
        "/v1/models/a-3:predict",
        "/v2/models/a/versions/3/infer",
        "/models/d/invocations",
        "/models/a/versions/3/api/v1.0/predictions",
    ],
)
def test_models_that_are_not_there(daemon: Daemon, path: str) -> None:
    answer = predict(daemon, path)
    assert answer.status == 404
    shape = {"v1": "reason", "v2": "error"}.get(path.split("/")[1], "message")
    assert (shape if "api" not in path else "status") in answer.json()


def test_names_that_no_file_could_have(daemon: Daemon) -> None:
    for name in ("a" * 300, "a" * 5000, "%61"):
        assert change(daemon, name, "load").status == 404


def test_models_that_bring_modules_of_one_name_are_told_of(daemon: Daemon) -> None:
    assert "coded-1 and coded-2 bring different modules late_marks, marks along" in daemon.log()


def call(daemon: Daemon, path: str, message: Any, **metadata: str) -> bytes:
    body = message if isinstance(message, bytes) else message.SerializeToString()
    with daemon.channel() as channel:
        pairs = [(key.replace("_", "-"), value) for key, value in metadata.items()]
        method = channel.unary_unary(path)
        answer: bytes = method(body, timeout=WAIT_S, metadata=pairs)
    return answer


def test_v2_over_grpc(daemon: Daemon) -> None:
    request = inference.messages().ModelInferRequest
    tensor = {
        "name": "x",
        "shape": [1, 1],
        "datatype": "INT64",
        "contents": {"int64_contents": [0]},
    }
    for name, version, mark in (("a", "", 10), ("a", "9", 9), ("a-2", "", 2), ("b", "1", 1)):
        asked = request(model_name=name, model_version=version, inputs=[tensor])
        body = call(daemon, f"/{inference.SERVICE}/ModelInfer", asked)
        response = inference.parse("ModelInferResponse", body)
        assert response.outputs[0].contents.int64_contents[0] == mark
        assert (response.model_name, response.model_version) == (name[0], str(mark))


@pytest.mark.parametrize(
    ("metadata", "mark"),
    [({}, 1), ({"model_name": "a"}, 10), ({"model_name": "a", "model_version": "2"}, 2)],
)
def test_metadata_names_a_model_where_messages_do_not(
    daemon: Daemon, metadata: dict[str, str], mark: int
) -> None:
    asked = seldon.message_from({"data": {"tensor": {"shape": [1, 1], "values": [0]}}}, "id")
    body = seldon_proto.write_message(asked)
    body = call(daemon, "/seldon.protos.Model/Predict", body, **metadata)
    assert seldon_proto.parse_message(body, "id").value[0][0] == mark
    request = upi.messages().PredictValuesRequest()
    request.prediction_table.columns.add(name="x", type="TYPE_DOUBLE")
    request.prediction_table.rows.add(row_id="1").values.add(double_value=0)
    body = call(daemon, f"/{upi.SERVICE}/{upi.METHOD}", request, **metadata)
    table = upi.messages().PredictValuesResponse.FromString(body).prediction_result_table
    assert table.rows[0].values[0].integer_value == mark


def test_documents(daemon: Daemon) -> None:
    for query, title, path in (
        ("", "b-1", "/invocations"),
        ("?model=a", "a-10", "/models/a/versions/10/invocations"),
        ("?model=a&version=2", "a-2", "/models/a/versions/2/invocations"),
    ):
        document = daemon.http("GET", f"/openapi.json{query}").json()
        assert document["info"]["title"] == title
        assert path in document["paths"]
    assert daemon.http("GET", "/openapi.json?model=d").status == 404


# Changes


@pytest.fixture
def own(put: Put, tmp_path: Path) -> Path:
    """Give a repository of a test's own, with two models."""
    root = tmp_path / "repository"
    root.mkdir()
    put(root / "a", 1)
    put(root / "b", 2)
    return root


def test_an_example_that_fails_is_in_the_way_of_its_own_model_only(own: Path, put: Put) -> None:
    put(own / "c", "Unrehearsed")
    with Daemon("", repository=own, env={"WORKERS": "1"}) as daemon:
        assert change(daemon, "b", "unload").status == 200
        assert change(daemon, "b", "load").status == 200
        answer = change(daemon, "c", "load")
        assert (answer.status, "c-1: " in answer.json()["error"]) == (500, True)
        assert "input example" in answer.json()["error"]


def test_models_come_and_go_and_no_request_is_lost(own: Path, put: Put) -> None:
    env = {**BOTH, "CARAML_MODEL_NAME": "a"}
    with Daemon("", repository=own, env=env) as daemon, Busy(daemon) as asked:
        assert change(daemon, "b", "unload").json() == {}
        assert index(daemon)["b/1"] == ("UNAVAILABLE", "unloaded")
        assert predict(daemon, "/v1/models/b:predict").status == 503
        put(own / "c", 3)
        assert change(daemon, "c", "load").json() == {}
        assert mark_of(predict(daemon, "/v1/models/c:predict")) == 3
        assert change(daemon, "b", "load").json() == {}
        assert mark_of(predict(daemon, "/v1/models/b:predict")) == 2
        shutil.rmtree(own / "b")
        put(own / "b", 4)
        assert change(daemon, "b", "load").json() == {}
        assert mark_of(predict(daemon, "/v1/models/b:predict")) == 4
        assert daemon.metric("pyfuncserver_reloads_total", outcome="done") == 4
    assert set(asked) == {1}


class Busy:
    """Asks for model a all the time, and keeps its answers; raises where one fails."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._is_over = False
        self._answers: list[int] = []
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> list[int]:
        self._future = self._thread.submit(self._ask)
        return self._answers

    def _ask(self) -> None:
        while not self._is_over:
            self._answers.append(mark_of(predict(self._daemon, "/v1/models/a:predict")))

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._future.result(WAIT_S)
        self._thread.shutdown()


def test_a_load_that_fails_changes_nothing(own: Path, put: Put) -> None:
    with Daemon("", repository=own, env={"WORKERS": "2"}) as daemon:
        before = daemon.worker_pids()
        put(own / "c", None)
        answer = change(daemon, "c", "load")
        assert (answer.status, REASON in answer.json()["error"]) == (500, True)
        shutil.rmtree(own / "b")
        answer = change(daemon, "b", "load")
        assert (answer.status, "has no model b" in answer.json()["error"]) == (500, True)
        put(own / "deadly", "Deadly")
        answer = change(daemon, "deadly", "load")
        assert (answer.status, "exited with status 3" in answer.json()["error"]) == (500, True)
        shutil.rmtree(own / "deadly")
        put(own / "b", None)
        daemon.terminate(signal.SIGHUP)
        failed = lambda: daemon.metric("pyfuncserver_reloads_total", outcome="failed")  # noqa: E731
        wait_until(lambda: failed() == 4, WAIT_S, "the reload fails, as b served before")
        assert mark_of(predict(daemon, "/v1/models/b:predict")) == 2
        assert change(daemon, "..", "load").status == 404
        assert change(daemon, "d", "load").status == 404
        shutil.rmtree(own / "b")
        put(own / "a-1", 7)
        answer = change(daemon, "c", "load")
        assert (answer.status, "two models have the name a-1" in answer.text) == (500, True)
        assert daemon.worker_pids() == before


def test_changes_at_once_are_made_one_after_the_other(own: Path, put: Put) -> None:
    put(own / "c", 3)
    put(own / "d", None)
    with Daemon("", repository=own, env={"WORKERS": "2"}) as daemon, ThreadPoolExecutor(4) as pool:
        wishes = [("b", "unload"), ("c", "unload"), ("d", "load")]
        asked = [pool.submit(change, daemon, *wish) for wish in wishes]
        wait_until(lambda: "unload b" in daemon.log(), WAIT_S)
        asked.append(pool.submit(change, daemon, "b", "load"))
        assert [it.result(WAIT_S).status for it in asked] == [200, 200, 500, 200]
        assert index(daemon)["c/1"] == ("UNAVAILABLE", "unloaded")
        assert mark_of(predict(daemon, "/v1/models/a:predict")) == 1


def test_what_is_unloaded_stays_so_when_workers_and_hosts_die(own: Path) -> None:
    with Daemon("", repository=own, env={"WORKERS": "2"}) as daemon:
        assert change(daemon, "b", "unload").status == 200
        before = daemon.worker_pids()
        for pid in daemon.processes():  # workers, and the host that would fork others
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(daemon.worker_pids() - before) == 2, WAIT_S)
        assert index(daemon)["b/1"] == ("UNAVAILABLE", "unloaded")
        assert mark_of(predict(daemon, "/v1/models/a:predict")) == 1


def test_each_worker_may_load_for_itself(own: Path) -> None:
    env = {"WORKERS": "2", "MODEL_LOADING": "worker"}
    with Daemon("", repository=own, env=env) as daemon:
        assert change(daemon, "b", "unload").status == 200
        for _ in range(8):  # connections spread over both
            assert predict(daemon, "/v1/models/b:predict").status == 503
            assert mark_of(predict(daemon, "/v1/models/a:predict")) == 1


def test_a_lone_worker_loads_what_it_can(own: Path, put: Put) -> None:
    put(own / "deadly", "Deadly")
    with Daemon("", repository=own, env={"WORKERS": "1"}) as daemon:
        assert "exited with status 3" in index(daemon)["deadly/1"][1]
        (before,) = daemon.worker_pids()
        daemon.terminate(signal.SIGHUP)
        (after,) = wait_until(lambda: daemon.worker_pids() - {before}, WAIT_S, "a reload")
        shutil.rmtree(own / "b")
        put(own / "b", None)
        os.kill(after, signal.SIGKILL)
        wait_until(lambda: daemon.worker_pids() - {after}, WAIT_S, "another worker")
        assert mark_of(predict(daemon, "/v1/models/a:predict")) == 1
        assert REASON in index(daemon)["b/1"][1]
        assert "exited with status 3" in index(daemon)["deadly/1"][1]


def test_an_unload_ends_a_load_that_does_not_end(own: Path, put: Put) -> None:
    with Daemon("", repository=own, env={"WORKERS": "2"}) as daemon, ThreadPoolExecutor(1) as pool:
        put(own / "c", "Endless")
        load = pool.submit(change, daemon, "c", "load")
        wait_until(lambda: "loading generation 2" in daemon.log(), WAIT_S)
        assert change(daemon, "c", "unload").status == 200
        answer = load.result(WAIT_S)
        assert (answer.status, "was unloaded" in answer.json()["error"]) == (500, True)
        assert index(daemon)["c/1"] == ("UNAVAILABLE", "unloaded")
        assert mark_of(predict(daemon, "/v1/models/a:predict")) == 1


def test_the_one_model_of_a_server_may_be_unloaded(own: Path) -> None:
    with Daemon(own / "a", env=BOTH) as daemon:
        assert change(daemon, "model", "unload").status == 200
        assert predict(daemon, "/v1/models/model-1:predict").status == 503
        assert daemon.http("GET", "/v1/models/model-1").status == 503
        request = inference.messages().RepositoryModelLoadRequest(model_name="model")
        body = call(daemon, f"/{inference.SERVICE}/RepositoryModelLoad", request)
        assert inference.parse("RepositoryModelLoadResponse", body).isLoaded
        assert mark_of(predict(daemon, "/v1/models/model-1:predict")) == 1
        body = call(daemon, f"/{inference.SERVICE}/RepositoryModelUnload", request)
        assert inference.parse("RepositoryModelUnloadResponse", body).isUnloaded
        index = inference.messages().RepositoryIndexRequest()
        body = call(daemon, f"/{inference.SERVICE}/RepositoryIndex", index)
        (entry,) = inference.parse("RepositoryIndexResponse", body).models
        assert (entry.state, entry.reason) == ("UNAVAILABLE", "unloaded")


# What no name says


def test_no_default(own: Path) -> None:
    with Daemon("", repository=own, env=BOTH) as daemon:
        answer = predict(daemon, "/invocations")
        assert (answer.status, "names no model" in answer.json()["message"]) == (404, True)
        request = upi.messages().PredictValuesRequest()
        with pytest.raises(grpc.RpcError, match="names no model"):
            call(daemon, f"/{upi.SERVICE}/{upi.METHOD}", request)


def test_beside_upi_alone(own: Path) -> None:
    env = {"CARAML_PROTOCOL": "UPI_V1", "CARAML_MODEL_NAME": "a"}
    with Daemon("", repository=own, env=env) as daemon:
        assert daemon.http("GET", "/v2/health/ready").status == 200
        assert daemon.http("GET", "/ping").status == 200


# Repositories that cannot be served


def refused(root: Path, *flags: str) -> str:
    args = ["--model_repository", str(root), *flags]
    status, output = run_daemon_expecting_exit(args)
    assert status == 1, output
    (line,) = [line for line in output.splitlines() if line.startswith("pyfuncserver:")]
    return line


def test_two_models_of_one_name(own: Path, put: Put) -> None:
    put(own / "a-1", 7)
    line = refused(own)
    assert "two models have the name a-1" in line
    assert str(own / "a-1") in line


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in refused(tmp_path / "nowhere")


def test_no_model_that_can_be_loaded(put: Put, tmp_path: Path) -> None:
    put(tmp_path / "c", None)
    assert REASON in refused(tmp_path)


def test_a_dry_run_tells_of_each(own: Path, put: Put) -> None:
    put(own / "c", None)
    status, output = run_daemon_expecting_exit(["--model_repository", str(own), "--dry_run"])
    assert status == 1
    assert REASON in output
    shutil.rmtree(own / "c")
    status, output = run_daemon_expecting_exit(["--model_repository", str(own), "--dry_run"])
    assert status == 0, output


def test_one_model_or_a_repository(own: Path) -> None:
    args = ["--model_repository", str(own), "--model_dir", str(own / "a")]
    status, output = run_daemon_expecting_exit(args)
    assert status == 2
    assert "not both" in output
