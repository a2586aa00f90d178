from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pyfuncserver.config import Config
from pyfuncserver.protocol.rpc.options import channel_options, receive_limit, send_limit

LARGEST = 2**31 - 1
RECEIVE, SEND = "grpc.max_receive_message_length", "grpc.max_send_message_length"


@pytest.fixture
def configure(clean_environ: Mapping[str, str]) -> Any:
    def make(options: dict[str, Any], **settings: Any) -> Config:
        return Config(**{"MODEL_DIR": "m", "GRPC_OPTIONS": options, **settings})

    return make


def test_messages_are_bound_by_the_body_size(configure: Any) -> None:
    config = configure({}, MAX_BODY_SIZE=1000)
    assert receive_limit(config) == (1000, "MAX_BODY_SIZE")
    assert channel_options(config)[RECEIVE] == 2000, "what is in between, we refuse ourselves"


def test_option_beats_the_setting(configure: Any) -> None:
    config = configure({RECEIVE: 10, SEND: 20}, MAX_BODY_SIZE=1000)
    assert receive_limit(config) == (10, f"{RECEIVE} in GRPC_OPTIONS")
    assert send_limit(config) == (20, f"{SEND} in GRPC_OPTIONS")
    assert channel_options(config)[RECEIVE] == 20
    assert channel_options(config)[SEND] == 20


def test_no_size_is_beyond_what_grpc_can_count(configure: Any) -> None:
    assert send_limit(configure({})).size == LARGEST
    for config in (configure({}, MAX_BODY_SIZE=LARGEST), configure({RECEIVE: -1, SEND: -1})):
        assert receive_limit(config).size == LARGEST
        assert channel_options(config)[RECEIVE] == LARGEST
        assert send_limit(config).size == LARGEST


def test_metadata_is_bound(configure: Any) -> None:
    options = channel_options(configure({}, MAX_HEADER_SIZE=5000))
    assert options["grpc.max_metadata_size"] == 5000
    assert options["grpc.absolute_max_metadata_size"] == 5000


def test_metadata_is_bound_as_the_options_say(configure: Any) -> None:
    options = channel_options(configure({"grpc.max_metadata_size": 7}, MAX_HEADER_SIZE=5000))
    assert options["grpc.max_metadata_size"] == 7
    assert "grpc.absolute_max_metadata_size" not in options


def test_ports_are_shared_whatever_the_options_say(
    configure: Any, caplog: pytest.LogCaptureFixture
) -> None:
    options = channel_options(configure({"grpc.so_reuseport": 0, "grpc.max_connection_age_ms": 5}))
    assert options["grpc.so_reuseport"] == 1
    assert options["grpc.max_connection_age_ms"] == 5
    assert "grpc.so_reuseport stays on" in caplog.text
