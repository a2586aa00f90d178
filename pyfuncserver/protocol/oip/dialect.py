"""The Open Inference Protocol over gRPC: ``ModelInferRequest`` bytes to a Call, answers back."""

from __future__ import annotations

from typing import Any

from pyfuncserver.codec import inference, outputs
from pyfuncserver.errors import InvalidInput, ModelAborted, ServingError, TooLarge, UnknownModel
from pyfuncserver.model.call import Answer, Call, Form, Reply, Request, RequestedOutput, Tensors
from pyfuncserver.model.catalogue import Catalogue, Entry
from pyfuncserver.model.failure import model_failed
from pyfuncserver.protocol.limit import Limit
from pyfuncserver.protocol.oip.naming import key_of
from pyfuncserver.protocol.open_inference import requested

NAME = "v2_grpc"
CONTENT_TYPE = "content_type"


class Oip:
    """See :class:`~pyfuncserver.model.call.Dialect`. A reply's status is a gRPC code's name.

    ``limit`` bounds the answers.
    """

    name = NAME

    def __init__(self, models: Catalogue, limit: Limit | None = None) -> None:
        self._models = models
        self._limit = limit

    def model_of(self, body: bytes) -> str:
        """Name the model that a message asks for; one that is there where none can be read.

        Then :meth:`decode` says what is wrong with the message.
        """
        try:
            return key_of(self._models, *inference.asked_model(body))
        except (ValueError, InvalidInput):
            return self._models.any

    def decode(self, request: Request) -> Call:
        try:
            message = inference.parse("ModelInferRequest", request.body)
            key = key_of(self._models, message.model_name, message.model_version)
            if key != request.model:  # it is said again, further behind than is read ahead
                raise UnknownModel(key)
            payload = _payload(message, request.id)
        except ValueError as error:
            raise InvalidInput(str(error)) from None
        origin = inference.is_raw(message), self._models[key]
        return Call(Form.TENSORS, payload, request.headers, request.context, origin)

    def encode(self, answer: Answer) -> Reply:
        assert answer.call is not None
        payload: Tensors = answer.call.payload
        is_raw, asked = answer.call.origin
        try:
            found = requested(outputs.tensors_of(answer.value, asked.output_names), payload.outputs)
            response = inference.response_of(_head(payload, asked), found, is_raw)
            body = response.SerializeToString()
        except ServingError:
            raise
        except Exception as error:  # whatever the model's own objects do when they are read
            raise model_failed("The model's answer cannot be sent as tensors", error) from error
        if self._limit is not None and len(body) > self._limit.size:
            raise TooLarge("The answer", *self._limit)
        return Reply(body, "OK")

    def error(self, error: ServingError) -> Reply:
        cause = error.__cause__ if isinstance(error, ModelAborted) else None
        return Reply(b"", error.grpc_code, str(error), cause)


def _head(payload: Tensors, asked: Entry) -> dict[str, str]:
    return {
        "model_name": asked.identity.name,
        "model_version": asked.identity.version,
        "id": payload.id,
    }


def _payload(message: Any, request_id: str) -> Tensors:
    """Give what a request holds for the model. Raises: ValueError"""
    parameters = inference.parameters_of(message.parameters)
    content_type = parameters.get(CONTENT_TYPE, "")
    if not isinstance(content_type, str):
        raise ValueError("content_type is a string")
    wanted = [
        RequestedOutput(output.name, inference.parameters_of(output.parameters))
        for output in message.outputs
    ]
    inputs = inference.inputs_of(message)
    return Tensors(inputs, parameters, content_type, message.id or request_id, wanted)
