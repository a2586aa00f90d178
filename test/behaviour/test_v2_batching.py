"""V2's calls in one batch with V1's: they are put together after they have been read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from harness import Answer, Daemon, Gate, wait_until

Save = Callable[..., Path]
WAIT_S = 30
INFER = "/v2/models/model/infer"


@pytest.fixture(scope="module")
def daemon(save_model: Save) -> Iterator[Daemon]:
    model = save_model("rows", lambda models, path: models.save_rows(path))
    with Daemon(model, env={"BATCH_MAX_SIZE": "8"}) as running:
        yield running


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as running:
        yield running


class Scene:
    """A model that is kept busy, so that what is sent meanwhile waits."""

    def __init__(self, daemon: Daemon, pool: ThreadPoolExecutor) -> None:
        self.daemon = daemon
        self.pool = pool

    def v1(self, *xs: float) -> Future[Answer]:
        body = {"instances": [{"x": x} for x in xs]}
        return self.pool.submit(self.daemon.predict, body)

    def v2(self, *xs: float, datatype: str = "FP64", **parameters: Any) -> Future[Answer]:
        tensor = {"name": "x", "datatype": datatype, "shape": [len(xs)], "data": xs}
        body = json.dumps({"inputs": [tensor], "parameters": parameters})
        return self.pool.submit(self.daemon.http, "POST", INFER, body)

    def keep_busy(self, gate: Gate) -> Future[Answer]:
        begun = self.metric("batches_total")
        call = self.v1(2000 + gate.number)
        wait_until(lambda: self.metric("batches_total") > begun, WAIT_S, "the model is busy")
        return call

    def wait_until_waiting(self, number: int) -> None:
        wait_until(lambda: self.metric("requests_waiting") == number, WAIT_S, f"{number} wait")

    def metric(self, name: str) -> float:
        return self.daemon.metric(f"pyfuncserver_{name}")


def columns(call: Future[Answer]) -> dict[str, Any]:
    answer = call.result(WAIT_S)
    assert answer.status == 200, answer.text
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


def test_calls_of_both_dialects_go_together(daemon: Daemon, pool: ThreadPoolExecutor) -> None:
    scene = Scene(daemon, pool)
    gate = daemon.gate()
    busy = scene.keep_busy(gate)
    one, two = scene.v1(1), scene.v2(2, 3)
    narrow = scene.v2(4, datatype="FP32")
    tagged = scene.v2(5, tag="t")
    bad = scene.v2(1, datatype="BYTES")
    scene.wait_until_waiting(5)
    gate.open()
    assert busy.result(WAIT_S).status == 200
    assert bad.result(WAIT_S).status == 400
    assert one.result(WAIT_S).json() == {"predictions": [{"y": 2, "rows": 4, "tag": ""}]}
    assert columns(two) == {"y": [4, 6], "rows": [4, 4], "tag": ["", ""]}
    assert columns(narrow) == {"y": [8], "rows": [4], "tag": [""]}
    assert columns(tagged) == {"y": [10], "rows": [1], "tag": ["t"]}
