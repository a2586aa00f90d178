from __future__ import annotations

import json
from typing import Any

import pytest

from pyfuncserver.codec import scoring as codec
from pyfuncserver.errors import DeadlinePassed, ModelFailed
from pyfuncserver.model.call import Request
from pyfuncserver.protocol.rest.scoring import Scoring, error_body
from pyfuncserver.protocol.rest.scoring_stream import ScoringParts, takes_stream

PARTS = ScoringParts(codec.dumps, error_body)


def test_the_wish_is_taken_out_of_the_body() -> None:
    body = {"inputs": 1, "stream": True}
    assert takes_stream(body)
    assert body == {"inputs": 1}


@pytest.mark.parametrize(
    "body", [{}, [], None, "stream", {"stream": False}, {"stream": 1}, {"stream": "true"}]
)
def test_anything_else_is_left_as_it_is(body: Any) -> None:
    before = json.dumps(body)
    assert not takes_stream(body)
    assert json.dumps(body) == before


def test_events() -> None:
    assert PARTS.part({"a": "two\nlines"}) == b'data: {"a":"two\\nlines"}\n\n'
    assert PARTS.part("a") == b'data: "a"\n\n'
    assert PARTS.end() == b"data: [DONE]\n\n"
    first, second = PARTS.error(DeadlinePassed()).removesuffix(b"\n\n").split(b"\n\n")
    text = str(DeadlinePassed())
    expected = {"error_code": "DEADLINE_EXCEEDED", "message": text, "error": text}
    assert json.loads(first[6:]) == expected
    assert second == b"data: [DONE]"
    with pytest.raises(ModelFailed):
        PARTS.part(object())


def test_only_json_bodies_ask_for_a_stream() -> None:
    def parts_of(body: bytes, media_type: bytes) -> Any:
        headers = {b"content-type": media_type}
        return Scoring().decode(Request("m", body, "id", header=headers.get)).parts

    assert parts_of(b'{"inputs": [1], "stream": true}', b"application/json") is not None
    assert parts_of(b'{"inputs": [1]}', b"application/json") is None
    assert parts_of(b"stream\ntrue\n", b"text/csv") is None
