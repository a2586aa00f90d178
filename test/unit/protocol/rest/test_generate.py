from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyfuncserver.errors import DeadlinePassed, InvalidInput, ModelFailed, ModelStatus
from pyfuncserver.model.call import Form, Predictions, Request, TextInput
from pyfuncserver.model.catalogue import Catalogue
from pyfuncserver.model.identity import Identity
from pyfuncserver.protocol.rest.generate import Generate, GenerateStream

IDENTITY = Identity("m", "3", "m-3")
KNOWN = {"model_name": "m", "model_version": "3"}
MODELS = Catalogue.of(IDENTITY)
WHOLE, STREAM = Generate(MODELS), GenerateStream(MODELS)


def request(body: Any) -> Request:
    return Request("m-3", body if isinstance(body, bytes) else json.dumps(body).encode(), "id")


def test_decode() -> None:
    body = {"text_input": "hi", "parameters": {"t": 0.5, "s": True}, "count": 2, "id": "mine"}
    call = WHOLE.decode(request(body))
    assert call.form is Form.TEXT
    assert call.payload == TextInput("hi", {"t": 0.5, "s": True}, {"count": 2})
    assert call.parts is None
    assert STREAM.decode(request(body)).parts is not None


BAD: dict[str, tuple[Any, str]] = {
    "torn": (b"{", "Unrecognized request format"),
    "number": (1, "Expected a JSON object"),
    "no text": ({"text_input": None}, '"text_input" must be a string'),
    "parameters": ({"text_input": "", "parameters": []}, '"parameters" must be an object'),
    "a parameter": ({"text_input": "", "parameters": {"a": {}}}, '"parameters" must be an object'),
    "id": ({"text_input": "", "id": 5}, '"id" must be a string'),
}


@pytest.mark.parametrize(("body", "message"), BAD.values(), ids=BAD)
def test_bad_bodies(body: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        WHOLE.decode(request(body))


ANSWERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "text": ("a", {"text_output": "a"}),
    "list of one": (["a"], {"text_output": "a"}),
    "texts in parts": (["a", "b"], {"text_output": "ab"}),
    "array": (np.array(["a"]), {"text_output": "a"}),
    "number": (np.float64(0.5), {"text_output": "0.5"}),
    "several": ([1, 2], {"text_output": "[1,2]"}),
    "outputs by name": ({"text_output": ["a"], "n": np.array([1])}, {"text_output": "a", "n": 1}),
    "frame": (pd.DataFrame({"text_output": ["a"], "n": [1]}), {"text_output": "a", "n": 1}),
    "several rows": (pd.DataFrame({"n": [1, 2]}), {"text_output": '[{"n":1},{"n":2}]'}),
    "an impostor": ({"model_name": "other"}, {}),
}


@pytest.mark.parametrize(("value", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_answers(value: Any, expected: dict[str, Any]) -> None:
    call = WHOLE.decode(request({"text_input": ""}))
    reply = WHOLE.encode(Predictions(value, call))
    assert reply.status == 200
    assert json.loads(reply.body) == {**KNOWN, **expected}
    if not isinstance(value, list):  # whose parts are events, if the model gives an iterator
        parts = STREAM.decode(request({"text_input": "", "id": "x"})).parts
        assert parts is not None
        event = parts.part(value)
        assert event.startswith(b"data: ")
        assert event.endswith(b"\n\n")
        assert event.count(b"\n") == 2
        assert json.loads(event[6:]) == {**KNOWN, **expected, "id": "x"}


def test_what_is_not_json_is_the_models_fault() -> None:
    call = STREAM.decode(request({"text_input": ""}))
    assert call.parts is not None
    with pytest.raises(ModelFailed):
        WHOLE.encode(Predictions({"a": object()}, call))
    with pytest.raises(ModelFailed):
        call.parts.part({"a": object()})


def test_errors() -> None:
    reply = WHOLE.error(ModelStatus(418, "a teapot"))
    assert (reply.status, reply.reason) == (418, "a teapot")
    assert json.loads(reply.body) == {"error": "a teapot"}
    parts = STREAM.decode(request({"text_input": ""})).parts
    assert parts is not None
    event = parts.error(DeadlinePassed())
    assert json.loads(event[6:]) == {"error": str(DeadlinePassed())}
    assert parts.end() == b""
