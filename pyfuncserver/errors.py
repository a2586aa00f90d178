"""The error tree, and the one table that maps it to every wire.

::

    StartupError                  the daemon cannot start or go on: one line, an exit status
    ServingError                  a request failed: a Kind, a text for the client
    ├── InvalidInput              the client's request is wrong
    ├── UnknownModel              no model of that name
    ├── UnnamedModel              the request names none, and of several none is the default
    ├── NotReady                  not loaded yet, or draining
    ├── Unauthenticated           no bearer token, or an unknown one
    ├── TooLarge                  more bytes than a setting allows
    ├── UnsupportedMediaType      a content type that the dialect does not read
    ├── Overloaded                as many wait as may
    ├── DeadlinePassed            the client's own deadline came before an answer
    ├── PredictionTimedOut        the model took longer than PREDICT_TIMEOUT_SEC
    ├── ClientGone                nobody is there to be answered
    ├── Unsupported               the model has no way to answer this protocol
    ├── ModelFailed               the model raised, or answered what cannot be sent
    ├── LoadFailed                a model that was to be loaded could not be
    ├── ModelStatus               the model chose the status itself (an HTTP error)
    ├── ModelAborted              the model ended the gRPC call itself (``context.abort``)
    └── InternalError             our own fault

A dialect shapes the body; it never chooses a status of its own.
"""

from __future__ import annotations

from enum import Enum, unique

CRASH_LOOP_STATUS = 3


class StartupError(Exception):
    """Say in one line why the daemon cannot start, or cannot go on; with an exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


@unique
class Kind(Enum):
    """A failure's label in metrics, its HTTP status and the name of its gRPC code."""

    INVALID_INPUT = ("invalid_input", 400, "INVALID_ARGUMENT")
    UNKNOWN_MODEL = ("unknown_model", 404, "NOT_FOUND")
    UNNAMED_MODEL = ("unnamed_model", 404, "NOT_FOUND")
    NOT_READY = ("not_ready", 503, "UNAVAILABLE")
    UNAUTHENTICATED = ("unauthenticated", 401, "UNAUTHENTICATED")
    TOO_LARGE = ("too_large", 413, "RESOURCE_EXHAUSTED")
    UNSUPPORTED_MEDIA_TYPE = ("unsupported_media_type", 415, "INVALID_ARGUMENT")
    OVERLOADED = ("overloaded", 429, "RESOURCE_EXHAUSTED")
    DEADLINE = ("deadline", 504, "DEADLINE_EXCEEDED")
    TIMEOUT = ("timeout", 504, "DEADLINE_EXCEEDED")
    CLIENT_GONE = ("client_gone", 499, "CANCELLED")
    UNSUPPORTED = ("unsupported", 501, "UNIMPLEMENTED")
    LOAD_FAILED = ("load_failed", 500, "INTERNAL")
    MODEL_FAILED = ("model_failed", 500, "INTERNAL")
    MODEL_STATUS = ("model_status", 500, "UNKNOWN")
    MODEL_ABORTED = ("model_aborted", 500, "UNKNOWN")
    INTERNAL = ("internal", 500, "INTERNAL")

    def __init__(self, label: str, http_status: int, grpc_code: str) -> None:
        self.label = label
        self.http_status = http_status
        self.grpc_code = grpc_code


# google/rpc/code.proto names the HTTP status of every gRPC code; this is the way back, for a
# model that raises an HTTP error while it is called over gRPC.
GRPC_CODE_OF_HTTP_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class ServingError(Exception):
    """A request that cannot be answered; its text goes to the client as it is."""

    kind = Kind.INTERNAL
    retry_after_s: int | None = None
    """When the client may try again, where that helps."""

    @property
    def http_status(self) -> int:
        return self.kind.http_status

    @property
    def grpc_code(self) -> str:
        return self.kind.grpc_code


class InvalidInput(ServingError):
    kind = Kind.INVALID_INPUT


class UnknownModel(ServingError):
    kind = Kind.UNKNOWN_MODEL

    def __init__(self, full_name: str) -> None:
        super().__init__(f"Model with full name {full_name} does not exist.")


class UnnamedModel(ServingError):
    kind = Kind.UNNAMED_MODEL

    def __init__(self) -> None:
        super().__init__(
            "The request names no model, and of the models here none is the default "
            "(/models/{name}/..., or the gRPC metadata model-name; CARAML_MODEL_NAME sets one)."
        )


class NotReady(ServingError):
    kind = Kind.NOT_READY


class Unauthenticated(ServingError):
    kind = Kind.UNAUTHENTICATED

    def __init__(self) -> None:
        super().__init__("A valid bearer token is required.")


class TooLarge(ServingError):
    kind = Kind.TOO_LARGE

    def __init__(self, what: str, limit: int, setting: str) -> None:
        super().__init__(f"{what} exceeds the limit of {limit} bytes ({setting})")


class UnsupportedMediaType(ServingError):
    kind = Kind.UNSUPPORTED_MEDIA_TYPE


class Overloaded(ServingError):
    kind = Kind.OVERLOADED
    retry_after_s = 1

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} predictions wait already (MAX_QUEUE); try again later")


class DeadlinePassed(ServingError):
    kind = Kind.DEADLINE

    def __init__(self) -> None:
        super().__init__("The request's deadline passed before it was answered")


class PredictionTimedOut(ServingError):
    kind = Kind.TIMEOUT

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"The prediction took longer than {limit_s:g} s (PREDICT_TIMEOUT_SEC)")


class ClientGone(ServingError):
    """For the log and the metrics; nobody reads the answer."""

    kind = Kind.CLIENT_GONE

    def __init__(self) -> None:
        super().__init__("The client has gone before it was answered")


class Unsupported(ServingError):
    kind = Kind.UNSUPPORTED


class ModelFailed(ServingError):
    """The model's own fault. What it said is logged under ``error_id``, never sent."""

    kind = Kind.MODEL_FAILED

    def __init__(self, what: str, error_id: str) -> None:
        super().__init__(f"{what} (error id {error_id})")
        self.error_id = error_id


class LoadFailed(ServingError):
    """The client may load models, and is told what became of it; the log has the rest."""

    kind = Kind.LOAD_FAILED

    def __init__(self, why: str) -> None:
        super().__init__(f"The models that were there serve on: {why or 'see the log'}")


class ModelStatus(ServingError):
    """The model answered with an HTTP status and a reason of its own."""

    kind = Kind.MODEL_STATUS

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    @property
    def http_status(self) -> int:
        return self.status

    @property
    def grpc_code(self) -> str:
        return GRPC_CODE_OF_HTTP_STATUS.get(self.status, self.kind.grpc_code)


class ModelAborted(ServingError):
    """The model has set the gRPC call's status; ``__cause__`` is what its context raised."""

    kind = Kind.MODEL_ABORTED

    def __init__(self, code: str) -> None:
        super().__init__(f"the model aborted the call with {code}")
        self.code = code

    @property
    def grpc_code(self) -> str:
        return self.code


class InternalError(ServingError):
    """Our fault; logged under ``error_id`` with its traceback."""

    kind = Kind.INTERNAL

    def __init__(self, error_id: str) -> None:
        super().__init__(f"Internal server error (error id {error_id})")
        self.error_id = error_id
