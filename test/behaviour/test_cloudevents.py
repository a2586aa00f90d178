"""CloudEvents around V1's predictions, over the wire: the modes, the model's view, the settings."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from environments import environment
from harness import Answer, Daemon

STRUCTURED = "application/cloudevents+json"
ATTRIBUTES = {"specversion": "1.0", "id": "a-1", "source": "/me", "type": "my.type"}
BINARY = {"Content-Type": "application/json", **{f"ce-{n}": v for n, v in ATTRIBUTES.items()}}


@pytest.fixture(scope="module")
def daemon(over_transport: None, controlled_model: Path) -> Iterator[Daemon]:
    with Daemon(controlled_model) as running:
        yield running


def structured(daemon: Daemon, data: Any, **more: Any) -> Answer:
    event = {**ATTRIBUTES, **more, "data": data}
    return daemon.predict(event, {"Content-Type": STRUCTURED})


def ce_headers(answer: Answer) -> dict[str, str]:
    found = {name.lower(): value for name, value in answer.headers.items()}
    return {name[3:]: value for name, value in found.items() if name.startswith("ce-")}


def test_structured_mode(daemon: Daemon) -> None:
    answer = structured(daemon, {"do": "echo"}, myext=7, subject="s")
    assert (answer.status, answer.headers["Content-Type"]) == (200, STRUCTURED)
    event = answer.json()
    assert uuid.UUID(event.pop("id"))
    assert event.pop("time").endswith("+00:00")
    assert event == {
        "specversion": "1.0",
        "source": "io.kserve.inference.model-1",
        "type": "io.kserve.inference.response",
        "myext": 7,
        "data": {"echo": {"do": "echo"}},
    }
    assert ce_headers(answer) == {}


def test_binary_mode(daemon: Daemon) -> None:
    answer = daemon.predict({"do": "echo"}, {**BINARY, "ce-myext": "a%20b", "ce-subject": "s"})
    assert (answer.status, answer.json()) == (200, {"echo": {"do": "echo"}})
    assert answer.headers["Content-Type"] == "application/json; charset=UTF-8"
    headers = ce_headers(answer)
    assert uuid.UUID(headers.pop("id"))
    assert headers.pop("time").endswith("+00:00")
    assert headers == {
        "specversion": "1.0",
        "source": "io.kserve.inference.model-1",
        "type": "io.kserve.inference.response",
        "myext": "a%20b",
    }


def test_the_model_sees_the_headers(daemon: Daemon) -> None:
    headers = daemon.predict({"do": "headers"}, BINARY).json()["headers"]
    assert headers["Ce-Id"] == "a-1"


def test_what_is_no_event_is_answered_by_none(daemon: Daemon) -> None:
    event = {**ATTRIBUTES, "do": "echo"}
    answer = daemon.predict(event)
    assert (answer.json(), ce_headers(answer)) == ({"echo": event}, {})


@pytest.mark.parametrize(("body", "headers"), [
    (b"{", {"Content-Type": STRUCTURED}),
    (json.dumps({**ATTRIBUTES, "id": "", "data": {}}), {"Content-Type": STRUCTURED}),
    (json.dumps([ATTRIBUTES]), {"Content-Type": "application/cloudevents-batch+json"}),
    (b"{}", {**BINARY, "ce-specversion": "2.0"}),
    (b"{", BINARY),
])  # fmt: skip
def test_a_malformed_event(daemon: Daemon, body: bytes, headers: dict[str, str]) -> None:
    answer = daemon.predict(body, headers)
    assert (answer.status, answer.json()["status_code"], ce_headers(answer)) == (400, 400, {})
    assert answer.json().keys() == {"status_code", "reason"}


def test_a_failure_is_told_as_to_anybody(daemon: Daemon) -> None:
    answer = structured(daemon, {"do": "http_error"})
    assert (answer.status, ce_headers(answer)) == (422, {})
    assert answer.json() == {"status_code": 422, "reason": "no such user"}


@pytest.mark.timeout(300)
def test_the_cloudevents_sdk(daemon: Daemon) -> None:
    python = environment("cloudevents", "cloudevents==1.13.0") / "python"
    script = Path(__file__).with_name("cloudevents_client.py")
    url = f"http://127.0.0.1:{daemon.http_port}{daemon.predict_path}"
    done = subprocess.run(
        [python, script, url], timeout=60, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = json.loads(done.stdout)
    assert (first["data"], first["type"]) == ({"echo": {"do": "echo", "n": 7}}, STRUCTURED)
    assert first["attributes"]["myext"] == "a b%ä"
    assert second["data"] == {"echo": {"do": "echo", "n": 8}}
    assert second["attributes"]["myext"] == "plain"
    for answer in (first, second):
        assert answer["attributes"]["type"] == "io.kserve.inference.response"


def test_settings_and_batches(over_transport: None, signed_model: Path) -> None:
    """A batch is cut into the answers of its calls, each to an event or to none."""
    env = {
        "CE_TYPE": "my.answer",
        "CE_SOURCE": "/my source",
        "CE_MERGE": "true",
        "BATCH_MAX_SIZE": "8",
    }
    body = {"instances": [{"a": 1.5, "b": 2, "s": "x"}]}
    predictions = {"predictions": [{"total": 3.5, "s": "X"}]}
    with Daemon(signed_model, env=env) as daemon:
        event = structured(daemon, body, subject="s").json()
        assert (event["type"], event["source"], event["subject"], event["data"]) == (
            "my.answer", "/my source", "s", predictions,
        )  # fmt: skip
        answer = daemon.predict(body, BINARY)
        assert answer.json() == predictions
        assert ce_headers(answer)["source"] == "/my%20source"
        assert daemon.predict(body).json() == predictions
