"""Runs what is said over HTTP twice: over our own transport, and over Tornado's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import harness
import pytest

TRANSPORTS = ("httptools", "tornado")
HTTP_MODULES = (
    "test_admission",
    "test_cases",
    "test_cloudevents",
    "test_dialects",
    "test_docs",
    "test_limits",
    "test_scoring",
    "test_security",
    "test_streaming",
    "test_v1",
    "test_v2",
    "test_seldon",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "transport" in metafunc.fixturenames:
        is_about_http = Path(metafunc.definition.fspath).stem in HTTP_MODULES
        transports = TRANSPORTS if is_about_http else TRANSPORTS[:1]
        metafunc.parametrize("transport", transports, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is said over gRPC alone, the second time."""
    of_grpc = [item for item in items if "UPI_V1" in item.name or "grpc:" in item.name]
    again = [item for item in of_grpc if "tornado" in item.name]
    config.hook.pytest_deselected(items=again)
    items[:] = [item for item in items if item not in again]


@pytest.fixture(scope="session")
def transport(request: pytest.FixtureRequest) -> str:
    """Name the transport of what runs now; session-wide, so that each has its turn once."""
    name: str = request.param
    return name


@pytest.fixture(scope="module", autouse=True)
def over_transport(transport: str) -> Iterator[None]:
    """Have every daemon speak over it; one for all tests of a module depends on this one."""
    harness.DEFAULTS["HTTP_TRANSPORT"] = transport
    yield
    del harness.DEFAULTS["HTTP_TRANSPORT"]
