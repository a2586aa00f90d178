"""MLflow's scoring protocol, by kinds of models and settings; over which transport is one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from harness import Answer, Daemon, wait_until
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

JSON = {"Content-Type": "application/json"}
CSV = {"Content-Type": "text/csv"}
COLUMNS = {"n": [1.5], "s": ["x"]}


def save_scored(_: Any, path: Path) -> Path:
    import scoring_models

    return scoring_models.save_scored(path)


def invoke(daemon: Daemon, body: object, headers: dict[str, str] = JSON) -> Answer:
    raw = body if isinstance(body, bytes | str) else json.dumps(body)
    return daemon.http("POST", "/invocations", raw, headers)


def test_llm_input_is_answered_without_a_wrapper(save_model: Callable[..., Path]) -> None:
    def save(models: Any, path: Path) -> Path:
        import scoring_models

        return Path(models.save(scoring_models.Scored(), path))

    body = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0.5}
    with Daemon(save_model("scored_without_a_signature", save)) as daemon:
        assert invoke(daemon, body).json() == {"input": body, "params": {}}


def test_a_model_with_type_hints(save_model: Callable[..., Path]) -> None:
    def save(models: Any, path: Path) -> Path:
        import scoring_models

        return Path(models.save(scoring_models.Hinted(), path))

    with Daemon(save_model("hinted", save)) as daemon:
        assert invoke(daemon, {"inputs": [{"a": 1.5, "b": 2.0}]}).json() == {"predictions": [3.5]}
        for body in ({"instances": [{"a": 1.5}]}, {"inputs": [{"a": "mine"}]}, {"inputs": 5}):
            answer = invoke(daemon, body)
            assert (answer.status, answer.json()["error_code"]) == (400, "BAD_REQUEST")
            assert "mine" not in answer.text


def test_a_merlin_model_has_no_answer(controlled_model: Path) -> None:
    with Daemon(controlled_model) as daemon:
        answer = invoke(daemon, {"inputs": [1]})
        assert (answer.status, answer.json()["error_code"]) == (501, "NOT_IMPLEMENTED")
        assert "merlin" in answer.json()["message"]


def test_a_token_is_asked_for(save_model: Callable[..., Path], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n", encoding="utf-8")
    tokens.chmod(0o600)
    model = save_model("scored", save_scored)
    with Daemon(model, env={"TOKEN_FILE": str(tokens)}) as guarded:
        answer = invoke(guarded, {"inputs": COLUMNS})
        assert (answer.status, answer.json()["error_code"]) == (401, "UNAUTHENTICATED")
        assert (
            invoke(guarded, {"inputs": COLUMNS}, {**JSON, "Authorization": "Bearer secret"}).status
            == 200
        )


def test_requests_are_put_together(save_model: Callable[..., Path]) -> None:
    """The model tells of each row how many were handed over with it."""
    model = save_model("rows", lambda models, path: models.save_rows(path))
    with Daemon(model, env={"BATCH_MAX_SIZE": "8"}) as batching, ThreadPoolExecutor(5) as threads:
        waiting = "pyfuncserver_requests_waiting"
        gate = batching.gate()
        x = 2000.0 + gate.number
        busy = threads.submit(invoke, batching, {"dataframe_records": [{"x": x}]})
        begun = "pyfuncserver_batches_total"
        wait_until(lambda: batching.metric(begun) > 0, 30, "the model is busy")
        bodies: list[Any] = [
            {"dataframe_records": [{"x": 1.0}]},
            {"dataframe_split": {"columns": ["x"], "data": [[2.0], [3.0]]}},
            {"inputs": {"x": [4.0]}},
            "x\n5.0\n",
        ]
        sent = [
            threads.submit(invoke, batching, body, CSV if isinstance(body, str) else JSON)
            for body in bodies
        ]
        wait_until(lambda: batching.metric(waiting) == 4, 30, "four wait")
        gate.open()
        answers = [answer.result().json()["predictions"] for answer in sent]
        assert busy.result().status == 200
    assert [[row["y"] for row in rows] for rows in answers] == [[2.0], [4.0, 6.0], [8.0], [10.0]]
    assert {row["rows"] for rows in answers for row in rows} == {5}


def test_mlflows_client_sends_arrays(echo_model: Path) -> None:
    with Daemon(echo_model) as daemon:
        client = ScoringServerClient("127.0.0.1", daemon.http_port)
        for data in (np.array([[1.5, 2.0]]), [[1.5, 2.0]]):
            assert client.invoke(data)["predictions"] == [[1.5, 2.0]]


def test_a_daemon_answers_as_mlflows_server(save_model: Callable[..., Path]) -> None:
    from scoring_oracle import Oracle, Outcome, difference
    from scoring_requests import request_of, signature_of

    draw = random.Random(4)
    signature = None
    while signature is None or signature.inputs is None or len(signature.inputs.inputs) < 3:
        signature = signature_of(draw)
    saved = save_model(
        "drawn", lambda models, path: models.save(models.EchoPlain(), path, signature=signature)
    )
    oracle = Oracle(mlflow.pyfunc.load_model(str(saved)))
    with Daemon(saved) as daemon:
        for _ in range(60):
            body, content_type = request_of(draw, signature)
            headers = {} if content_type is None else {"Content-Type": content_type}
            found = invoke(daemon, body, headers)
            ours = Outcome(found.status, found.body, found.headers["Content-Type"])
            theirs = oracle.ask(body, content_type)
            assert not difference(theirs, ours), (body, content_type, theirs, ours)
    oracle.close()
