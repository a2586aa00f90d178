"""The Open Inference Protocol (V2) over REST: ``POST /v2/models/{model}/infer``.

With its binary extension: the JSON comes first, as long as ``Inference-Header-Content-Length``
says, and then the raw values of the tensors that have a ``binary_data_size``, in their order.
https://github.com/kserve/open-inference-protocol, and Triton's ``extension_binary_data``.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from pyfuncserver.codec import json, outputs, tensors
from pyfuncserver.codec.tensors import BYTES, Tensor
from pyfuncserver.errors import InvalidInput, ModelStatus, ServingError
from pyfuncserver.model.call import Answer, Call, Form, Reply, Request, RequestedOutput, Tensors
from pyfuncserver.model.catalogue import Catalogue, Entry
from pyfuncserver.model.failure import model_failed
from pyfuncserver.protocol.open_inference import requested
from pyfuncserver.protocol.rest.shape import Shape

NAME = "v2"
PATHS = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
CONTENT_TYPE = "application/json"
BINARY_CONTENT_TYPE = "application/octet-stream"
JSON_LENGTH = "Inference-Header-Content-Length"

SIZE, WANTS_BINARY, ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"
"""Parameters of an input or output, of an output that is asked for, and of a request."""

_JSON_LENGTH = JSON_LENGTH.lower().encode()


class V2:
    """See :class:`~pyfuncserver.model.call.Dialect`. The content type is not looked at."""

    name = NAME

    def __init__(self, models: Catalogue) -> None:
        self._models = models

    def decode(self, request: Request) -> Call:
        head, rest = _divided(request.body, request.header(_JSON_LENGTH))
        try:
            body = json.loads(head)
        except json.JSONDecodeError as error:
            raise InvalidInput(f"The request is not JSON: {error}") from None
        payload = _payload(body, rest, request.id)
        asked = self._models[request.model]
        return Call(Form.TENSORS, payload, request.headers, request.context, asked)

    def encode(self, answer: Answer) -> Reply:
        assert answer.call is not None
        payload: Tensors = answer.call.payload
        asked: Entry = answer.call.origin
        try:
            found = outputs.tensors_of(answer.value, asked.output_names)
            return _reply(_requested(found, payload), payload, asked)
        except ServingError:
            raise
        except Exception as error:  # whatever the model's own objects do when they are read
            raise model_failed("The model's answer cannot be sent as tensors", error) from error

    def error(self, error: ServingError) -> Reply:
        reason = str(error) if isinstance(error, ModelStatus) else ""
        return Reply(error_body(error.http_status, str(error)), error.http_status, reason)


def error_body(_: int, reason: str) -> bytes:
    """Shape an error as V2 does."""
    return json.dumps({"error": reason})


SHAPE = Shape(CONTENT_TYPE, error_body)


# The request


class _Binary:
    """The raw values behind the JSON, which are taken in their order."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def take(self, size: Any) -> memoryview:
        if type(size) is not int or not 0 <= size <= len(self._data):
            raise ValueError(f"its {SIZE} is not the size of what follows the JSON")
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def __len__(self) -> int:
        return len(self._data)


def _divided(body: bytes, length: bytes | None) -> tuple[memoryview, _Binary]:
    """Give the JSON, and what follows it."""
    view = memoryview(body)
    if length is None:
        return view, _Binary(view[len(view) :])
    size = int(length) if length.isdigit() and len(length) < 20 else -1
    if not 0 < size <= len(view):
        raise InvalidInput(f"{JSON_LENGTH} is not the length of JSON in the body")
    return view[:size], _Binary(view[size:])


def _payload(body: Any, rest: _Binary, request_id: str) -> Tensors:
    if type(body) is not dict:
        raise InvalidInput("Expected a JSON object with inputs")
    parameters = _parameters(body, "the request")
    content_type = parameters.get("content_type", "")
    id_ = body.get("id")
    if not isinstance(id_, str | type(None)) or not isinstance(content_type, str):
        raise InvalidInput("id and content_type are strings")
    inputs = [_input(place, head, rest) for place, head in enumerate(_dicts(body, "inputs"))]
    if len(rest):
        raise InvalidInput(f"{len(rest)} bytes follow the JSON that no input has")
    wanted = [_output_wish(place, head) for place, head in enumerate(_dicts(body, "outputs"))]
    return Tensors(inputs, parameters, content_type, id_ or request_id, wanted)


def _dicts(body: dict[str, Any], key: str) -> list[dict[str, Any]]:
    heads = body.get(key)
    if heads is None:
        return []
    if type(heads) is not list or not all(type(head) is dict for head in heads):
        raise InvalidInput(f"{key} is not a list of objects")
    return heads


def _parameters(head: dict[str, Any], whose: str) -> dict[str, Any]:
    parameters = head.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise InvalidInput(f"The parameters of {whose} are not an object")
    return parameters


def _input(place: int, head: dict[str, Any], rest: _Binary) -> Tensor:
    where = f"inputs[{place}]"
    parameters = _parameters(head, where)
    name, datatype, shape = head.get("name"), head.get("datatype"), head.get("shape")
    if type(name) is not str or type(datatype) is not str or type(shape) is not list:
        raise InvalidInput(f"{where} needs a name, a datatype, and a list as its shape")
    try:
        return Tensor(name, datatype, _values(head, datatype, shape, rest), parameters)
    except ValueError as error:
        raise InvalidInput(f"{where}: {error}") from None


def _values(head: dict[str, Any], datatype: str, shape: list[int], rest: _Binary) -> tensors.Array:
    parameters, data = head.get("parameters") or {}, head.get("data")
    if SIZE in parameters:
        if data is not None:
            raise ValueError(f"it has data and {SIZE}")
        return tensors.from_raw(datatype, shape, rest.take(parameters[SIZE]))
    if type(data) is not list:
        raise ValueError(f"it needs a list as its data, or a {SIZE}")
    return tensors.from_list(datatype, shape, data)


def _output_wish(place: int, head: dict[str, Any]) -> RequestedOutput:
    name = head.get("name")
    if type(name) is not str:
        raise InvalidInput(f"outputs[{place}] needs a name")
    return RequestedOutput(name, _parameters(head, f"outputs[{place}]"))


# The response


def _reply(found: list[tuple[Tensor, bool]], payload: Tensors, asked: Entry) -> Reply:
    raw: list[bytes] = []
    body = {
        "model_name": asked.identity.name,
        "model_version": asked.identity.version,
        "id": payload.id,
        "outputs": [_output(tensor, is_binary, raw) for tensor, is_binary in found],
    }
    head = json.dumps(body)
    if not raw:
        return Reply(head, 200)
    headers = ((JSON_LENGTH, str(len(head))),)
    return Reply(b"".join((head, *raw)), 200, content_type=BINARY_CONTENT_TYPE, headers=headers)


def _requested(found: list[Tensor], payload: Tensors) -> list[tuple[Tensor, bool]]:
    """Give the outputs that are asked for, and whether each is to be raw."""
    is_binary = (payload.params or {}).get(ALL_BINARY) is True
    chosen = requested(found, payload.outputs)
    if not payload.outputs:
        return [(tensor, is_binary) for tensor in chosen]
    return [
        (tensor, wish.parameters.get(WANTS_BINARY, is_binary) is True)
        for tensor, wish in zip(chosen, payload.outputs, strict=True)
    ]


def _output(tensor: Tensor, is_binary: bool, raw: list[bytes]) -> dict[str, Any]:
    """Give the JSON of an output; its raw values are put behind those of the others."""
    parameters = dict(tensor.parameters)
    head = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.values.shape}
    if is_binary:
        raw.append(tensors.to_raw(tensor))
        return {**head, "parameters": {**parameters, SIZE: len(raw[-1])}}
    data: Any
    if tensor.datatype == BYTES:
        data, extra = _texts(tensor)
        parameters |= extra
    else:
        data = np.ascontiguousarray(tensor.values.reshape(-1))
    return {**head, **({"parameters": parameters} if parameters else {}), "data": data}


def _texts(tensor: Tensor) -> tuple[list[str | None], dict[str, str]]:
    """Give BYTES as JSON can hold them: base64, which is said, where they are not all text."""
    elements = tensors.to_list(tensor.values)
    try:
        return [_text(element) for element in elements], {}
    except UnicodeDecodeError:
        coded = [None if e is None else base64.b64encode(_raw(e)).decode() for e in elements]
        return coded, {"content_type": "base64"}


def _text(element: str | bytes | None) -> str | None:
    return element.decode() if isinstance(element, bytes) else element


def _raw(element: str | bytes) -> bytes:
    return element.encode() if isinstance(element, str) else element
