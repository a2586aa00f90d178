"""What Seldon's dialect says alike over REST and gRPC: messages and feedback, and their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pyfuncserver.codec.seldon import NOTHING, Message, answer_of
from pyfuncserver.codec.seldon import Feedback as Told
from pyfuncserver.errors import InvalidInput, ServingError
from pyfuncserver.model.call import Answer, Call, Form, Reply, Request
from pyfuncserver.model.failure import model_failed


class Wire(Protocol):
    """How messages travel. What reads them raises ValueError that says what is wrong."""

    def message(self, request: Request) -> Message: ...

    def feedback(self, request: Request) -> Told: ...

    def write(self, message: Message) -> bytes: ...

    def reply(self, body: bytes) -> Reply: ...

    def error(self, error: ServingError) -> Reply: ...


class _Dialect:
    """What both have in common; see :class:`~pyfuncserver.model.call.Dialect`."""

    def __init__(self, name: str, wire: Wire, output_names: Sequence[str] = ()) -> None:
        self.name = name
        self.error = wire.error
        self._wire = wire
        self._output_names = output_names

    def _call(self, form: Form, read: Callable[[Request], Any], request: Request) -> Call:
        try:
            payload = read(request)
        except ValueError as error:
            raise InvalidInput(str(error)) from None
        return Call(form, payload, request.headers, request.context)

    def _reply(self, value: Any, request: Message) -> Reply:
        try:
            body = self._wire.write(answer_of(value, request, self._output_names))
        except Exception as error:  # whatever the model's own objects do when they are read
            raise model_failed("The model's answer does not fit a SeldonMessage", error) from error
        return self._wire.reply(body)


class Predictions(_Dialect):
    """Predictions; ``output_names`` are those that the signature has."""

    def decode(self, request: Request) -> Call:
        return self._call(Form.SELDON, self._wire.message, request)

    def encode(self, answer: Answer) -> Reply:
        payload = None if answer.call is None else answer.call.payload
        return self._reply(answer.value, payload if isinstance(payload, Message) else NOTHING)


class Feedback(_Dialect):
    """Feedback, which is handed on as a prediction is; ``count`` is told each reward."""

    def __init__(self, name: str, wire: Wire, count: Callable[[float], None]) -> None:
        super().__init__(name, wire)
        self._count = count

    def decode(self, request: Request) -> Call:
        return self._call(Form.FEEDBACK, self._wire.feedback, request)

    def encode(self, answer: Answer) -> Reply:
        assert answer.call is not None
        told: Told = answer.call.payload
        reply = self._reply(answer.value, told.request)
        self._count(told.reward)
        return reply
