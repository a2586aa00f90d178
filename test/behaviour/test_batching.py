"""Calls that go to the model together: a real daemon, over both protocols."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from harness import Daemon, Gate, wait_until
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

from pyfuncserver.codec import upi

METHOD = f"/{upi.SERVICE}/{upi.METHOD}"
WAIT_S = 30
BOTH = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1"}
Save = Callable[..., Path]


@pytest.fixture(scope="session")
def rows_model(save_model: Save) -> Path:
    return save_model("rows", lambda models, path: models.save_rows(path))


@pytest.fixture(scope="session")
def forest_model(save_model: Save) -> Path:
    return save_model("forest", lambda models, path: models.save_forest(path))


class Sent:
    """A V1 request that is under way."""

    def __init__(
        self, daemon: Daemon, xs: tuple[float, ...], headers: Mapping[str, str], params: Any
    ) -> None:
        body = {"instances": [{"x": x} for x in xs], "params": params}
        self.connection: HTTPConnection = daemon.connection()
        self.connection.request("POST", daemon.predict_path, json.dumps(body), dict(headers))

    def answer(self) -> tuple[int, Any]:
        with contextlib.closing(self.connection):
            response = self.connection.getresponse()
            return response.status, json.loads(response.read())

    def rows(self) -> list[dict[str, Any]]:
        status, body = self.answer()
        assert status == 200, body
        rows: list[dict[str, Any]] = body["predictions"]
        return rows


class Busy:
    """A call that the model has, and keeps until its answer is asked for."""

    def __init__(self, gate: Gate, call: Sent) -> None:
        self._gate = gate
        self._call = call
        self.x = 2000 + gate.number

    def rows(self) -> list[dict[str, Any]]:
        self._gate.open()
        return self._call.rows()


class Scene:
    """A daemon whose model can be kept busy, so that what is sent meanwhile waits."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    def send(
        self, *xs: float, headers: Mapping[str, str] | None = None, params: Any = None
    ) -> Sent:
        return Sent(self.daemon, xs, headers or {}, params)

    def send_upi(self, *xs: float, row_ids: tuple[str, ...] = ()) -> Any:
        request = upi.messages().PredictValuesRequest(target_name="y")
        table = request.prediction_table
        table.columns.add(name="x", type=upi.DOUBLE)
        for place, x in enumerate(xs):
            row = table.rows.add(row_id=row_ids[place] if row_ids else "")
            row.values.add(double_value=x)
        return self.daemon.channel().unary_unary(METHOD).future(request.SerializeToString())

    def keep_busy(self) -> Busy:
        """Send what the model keeps, and return when it has it."""
        begun, gate = self.metric("batches_total"), self.daemon.gate()
        busy = Busy(gate, self.send(2000 + gate.number))
        wait_until(lambda: self.metric("batches_total") > begun, WAIT_S, "the model is busy")
        return busy

    def wait_until_waiting(self, number: int) -> None:
        wait_until(lambda: self.metric("requests_waiting") == number, WAIT_S, f"{number} wait")

    def metric(self, name: str, **labels: str) -> float:
        return self.daemon.metric(f"pyfuncserver_{name}", **labels)

    def batches(self, closed: str) -> float:
        return self.metric("batches_total", closed=closed)


def response_of(call: Any) -> list[list[float]]:
    response = upi.messages().PredictValuesResponse.FromString(call.result(WAIT_S))
    table = response.prediction_result_table
    names = [column.name for column in table.columns]
    fields = {"y": "double_value", "rows": "integer_value", "tag": "string_value"}
    return [
        [row.row_id, *(getattr(v, fields[n]) for n, v in zip(names, row.values, strict=True))]
        for row in table.rows
    ]


def row(x: float, rows: int, tag: str = "") -> dict[str, Any]:
    return {"y": 2 * x, "rows": rows, "tag": tag}


@pytest.fixture(scope="module")
def daemon(rows_model: Path) -> Iterator[Daemon]:
    env = {**BOTH, "BATCH_MAX_SIZE": "8"}
    with Daemon(rows_model, env=env) as running:
        yield running


@pytest.fixture
def scene(daemon: Daemon) -> Scene:
    return Scene(daemon)


def test_calls_of_both_protocols_go_together(scene: Scene) -> None:
    busy = scene.keep_busy()
    http = [scene.send(1), scene.send(2, 3)]
    scene.wait_until_waiting(2)
    grpc = [scene.send_upi(4), scene.send_upi(5, 6)]
    scene.wait_until_waiting(4)
    assert busy.rows() == [row(busy.x, 1)]
    assert http[0].rows() == [row(1, 6)]
    assert http[1].rows() == [row(2, 6), row(3, 6)]
    assert response_of(grpc[0]) == [["", 8, 6, ""]]
    assert response_of(grpc[1]) == [["", 10, 6, ""], ["", 12, 6, ""]]


def test_calls_of_mlflows_client_go_together(scene: Scene) -> None:
    """Its frames have an index, 0 to n - 1; rows of any other index go alone."""

    def split(*xs: float, index: Sequence[int]) -> Future[Any]:
        frame = pd.DataFrame({"x": xs}, index=list(index))
        return clients.submit(to.invoke, frame)

    to = ScoringServerClient("127.0.0.1", scene.daemon.http_port)
    with ThreadPoolExecutor(4) as clients:
        busy = scene.keep_busy()
        calls = [split(1, index=[0]), split(2, 3, index=[0, 1]), split(4, index=[7])]
        scene.wait_until_waiting(3)
        busy.rows()
        frames = [call.result(WAIT_S).get_predictions() for call in calls]
    assert frames[0].to_dict("records") == [row(1, 3)]
    assert frames[1].to_dict("records") == [row(2, 3), row(3, 3)]
    assert frames[2].to_dict("records") == [row(4, 1)]


def test_rows_keep_their_names_and_two_of_one_name_are_not_together(scene: Scene) -> None:
    busy = scene.keep_busy()
    calls = []
    for number, ids in enumerate([("a", "b"), ("c", "d"), ("a", "e")]):
        calls.append(scene.send_upi(1, 2, row_ids=ids))
        scene.wait_until_waiting(number + 1)
    busy.rows()
    assert response_of(calls[0]) == [["a", 2, 4, ""], ["b", 4, 4, ""]]
    assert response_of(calls[1]) == [["c", 2, 4, ""], ["d", 4, 4, ""]]
    assert response_of(calls[2]) == [["a", 2, 2, ""], ["e", 4, 2, ""]]


def test_no_more_rows_than_may_be(scene: Scene) -> None:
    busy = scene.keep_busy()
    calls = []
    for number, length in enumerate((3, 3, 3, 9, 1, 8)):
        calls.append(scene.send(*[1] * length))
        scene.wait_until_waiting(number + 1)
    full = scene.batches("full")
    busy.rows()
    assert [call.rows()[0]["rows"] for call in calls] == [6, 6, 4, 9, 4, 8]
    assert scene.batches("full") >= full + 3


def test_params_are_not_mixed(scene: Scene) -> None:
    busy = scene.keep_busy()
    tags = ["", "a", "b", "a", ""]
    calls = []
    for number, tag in enumerate(tags):
        calls.append(scene.send(number, params={"tag": tag} if tag else None))
        scene.wait_until_waiting(number + 1)
    others = scene.batches("others")
    busy.rows()
    sizes = {"": 2, "a": 2, "b": 1}
    for number, (call, tag) in enumerate(zip(calls, tags, strict=True)):
        assert call.rows() == [row(number, sizes[tag], tag)]
    assert scene.batches("others") == others + 2


def test_one_bad_row_fails_alone(scene: Scene) -> None:
    retries = scene.metric("batch_retries_total")
    busy = scene.keep_busy()
    calls = [scene.send(1), scene.send(2, -1), scene.send(3)]
    scene.wait_until_waiting(3)
    busy.rows()
    assert [calls[0].rows(), calls[2].rows()] == [[row(1, 1)], [row(3, 1)]]
    status, body = calls[1].answer()
    assert status == 500
    assert "error id" in body["reason"]
    assert scene.metric("batch_retries_total") == retries + 1


def test_call_that_the_signature_refuses_does_not_reach_the_others(scene: Scene) -> None:
    retries = scene.metric("batch_retries_total")
    busy = scene.keep_busy()
    well = [scene.send(1), scene.send(2)]
    scene.wait_until_waiting(2)
    connection = scene.daemon.connection()
    connection.request("POST", scene.daemon.predict_path, b'{"instances": [{"z": 1}]}')
    scene.wait_until_waiting(3)
    busy.rows()
    assert [call.rows() for call in well] == [[row(1, 2)], [row(2, 2)]]
    with contextlib.closing(connection):
        assert connection.getresponse().status == 400
    assert scene.metric("batch_retries_total") == retries


def test_waiting_ones_whose_deadline_passes_or_who_go_leave_the_batch(scene: Scene) -> None:
    busy = scene.keep_busy()
    late = scene.send(1, headers={"X-Request-Timeout": "1.5"})
    gone, stays = scene.send(2), scene.send(3)
    scene.wait_until_waiting(3)
    gone.connection.close()
    assert late.answer()[0] == 504
    scene.wait_until_waiting(1)
    busy.rows()
    assert stays.rows() == [row(3, 1)]


def test_what_batches_were_is_counted(scene: Scene) -> None:
    batches, rows, waits = (
        scene.metric(name) for name in ("batches_total", "batch_rows_sum", "batch_wait_seconds_sum")
    )
    busy = scene.keep_busy()
    calls = [scene.send(1), scene.send(2), scene.send(3)]
    scene.wait_until_waiting(3)
    for call in (busy, *calls):
        call.rows()
    assert scene.metric("batches_total") == batches + 2
    assert scene.metric("batch_rows_sum") == rows + 4
    assert 0 < scene.metric("batch_wait_seconds_sum") - waits < 5


def test_answer_of_another_length_ends_batching(rows_model: Path) -> None:
    with Daemon(rows_model, env={"BATCH_MAX_SIZE": "8"}) as daemon:
        scene = Scene(daemon)
        for _ in range(2):
            busy = scene.keep_busy()
            calls = [scene.send(1, 2, params={"cut": True}), scene.send(3, params={"cut": True})]
            scene.wait_until_waiting(2)
            busy.rows()
            assert [call.rows() for call in calls] == [[0.0], [0.0]]
        off = [line for line in daemon.log_lines() if "batching is off from now on" in line]
        assert len(off) == 1
        assert "1 rows (list) for 3" in off[0]
        assert scene.send(5).rows() == [row(5, 1)]


def test_64_clients_at_once_and_their_own_answers(rows_model: Path) -> None:
    with Daemon(rows_model, env={**BOTH, "BATCH_MAX_SIZE": "16"}) as daemon:

        def ask(client: int) -> int:
            most = 0
            with contextlib.closing(daemon.connection()) as connection:
                for number in range(20):
                    xs = [client + place / 8 for place in range(number % 3 + 1)]
                    body = {"instances": [{"x": x} for x in xs]}
                    rows = daemon.predict(body, connection=connection).json()["predictions"]
                    assert [row["y"] for row in rows] == [2 * x for x in xs]
                    most = max(most, *(row["rows"] for row in rows))
            return most

        with ThreadPoolExecutor(64) as clients:
            most = max(clients.map(ask, range(64)))
        assert 1 < most <= 16
        assert daemon.metric("pyfuncserver_batch_rows_bucket", le="16.0") == daemon.metric(
            "pyfuncserver_batch_rows_count"
        )
        assert daemon.metric("pyfuncserver_requests_total", code="200") == 64 * 20


def test_batch_that_takes_too_long_is_cut_off_as_a_whole(rows_model: Path) -> None:
    env = {**BOTH, "BATCH_MAX_SIZE": "8", "PREDICT_TIMEOUT_SEC": "2"}
    with Daemon(rows_model, env=env) as daemon:
        scene = Scene(daemon)
        busy = scene.keep_busy()
        hanging = [scene.send(1060), scene.send(1)]
        scene.wait_until_waiting(2)
        busy.rows()
        for call in hanging:
            status, body = call.answer()
            assert status == 504
            assert "The prediction took longer than 2 s (PREDICT_TIMEOUT_SEC)" in body["reason"]
        assert scene.send(2).rows() == [row(2, 1)]
        assert scene.metric("request_errors_total", kind="timeout") == 2


def test_drain_answers_what_waits_and_what_runs(rows_model: Path) -> None:
    with Daemon(rows_model, env={**BOTH, "BATCH_MAX_SIZE": "8"}) as daemon:
        scene = Scene(daemon)
        busy = scene.keep_busy()
        http = [scene.send(number) for number in range(12)]
        grpc = [scene.send_upi(number) for number in range(12)]
        scene.wait_until_waiting(24)
        daemon.terminate()
        assert busy.rows() == [row(busy.x, 1)]
        for number, call in enumerate(http):
            assert call.rows()[0]["y"] == 2 * number
        for number, upi_call in enumerate(grpc):
            assert response_of(upi_call)[0][1] == 2 * number
        assert daemon.wait(WAIT_S) == 0
        assert not any("cut off" in line for line in daemon.log_lines())


def test_drain_does_not_cut_off_what_is_held(rows_model: Path) -> None:
    env = {"BATCH_MAX_SIZE": "8", "BATCH_MAX_DELAY_MS": "4000"}
    with Daemon(rows_model, env=env) as daemon:
        scene = Scene(daemon)
        held = [scene.send(1), scene.send(2)]
        scene.wait_until_waiting(2)
        daemon.terminate()
        assert [call.rows() for call in held] == [[row(1, 2)], [row(2, 2)]]
        assert daemon.wait(WAIT_S) == 0


def test_delay_lets_calls_meet(rows_model: Path) -> None:
    env = {**BOTH, "BATCH_MAX_SIZE": "4", "BATCH_MAX_DELAY_MS": "60000"}
    with Daemon(rows_model, env=env) as daemon:
        scene = Scene(daemon)
        calls = [scene.send(1), scene.send(2), scene.send(3)]
        scene.wait_until_waiting(3)
        assert response_of(scene.send_upi(4)) == [["", 8, 4, ""]]
        assert [call.rows()[0]["rows"] for call in calls] == [4, 4, 4]
        # Who has a deadline is not held for longer than half of the time that is left.
        assert scene.send(5, headers={"X-Request-Timeout": "4"}).rows() == [row(5, 1)]


@pytest.mark.alone
def test_lone_client_waits_for_nobody(rows_model: Path) -> None:
    """Nothing is held by default: with batches a call takes what it takes without."""

    def median_ms(env: dict[str, str]) -> float:
        with Daemon(rows_model, env=env) as daemon, contextlib.closing(daemon.connection()) as to:
            times = []
            for number in range(120):
                started = time.perf_counter()
                assert daemon.predict({"instances": [{"x": number}]}, connection=to).status == 200
                times.append((time.perf_counter() - started) * 1000)
            return statistics.median(times[20:])

    # 2 ms is for a machine on which others work, and so are the three attempts; any delay would be
    # felt by each call of each of them.
    pairs = ((median_ms({"BATCH_MAX_SIZE": "64"}), median_ms({})) for _ in range(3))
    assert any(batched < usual + 2 for batched, usual in pairs)


def answers_of_the_forest(model: Path, env: dict[str, str]) -> list[bytes]:
    """Ask for single rows and for some at once, by clients that do not wait for each other."""
    from sklearn.datasets import load_iris

    features = load_iris(as_frame=True).data
    bodies = [{"instances": features.iloc[[place]].to_dict("records")} for place in range(150)]
    bodies += [
        {"instances": features.iloc[place : place + 3].to_dict("records")} for place in range(50)
    ]
    with Daemon(model, env=env) as daemon:

        def ask(body: Any) -> bytes:
            answer = daemon.predict(body)
            assert answer.status == 200
            return answer.body

        with ThreadPoolExecutor(16) as clients:
            found = list(clients.map(ask, bodies))
        if env:
            assert daemon.metric("pyfuncserver_batch_rows_count") < len(bodies)
        return found


@pytest.fixture(scope="module")
def unbatched_answers(over_transport: None, forest_model: Path) -> list[bytes]:
    return answers_of_the_forest(forest_model, {})


@pytest.mark.parametrize("size", ["64", "auto"])
def test_forest_answers_as_without_batches_and_in_order(
    forest_model: Path, size: str, unbatched_answers: list[bytes]
) -> None:
    assert answers_of_the_forest(forest_model, {"BATCH_MAX_SIZE": size}) == unbatched_answers


def test_model_that_takes_the_whole_body_is_never_batched(controlled_model: Path) -> None:
    with Daemon(controlled_model, env={"BATCH_MAX_SIZE": "8"}) as daemon:
        assert daemon.predict({"do": "pid"}).status == 200
        assert daemon.metric("pyfuncserver_batches_total") == 0
        assert any("BATCH_MAX_SIZE is without effect" in line for line in daemon.log_lines())
