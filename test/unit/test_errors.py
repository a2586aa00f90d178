from __future__ import annotations

import http
import inspect
from collections.abc import Iterator

import grpc
import pytest

from pyfuncserver import errors
from pyfuncserver.errors import Kind, ServingError

GRPC_CODES = {code.name for code in grpc.StatusCode}

# An error of each class, what HTTP and gRPC make of it.
TABLE: list[tuple[ServingError, Kind, int, str]] = [
    (errors.InvalidInput("x"), Kind.INVALID_INPUT, 400, "INVALID_ARGUMENT"),
    (errors.UnknownModel("x"), Kind.UNKNOWN_MODEL, 404, "NOT_FOUND"),
    (errors.UnnamedModel(), Kind.UNNAMED_MODEL, 404, "NOT_FOUND"),
    (errors.NotReady("x"), Kind.NOT_READY, 503, "UNAVAILABLE"),
    (errors.Unauthenticated(), Kind.UNAUTHENTICATED, 401, "UNAUTHENTICATED"),
    (errors.TooLarge("x", 1, "S"), Kind.TOO_LARGE, 413, "RESOURCE_EXHAUSTED"),
    (errors.UnsupportedMediaType("x"), Kind.UNSUPPORTED_MEDIA_TYPE, 415, "INVALID_ARGUMENT"),
    (errors.Overloaded(5), Kind.OVERLOADED, 429, "RESOURCE_EXHAUSTED"),
    (errors.DeadlinePassed(), Kind.DEADLINE, 504, "DEADLINE_EXCEEDED"),
    (errors.PredictionTimedOut(1), Kind.TIMEOUT, 504, "DEADLINE_EXCEEDED"),
    (errors.ClientGone(), Kind.CLIENT_GONE, 499, "CANCELLED"),
    (errors.Unsupported("x"), Kind.UNSUPPORTED, 501, "UNIMPLEMENTED"),
    (errors.LoadFailed("why"), Kind.LOAD_FAILED, 500, "INTERNAL"),
    (errors.ModelFailed("x", "id"), Kind.MODEL_FAILED, 500, "INTERNAL"),
    (errors.ModelStatus(422, "x"), Kind.MODEL_STATUS, 422, "INVALID_ARGUMENT"),
    (errors.ModelAborted("DATA_LOSS"), Kind.MODEL_ABORTED, 500, "DATA_LOSS"),
    (errors.InternalError("id"), Kind.INTERNAL, 500, "INTERNAL"),
]


def subclasses(cls: type[ServingError]) -> Iterator[type[ServingError]]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


@pytest.mark.parametrize("kind", Kind)
def test_kind_maps_to_statuses_that_exist(kind: Kind) -> None:
    # 499 is what nginx logs for a client that has gone; nobody is sent it.
    assert kind.http_status == 499 or http.HTTPStatus(kind.http_status) >= 400
    assert kind.grpc_code in GRPC_CODES - {"OK"}
    assert kind.label == kind.name.lower()


@pytest.mark.parametrize(("error", "kind", "status", "code"), TABLE, ids=lambda v: type(v).__name__)
def test_error_maps_to_its_kind(error: ServingError, kind: Kind, status: int, code: str) -> None:
    assert error.kind is kind
    assert error.http_status == status
    assert error.grpc_code == code


def test_no_error_is_forgotten() -> None:
    found = set(subclasses(ServingError))
    assert found == {type(error) for error, *_ in TABLE}
    assert all("kind" in vars(cls) for cls in found), "each says its kind itself"
    assert sorted(cls.kind.name for cls in found) == sorted(kind.name for kind in Kind)


def test_tree_in_the_docstring_is_the_tree() -> None:
    drawn = inspect.getdoc(errors)
    assert drawn is not None
    assert all(cls.__name__ in drawn for cls in subclasses(ServingError))


@pytest.mark.parametrize("status", sorted(errors.GRPC_CODE_OF_HTTP_STATUS))
def test_http_status_of_a_model_has_an_existing_grpc_code(status: int) -> None:
    assert errors.ModelStatus(status, "x").grpc_code in GRPC_CODES


def test_http_status_without_a_grpc_code_is_unknown() -> None:
    assert errors.ModelStatus(418, "x").grpc_code == "UNKNOWN"


def test_unknown_model_reads_as_merlin_says_it() -> None:
    assert str(errors.UnknownModel("iris-1")) == "Model with full name iris-1 does not exist."


def test_only_what_passes_by_itself_may_be_tried_again() -> None:
    assert [type(error) for error, *_ in TABLE if error.retry_after_s] == [errors.Overloaded]


def test_a_limit_names_its_setting() -> None:
    assert "5 bytes (MAX_X)" in str(errors.TooLarge("The body", 5, "MAX_X"))


def test_startup_error_ends_the_process_with_1_by_default() -> None:
    assert errors.StartupError("x").status == 1
