from __future__ import annotations

import json
import math
from typing import Any

import pytest

from pyfuncserver.errors import (
    InvalidInput,
    ModelFailed,
    ModelStatus,
    NotReady,
    ServingError,
    UnknownModel,
)
from pyfuncserver.model.call import Call, Complete, Form, Predictions, Request
from pyfuncserver.protocol.rest.v1 import V1, error_body


def request(body: bytes) -> Request:
    return Request("m-1", body, "id", {"Foo": "bar"})


@pytest.mark.parametrize("body", [{"instances": [[1, 2.5, None]]}, [1], "x", None])
def test_decode(body: Any) -> None:
    found = V1().decode(request(json.dumps(body).encode()))
    assert found == Call(Form.JSON, body, {"Foo": "bar"})


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b"\xff", b"instances"])
def test_body_that_is_not_json(body: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^Unrecognized request format: ."):
        V1().decode(request(body))


def test_complete_answer_is_written_as_it_is() -> None:
    reply = V1().encode(Complete({"a": [1, math.nan]}))
    assert (reply.status, json.loads(reply.body)) == (200, {"a": [1, None]})


def test_bare_predictions_are_framed() -> None:
    reply = V1().encode(Predictions([1, 2], Call(Form.JSON, None)))
    assert json.loads(reply.body) == {"predictions": [1, 2]}


class Hostile:
    """Fails while it is read."""

    @property
    def model_dump(self) -> Any:
        raise RuntimeError("a secret of the model's")


@pytest.mark.parametrize("answer", [object(), {"a": 1j}, Hostile()])
def test_answer_that_json_cannot_hold(answer: object) -> None:
    with pytest.raises(ModelFailed) as caught:
        V1().encode(Complete(answer))
    assert caught.value.error_id in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInput("bad"), 400),
        (UnknownModel("iris"), 404),
        (NotReady("wait"), 503),
        (ModelFailed("failed", "id"), 500),
        (ModelStatus(422, "no such user"), 422),
    ],
)
def test_error(error: ServingError, status: int) -> None:
    reply = V1().error(error)
    assert reply.status == status
    assert json.loads(reply.body) == {"status_code": status, "reason": str(error)}


def test_reason_of_the_model_is_the_status_lines_too() -> None:
    assert V1().error(ModelStatus(422, "no such user")).reason == "no such user"
    assert V1().error(InvalidInput("bad")).reason == ""


def test_error_body_holds_any_text() -> None:
    text = 'a "quote"\n\ud800 ä'
    assert json.loads(error_body(400, text)) == {"status_code": 400, "reason": text}
