"""The generate extension of the Open Inference Protocol: text in, text out, whole or in parts.

``POST /v2/models/{model}[/versions/{version}]/generate`` and ``/generate_stream``, as in Triton's
``docs/protocol/extension_generate.md``. A stream that fails midway ends with an error's object, and
one that succeeds just ends.
"""

from __future__ import annotations

from typing import Any

from pyfuncserver.codec import json
from pyfuncserver.errors import InvalidInput, ModelStatus, ServingError
from pyfuncserver.model.call import Answer, Call, Form, Parts, Reply, Request, TextInput
from pyfuncserver.model.catalogue import Catalogue
from pyfuncserver.model.failure import model_failed
from pyfuncserver.protocol.rest import sse

CONTENT_TYPE = "application/json"
_MODEL = "/v2/models/{model}"
_MODEL_VERSION = "/v2/models/{model}/versions/{version}"
PATHS = (f"{_MODEL}/generate", f"{_MODEL_VERSION}/generate")
STREAM_PATHS = (f"{_MODEL}/generate_stream", f"{_MODEL_VERSION}/generate_stream")

TEXT_INPUT, TEXT_OUTPUT, PARAMETERS, ID = "text_input", "text_output", "parameters", "id"


class Generate:
    """See :class:`~pyfuncserver.model.call.Dialect`. Any content type is taken for JSON."""

    name = "v2_generate"

    def __init__(self, models: Catalogue) -> None:
        self._models = models

    def decode(self, request: Request) -> Call:
        try:
            body = json.loads(request.body)
        except json.JSONDecodeError as error:
            raise InvalidInput(f"Unrecognized request format: {error}") from None
        payload, id_ = _read(body)
        asked = self._models[request.model].identity
        known = {"model_name": asked.name, "model_version": asked.version}
        if id_ is not None:
            known[ID] = id_
        return Call(Form.TEXT, payload, request.headers, origin=known, parts=self._parts(known))

    def _parts(self, known: dict[str, Any]) -> Parts | None:  # noqa: ARG002  see GenerateStream
        return None

    def encode(self, answer: Answer) -> Reply:
        assert answer.call is not None
        try:
            return Reply(json.dumps(_written(_joined(answer.value), answer.call.origin)), 200)
        except Exception as error:  # whatever the model's own objects do when they are read
            raise model_failed("The model's answer is not valid JSON", error) from error

    def error(self, error: ServingError) -> Reply:
        reason = str(error) if isinstance(error, ModelStatus) else ""
        return Reply(_error_body(error), error.http_status, reason)


class GenerateStream(Generate):
    """The same, answered in parts."""

    name = "v2_generate_stream"

    def _parts(self, known: dict[str, Any]) -> Parts | None:
        return _GenerateParts(known)


class _GenerateParts:
    content_type = sse.CONTENT_TYPE
    headers = sse.HEADERS

    def __init__(self, known: dict[str, Any]) -> None:
        self._known = known

    def part(self, value: Any) -> bytes:
        return sse.json_event(_written(value, self._known))

    def end(self) -> bytes:
        return b""

    def error(self, error: ServingError) -> bytes:
        return sse.event(_error_body(error))


def _error_body(error: ServingError) -> bytes:
    return json.dumps({"error": str(error)})


def _read(body: Any) -> tuple[TextInput, str | None]:
    """Give what the model gets, and the client's id. Raises: InvalidInput"""
    if not isinstance(body, dict):
        raise InvalidInput(f'Expected a JSON object with "{TEXT_INPUT}"')
    text, params, id_ = (body.pop(key, None) for key in (TEXT_INPUT, PARAMETERS, ID))
    if not isinstance(text, str):
        raise InvalidInput(f'"{TEXT_INPUT}" must be a string')
    if params is not None and not _are_parameters(params):
        raise InvalidInput(f'"{PARAMETERS}" must be an object of strings, numbers and booleans')
    if id_ is not None and not isinstance(id_, str):
        raise InvalidInput(f'"{ID}" must be a string')
    return TextInput(text, params, body), id_


def _are_parameters(params: Any) -> bool:
    if not isinstance(params, dict):
        return False
    return all(isinstance(value, str | int | float) for value in params.values())


def _written(value: Any, known: dict[str, Any]) -> dict[str, Any]:
    """Give a response's object: a dict holds outputs by their names, all else is the text."""
    value = _single(value)
    if isinstance(value, dict):
        return {**{str(name): _single(one) for name, one in value.items()}, **known}
    text = value if isinstance(value, str) else json.dumps(value).decode()
    return {**known, TEXT_OUTPUT: text}


def _single(value: Any) -> Any:
    """Take a single answer out of what holds one for each row, since there was one row."""
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # a data frame
        return value.iloc[0].to_dict() if len(value) == 1 else value
    if hasattr(value, "tolist"):  # an array, a series, a scalar
        value = value.tolist()
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return value


def _joined(value: Any) -> Any:
    """Put texts that came in parts together."""
    is_text_in_parts = isinstance(value, list) and all(isinstance(part, str) for part in value)
    return "".join(value) if is_text_in_parts else value
