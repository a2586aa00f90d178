"""A dialect whose requests the model gets as they came (PAYLOAD_PASSTHROUGH)."""

from __future__ import annotations

from pyfuncserver.errors import ServingError
from pyfuncserver.model.call import Answer, Call, Dialect, Form, Reply, Request


class Passthrough:
    """Hands on a body's bytes, and sends the bytes or the text that the model answers.

    Any other answer, and every error, has the form that the ``dialect`` gives it.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.name = dialect.name
        self._dialect = dialect

    def decode(self, request: Request) -> Call:
        return Call(Form.BYTES, request.body, request.headers, request.context)

    def encode(self, answer: Answer) -> Reply:
        value = answer.value
        if isinstance(value, str):
            value = value.encode(errors="replace")
        if isinstance(value, bytes | bytearray | memoryview):
            return Reply(bytes(value), 200)
        return self._dialect.encode(answer)

    def error(self, error: ServingError) -> Reply:
        return self._dialect.error(error)
