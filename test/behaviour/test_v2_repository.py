"""V2's repository calls, its tokens, and its health where HTTP has nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
from harness import Answer, Daemon, wait_until

from pyfuncserver.codec import inference

LOAD, UNLOAD = (f"/v2/repository/models/model/{what}" for what in ("load", "unload"))
INPUT = {"name": "x", "datatype": "FP64", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}
BODY = json.dumps({"inputs": [INPUT]})
INFER = "/v2/models/model/infer"


@pytest.fixture(scope="module")
def small_model(save_model: Callable[..., Path]) -> Path:
    """Give one that is soon loaded, as it often is here."""
    return save_model("small", lambda models, path: models.save(models.EchoPlain(), path))


@pytest.fixture(scope="module")
def model(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a model of our own, which may be broken."""
    return Path(shutil.copytree(small_model, tmp_path_factory.mktemp("repository") / "model"))


@pytest.fixture(scope="module")
def daemon(model: Path) -> Iterator[Daemon]:
    with Daemon(model, env={"WORKERS": "2"}) as running:
        yield running


def reloads(daemon: Daemon) -> float:
    return daemon.metric("pyfuncserver_reloads_total", outcome="done")


def test_a_load_is_answered_when_all_workers_have_the_new_model(daemon: Daemon) -> None:
    before, count = daemon.worker_pids(), reloads(daemon)
    answer = daemon.http("POST", LOAD, b"{}")
    assert (answer.status, answer.json()) == (200, {})
    assert reloads(daemon) == count + 1
    after = wait_until(lambda: daemon.worker_pids() - before, 30, "the new workers are told of")
    assert len(after) == 2
    assert daemon.http("POST", INFER, BODY).status == 200


def test_a_load_that_fails(daemon: Daemon, model: Path) -> None:
    told = (model / "MLmodel").read_text(encoding="utf-8")
    (model / "MLmodel").write_text("spoilt", encoding="utf-8")
    before = daemon.worker_pids()
    answer = daemon.http("POST", LOAD, b"{}")
    assert (answer.status, list(answer.json())) == (500, ["error"])
    assert str(model) in answer.json()["error"], "which model it is, and why"
    assert daemon.worker_pids() == before, "the old ones serve on"
    assert daemon.http("POST", INFER, BODY).status == 200
    (model / "MLmodel").write_text(told, encoding="utf-8")
    assert daemon.http("POST", LOAD).status == 200


@pytest.mark.parametrize("ready", ["{}", "[]", "null", '"yes"', "1", "0"])
def test_an_index_of_something_else_than_ready_ones(daemon: Daemon, ready: str) -> None:
    answer = daemon.http("POST", "/v2/repository/index", f'{{"ready": {ready}}}')
    assert (answer.status, answer.json()) == (400, {"error": '"ready" must be true or false'})


def test_loads_that_come_together(daemon: Daemon) -> None:
    answers: list[Answer] = []
    threads = [
        Thread(target=lambda: answers.append(daemon.http("POST", LOAD, b"{}"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answer.status for answer in answers] == [200] * 3


def test_unloading_and_loading_again(daemon: Daemon) -> None:
    assert daemon.http("POST", UNLOAD).status == 200
    assert daemon.http("POST", INFER, BODY).status == 503
    assert daemon.http("GET", "/v2/models/model/ready").status == 503
    (entry,) = daemon.http("POST", "/v2/repository/index").json()
    assert (entry["state"], entry["reason"]) == ("UNAVAILABLE", "unloaded")
    assert daemon.http("POST", LOAD).status == 200
    assert daemon.http("POST", INFER, BODY).status == 200


def test_a_client_that_does_not_wait(daemon: Daemon) -> None:
    count = reloads(daemon)
    answer = daemon.http("POST", LOAD, b"{}", {"X-Request-Timeout": "0.01"})
    assert answer.status == 504, answer.text
    wait_until(lambda: reloads(daemon) == count + 1, 30, "it is loaded")


def test_tokens(small_model: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret-enough-for-a-test\n", encoding="utf-8")
    calls = [("POST", INFER, BODY), ("POST", "/v2/repository/index", b"")]
    calls += [("POST", f"/v2/repository/models/model/{what}", b"") for what in ("load", "unload")]
    with Daemon(small_model, env={"TOKEN_FILE": str(tokens)}) as daemon:
        for method, path, body in calls:
            answer = daemon.http(method, path, body)
            assert (answer.status, list(answer.json())) == (401, ["error"])
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        bearer = {"Authorization": "Bearer secret-enough-for-a-test"}
        for method, path, body in calls[:2]:
            assert daemon.http(method, path, body, bearer).status == 200
        for path in ("/v2", "/v2/models", "/v2/models/model", "/v2/health/ready"):
            assert daemon.http("GET", path).status == 200


def test_health_beside_upi(small_model: Path) -> None:
    with Daemon(small_model, env={"CARAML_PROTOCOL": "UPI_V1"}) as daemon:
        assert daemon.http("GET", "/v2/health/live").json() == {"live": True}
        assert daemon.http("GET", "/v2/health/ready").json() == {"ready": True}
        assert daemon.http("GET", "/v2/models/model/ready").status == 200
        for method, path in (("GET", "/v2/models/model"), ("POST", "/v2/repository/index")):
            answer = daemon.http(method, path, b"" if method == "POST" else None)
            assert (answer.status, list(answer.json())) == (501, ["error"])
        for method in ("PUT", "GET", "DELETE"):
            answer = daemon.http(method, "/v2/repository/index")
            assert (answer.status, list(answer.json())) == (405, ["error"])
            assert answer.headers["Allow"] == "POST"
        assert daemon.http("POST", INFER, BODY).status == 404
        request = inference.messages().RepositoryModelLoadRequest(model_name="model")
        with daemon.channel() as channel:
            unload = channel.unary_unary(f"/{inference.SERVICE}/RepositoryModelUnload")
            unload(request.SerializeToString(), timeout=60)
        for path in ("/v1/models/model-1", "/v2/models/model/ready"):
            assert daemon.http("GET", path).status == 503
        assert daemon.http("GET", "/v2/models").json() == {"models": []}
        assert daemon.http("GET", "/v2/health/ready").json() == {"ready": True}


def test_a_server_that_is_not_ready(controlled_model: Path) -> None:
    env = {"DRAIN_DELAY_SEC": "20"}
    with Daemon(controlled_model, env=env) as daemon:
        daemon.terminate()
        wait_until(lambda: daemon.http("GET", "/v2/health/ready").status == 503, 30, "it drains")
        assert daemon.http("GET", "/v2/health/ready").json() == {"ready": False}
        assert daemon.http("GET", "/v2/models/model/ready").status == 503
        assert daemon.http("GET", "/v2/health/live").status == 200
        (entry,) = daemon.http("POST", "/v2/repository/index").json()
        assert entry["state"] == "UNAVAILABLE"
        assert daemon.http("POST", "/v2/repository/index", b'{"ready": true}').json() == []
        assert daemon.http("POST", LOAD).status == 503
        daemon.terminate()  # at once
        daemon.wait()
