"""Seldon's REST for models of other kinds, with batches, and with PAYLOAD_PASSTHROUGH."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from harness import Daemon
from seldon_requests import FEEDBACK, JSON, PREDICT, SaveSeldon, post, refused

ROWS = [[1.5, 2], [3, 4]]


def test_a_tensor_signature(save_seldon: SaveSeldon) -> None:
    with Daemon(save_seldon("halved")) as daemon:
        for data in ({"ndarray": ROWS}, {"tensor": {"shape": [2, 2], "values": [1.5, 2, 3, 4]}}):
            found = post(daemon, {"data": data}).json()["data"]
            values = found["ndarray"] if "ndarray" in data else found["tensor"]["values"]
            assert values in ([[0.75, 1.0], [1.5, 2.0]], [0.75, 1.0, 1.5, 2.0])
        narrow = post(daemon, {"data": {"ndarray": [[1.0]]}})
        refused(narrow, 400, "MICROSERVICE_BAD_DATA")
        inputs = daemon.http("GET", "/metadata").json()["inputs"]
        assert [part["datatype"] for part in inputs] == ["FP32"]
        assert [part["shape"] for part in inputs] == [[-1, 2]]


def test_calls_are_put_together(save_seldon: SaveSeldon) -> None:
    env = {"BATCH_MAX_SIZE": "4", "BATCH_MAX_DELAY_MS": "5000"}
    with Daemon(save_seldon("columns"), env=env) as daemon, ThreadPoolExecutor(4) as clients:
        bodies = [{"data": {"ndarray": [[float(number), 1]]}} for number in range(4)]
        answers = list(clients.map(lambda body: post(daemon, body), bodies))
        assert [answer.json()["data"]["ndarray"] for answer in answers] == [
            [[number + 1.0, 2 * number + 2.0]] for number in range(4)
        ]
        assert daemon.metric("pyfuncserver_batches_total", closed="full") == 1


# PAYLOAD_PASSTHROUGH


def test_the_payload_is_passed_through(save_seldon: SaveSeldon) -> None:
    with Daemon(save_seldon("whatever"), env={"PAYLOAD_PASSTHROUGH": "true"}) as daemon:
        for path in (PREDICT, "/predict", daemon.predict_path):
            answer = daemon.http("POST", path, b"\0not JSON\xff", JSON)
            assert (answer.status, answer.body) == (200, b"\xffNOSJ ton\0")
        refused(post(daemon, {"reward": "no"}, FEEDBACK), 400, "MICROSERVICE_BAD_DATA")


def test_the_payload_is_passed_past_a_signature(save_seldon: SaveSeldon) -> None:
    with Daemon(save_seldon("columns"), env={"PAYLOAD_PASSTHROUGH": "true"}) as daemon:
        # The model expects a frame, and so fails itself.
        refused(post(daemon, b"bytes"), 500, "MICROSERVICE_INTERNAL_ERROR")
    with Daemon(save_seldon("old_way"), env={"PAYLOAD_PASSTHROUGH": "true"}) as daemon:
        assert post(daemon, b"\xff\xfe").body == b"bytes of 2"
        assert daemon.predict(b"\xff\xfe").body == b"bytes of 2"


def test_a_legacy_model_speaks_no_seldon(save_seldon: SaveSeldon) -> None:
    with Daemon(save_seldon("old_way")) as daemon:
        refused(post(daemon, {"strData": "a"}), 501, "MICROSERVICE_INTERNAL_ERROR")
