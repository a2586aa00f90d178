"""What travels between a dialect and a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from pyfuncserver.errors import ServingError


class Form(Enum):
    """What a call's payload is; a runner has one way to answer each form it knows."""

    JSON = "JSON"
    """A parsed JSON body."""
    UPI = "UPI"
    """A ``PredictValuesRequest`` message."""


@dataclass(slots=True)
class Request:
    """What a transport hands to a dialect: bytes, and what came around them."""

    model: str
    body: bytes
    id: str
    headers: Callable[[], dict[str, str]] = dict
    """Makes the headers that a model is handed; called only for a model that takes them."""
    context: Any = None
    """The ``grpc.ServicerContext``, where the transport is gRPC."""
    deadline: float = float("inf")
    """When the client stops waiting, by :func:`time.monotonic`."""
    is_wanted: Callable[[], bool] = lambda: True
    """Whether the client is still there, where the transport can say so when it is asked."""


@dataclass(slots=True)
class Call:
    """What a dialect decoded and a runner hands to the model."""

    form: Form
    payload: Any
    headers: Callable[[], dict[str, str]] = dict
    context: Any = None


@dataclass(slots=True)
class Complete:
    """A model's answer that is already what the client expects; the dialect only writes it."""

    value: Any


@dataclass(slots=True)
class Predictions:
    """A model's bare predictions (frame, array, list, ...), for the dialect to frame."""

    value: Any
    call: Call


Answer = Complete | Predictions


class ModelRunner(Protocol):
    """Runs calls, each to its end on the thread that brings it. Thread-safe.

    Raises: ServingError, and nothing else.
    """

    def predict(self, call: Call) -> Answer: ...


@dataclass(slots=True)
class Reply:
    """What a transport sends back: a body, and the status in the transport's own terms."""

    body: bytes
    status: int | str
    """An HTTP status, or the name of a gRPC code."""
    reason: str = ""
    """The HTTP reason phrase, or gRPC details; empty for the usual one."""
    cause: BaseException | None = None
    """What the model's gRPC context raised, which gRPC has to see again."""
    retry_after_s: int | None = None
    """When the client may try again, where that helps."""
    content_type: str = ""
    """Of the body, over HTTP; empty for the dialect's usual one."""
    headers: tuple[tuple[str, str], ...] = ()
    """Further ones, over HTTP."""


class Dialect(Protocol):
    """A pair of pure functions, bytes to Call and answer to bytes, and the shape of an error."""

    name: str

    def decode(self, request: Request) -> Call: ...

    def encode(self, answer: Answer) -> Reply: ...

    def error(self, error: ServingError) -> Reply: ...
