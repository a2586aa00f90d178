"""What travels between a dialect and a model."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from pyfuncserver.codec.tensors import Tensor
from pyfuncserver.errors import ServingError
from pyfuncserver.model.pipe import Pipe


class Form(Enum):
    """What a call's payload is; a runner has one way to answer each form it knows."""

    JSON = "JSON"
    """A parsed JSON body."""
    UPI = "UPI"
    """A ``PredictValuesRequest`` message."""
    TENSORS = "TENSORS"
    """A :class:`Tensors`, which the Open Inference Protocol carries."""
    SCORING = "SCORING"
    """A :class:`ScoringInput`, which MLflow's scoring protocol carries."""
    TEXT = "TEXT"
    """A :class:`TextInput`, which the Open Inference Protocol's generate extension carries."""
    SELDON = "SELDON"
    """A :class:`~pyfuncserver.codec.seldon.Message`."""
    FEEDBACK = "FEEDBACK"
    """A :class:`~pyfuncserver.codec.seldon.Feedback`, which is no prediction but runs as one."""
    BYTES = "BYTES"
    """A body's bytes, as they came (PAYLOAD_PASSTHROUGH)."""


@dataclass(slots=True)
class Tensors:
    """What a V2 request holds, whether it came over REST or gRPC."""

    tensors: list[Tensor]
    """Its inputs."""
    params: dict[str, Any] | None = None
    """Its parameters; the model gets those that its signature knows."""
    content_type: str = ""
    """How the inputs are to be taken together, where the client says so: ``pd`` or ``np``."""
    id: str = ""
    """The client's own, or one that was made for it."""
    outputs: list[RequestedOutput] = field(default_factory=list)
    """The outputs that the client wants; none for all."""


@dataclass(slots=True)
class ScoringInput:
    """What a request of MLflow's scoring protocol holds."""

    media_type: str
    """``application/json``, or one of the others that ``model/scoring.py`` reads."""
    data: Any
    """A parsed body where that is JSON, else its bytes."""
    is_unwrapped: bool = False
    """Whether the answer is written as it is, as that to LLM input is; found by the reader."""


@dataclass(slots=True)
class TextInput:
    """What a request of the generate extension holds."""

    text: str
    params: dict[str, Any] | None = None
    """Its parameters; the model gets those that its signature knows."""
    others: dict[str, Any] = field(default_factory=dict)
    """What is beside them: further inputs, each a single value."""


@dataclass(slots=True)
class RequestedOutput:
    """An output that a V2 client wants, by its name."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)


def _no_header(_: bytes) -> bytes | None:
    return None


@dataclass(slots=True)
class Request:
    """What a transport hands to a dialect: bytes, and what came around them."""

    model: str
    body: bytes
    id: str
    headers: Callable[[], dict[str, str]] = dict
    """Makes the headers that a model is handed; called only for a model that takes them."""
    header: Callable[[bytes], bytes | None] = _no_header
    """Gives one header's raw value by its name in lower case, for far less than all of them."""
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
    origin: Any = None
    """What the dialect wants to see again when it encodes the answer; the model does not."""
    parts: Parts | None = None
    """How the answer is written, where the client wants it part by part."""
    may_be_padded: bool = field(default=True, compare=False)
    """Whether NumPy's strings of the payload could take too much memory; see ``padding.py``."""


@dataclass(slots=True)
class Complete:
    """A model's answer that is already what the client expects; the dialect only writes it."""

    value: Any
    call: Call | None = field(default=None, compare=False)


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

    def stream(self, call: Call) -> Generator[Any, None, None]:
        """Give the parts of the answer, each when the model has made it."""


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
    stream: Pipe | None = None
    """Where the body comes from, in the place of ``body``, if it comes in parts."""


class Parts(Protocol):
    """How a dialect writes an answer that comes in parts. Pure.

    Whatever fails after the first part, the status has been sent: an error is a part as well.
    """

    content_type: str
    headers: tuple[tuple[str, str], ...]

    def part(self, value: Any) -> bytes:
        """Write what the model has made. Raises: ModelFailed where that cannot be written."""

    def end(self) -> bytes:
        """Write what follows the last part."""

    def error(self, error: ServingError) -> bytes:
        """Write what ends an answer that fails midway."""


class Dialect(Protocol):
    """A pair of pure functions, bytes to Call and answer to bytes, and the shape of an error."""

    name: str

    def decode(self, request: Request) -> Call: ...

    def encode(self, answer: Answer) -> Reply: ...

    def error(self, error: ServingError) -> Reply: ...
