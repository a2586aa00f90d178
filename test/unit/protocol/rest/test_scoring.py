from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from typing import Any

import mlflow
import pytest

from pyfuncserver import errors
from pyfuncserver.errors import ServingError, UnsupportedMediaType
from pyfuncserver.model.call import Call, Complete, Form, Predictions, Request, ScoringInput
from pyfuncserver.protocol.rest import shapes
from pyfuncserver.protocol.rest.pages.scoring import mlflow_version
from pyfuncserver.protocol.rest.scoring import PLAIN_TEXT, Scoring, error_body

JSON = "application/json"


def request(body: bytes, content_type: str = JSON) -> Request:
    return Request("m-1", body, "id", header={b"content-type": content_type.encode()}.get)


@pytest.mark.parametrize("content_type", [JSON, "application/json; charset=utf-8"])
def test_decode(content_type: str) -> None:
    found = Scoring().decode(request(b'{"inputs": [NaN]}', content_type))
    assert (found.form, found.payload.media_type) == (Form.SCORING, JSON)
    assert repr(found.payload.data) == "{'inputs': [nan]}"
    found = Scoring().decode(request(b"a,b", "text/csv; charset=UTF-8"))
    assert found.payload == ScoringInput("text/csv", b"a,b")


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/json; a=b", "text/csv;"])
def test_what_is_not_read(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType) as caught:
        Scoring().decode(request(b"{}", content_type))
    reply = Scoring().error(caught.value)
    assert (reply.status, reply.content_type) == (415, PLAIN_TEXT)


def test_only_an_answer_to_llm_input_is_written_as_it_is() -> None:
    for is_unwrapped, expected in ((False, b'{"predictions":[1]}'), (True, b"[1]")):
        call = Call(Form.SCORING, ScoringInput(JSON, {}, is_unwrapped))
        assert Scoring().encode(Predictions([1], call)).body == expected
    assert Scoring().encode(Complete({"a": 1})).body == b'{"a":1}'


CODES: list[tuple[ServingError, str]] = [
    (errors.InvalidInput("x"), "BAD_REQUEST"),
    (errors.TooLarge("x", 1, "S"), "BAD_REQUEST"),
    (errors.UnknownModel("x"), "ENDPOINT_NOT_FOUND"),
    (errors.Unauthenticated(), "UNAUTHENTICATED"),
    (errors.Overloaded(5), "REQUEST_LIMIT_EXCEEDED"),
    (errors.NotReady("x"), "TEMPORARILY_UNAVAILABLE"),
    (errors.PredictionTimedOut(1), "DEADLINE_EXCEEDED"),
    (errors.Unsupported("x"), "NOT_IMPLEMENTED"),
    (errors.ModelFailed("x", "id"), "INTERNAL_ERROR"),
    (errors.ModelStatus(418, "x"), "BAD_REQUEST"),
]


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda value: type(value).__name__)
def test_errors_have_mlflows_codes(error: ServingError, code: str) -> None:
    reply = Scoring().error(error)
    assert reply.status == error.http_status
    assert json.loads(reply.body) == {"error_code": code, "message": str(error)}


@pytest.mark.parametrize("status", range(400, 512))
def test_codes_mean_the_status_that_mlflow_gives_them(status: int) -> None:
    from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS

    code = json.loads(error_body(status, ""))["error_code"]
    meant = ERROR_CODE_TO_HTTP_STATUS.get(code, status)
    assert meant == status or code in ("BAD_REQUEST", "INTERNAL_ERROR")


@pytest.mark.parametrize("path", ["/invocations", "/ping", "/health", "/version"])
def test_its_paths_have_its_shape(path: str) -> None:
    assert json.loads(shapes.shape_of(path).body(405, "x")).keys() == {"error_code", "message"}


@pytest.fixture
def fresh_version() -> Iterator[None]:
    mlflow_version.cache_clear()
    yield
    mlflow_version.cache_clear()


def test_the_version(fresh_version: None) -> None:
    assert mlflow_version() == mlflow.__version__


def test_the_version_where_mlflow_is_not_imported(
    fresh_version: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "mlflow.version")
    assert mlflow_version() == mlflow.__version__


def test_the_version_where_mlflow_is_skinny(
    fresh_version: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> Any:
        if name == "mlflow":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"mlflow-skinny": "9.9"}[name]

    monkeypatch.delitem(sys.modules, "mlflow.version")
    monkeypatch.setattr(importlib.metadata, "version", version)
    assert mlflow_version() == "9.9"
