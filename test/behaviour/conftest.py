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


REPRESENTATIVES = {
    "test_cloudevents": {"test_structured_mode", "test_binary_mode", "test_a_malformed_event"},
    "test_docs": {"test_the_page_allows_nothing_from_elsewhere"},
    "test_scoring": {"test_every_form_of_a_request", "test_a_wrong_method"},
    "test_seldon": {"test_an_ndarray_is_answered_by_an_ndarray", "test_refusals_have_the_shape"},
    "test_v2": {"test_binary_both_ways", "test_bytes_in_raw", "test_a_model_that_is_not_there"},
}
"""What a dialect says is decided above the transport: these show that it is said over each."""
ONCE = {
    "test_a_model_that_takes_only_json",
    "test_calls_whose_message_never_comes_do_not_hold_up_the_others_for_ever",
    "test_calls_whose_message_never_comes_make_room_in_time",
    "test_events_are_those_of_mlflows_own_agent_server",
    "test_files_that_will_not_do_end_the_start",
    "test_grpc_messages_that_are_too_large_name_the_setting",
    "test_mlflows_own_client_reads_the_events",
    "test_streams_that_stay_open_do_not_hold_up_the_end",
}
"""Of the other modules, what has nothing to do with HTTP's transport."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is said over gRPC alone, and what others stand for, the second time."""
    again = {item for item in items if "tornado" in item.name and is_told_already(item)}
    config.hook.pytest_deselected(items=list(again))
    items[:] = [item for item in items if item not in again]


def is_told_already(item: pytest.Item) -> bool:
    """Tell whether the other transport's turn of a test says all that this one would."""
    if "UPI_V1" in item.name or "grpc:" in item.name:
        return True
    name, module = item.name.partition("[")[0], item.path.stem
    if module == "test_dialects" and name == "test_case":
        return "v1" not in item.name
    return name in ONCE or name not in REPRESENTATIVES.get(module, {name})


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
