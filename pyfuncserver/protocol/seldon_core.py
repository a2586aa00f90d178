"""What Seldon's dialect says alike over REST and gRPC: messages and feedback, and their answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from pyfuncserver.codec.seldon import NOTHING, Message, answer_of
from pyfuncserver.codec.seldon import Feedback as Told
from pyfuncserver.errors import InvalidInput, ServingError
from pyfuncserver.model.call import Answer, Call, Form, Reply, Request
from pyfuncserver.model.catalogue import Catalogue, Entry
from pyfuncserver.model.failure import model_failed

T = TypeVar("T")


class Wire(Protocol):
    """How messages travel. What reads them raises ValueError that says what is wrong."""

    def message(self, request: Request) -> Message: ...

    def feedback(self, request: Request) -> Told: ...

    def write(self, message: Message) -> bytes: ...

    def reply(self, body: bytes) -> Reply: ...

    def error(self, error: ServingError) -> Reply: ...


class _Dialect:
    """What both have in common; see :class:`~pyfuncserver.model.call.Dialect`."""

    def __init__(self, name: str, wire: Wire) -> None:
        self.name = name
        self.error = wire.error
        self._wire = wire

    @staticmethod
    def _read(read: Callable[[Request], T], request: Request) -> T:
        try:
            return read(request)
        except ValueError as error:
            raise InvalidInput(str(error)) from None

    def _reply(self, value: Any, request: Message, asked: Entry | None = None) -> Reply:
        names = () if asked is None else asked.column_names
        try:
            body = self._wire.write(answer_of(value, request, names))
        except Exception as error:  # whatever the model's own objects do when they are read
            raise model_failed("The model's answer does not fit a SeldonMessage", error) from error
        return self._wire.reply(body)


class Predictions(_Dialect):
    """Predictions."""

    def __init__(self, name: str, wire: Wire, models: Catalogue) -> None:
        super().__init__(name, wire)
        self._models = models

    def decode(self, request: Request) -> Call:
        message = self._read(self._wire.message, request)
        asked = self._models[request.model]
        return Call(Form.SELDON, message, request.headers, request.context, asked)

    def encode(self, answer: Answer) -> Reply:
        assert answer.call is not None
        payload = answer.call.payload
        message = payload if isinstance(payload, Message) else NOTHING
        return self._reply(answer.value, message, answer.call.origin)


class Feedback(_Dialect):
    """Feedback, which is handed on as a prediction is; ``count`` is told each reward."""

    def __init__(self, name: str, wire: Wire, count: Callable[[float], None]) -> None:
        super().__init__(name, wire)
        self._count = count

    def decode(self, request: Request) -> Call:
        told = self._read(self._wire.feedback, request)
        return Call(Form.FEEDBACK, told, request.headers, request.context)

    def encode(self, answer: Answer) -> Reply:
        assert answer.call is not None
        told: Told = answer.call.payload
        reply = self._reply(answer.value, told.request)
        self._count(told.reward)
        return reply
