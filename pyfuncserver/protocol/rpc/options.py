"""gRPC's channel arguments: what GRPC_OPTIONS says, and what follows from our settings."""

from __future__ import annotations

import logging

from pyfuncserver.config import Config
from pyfuncserver.protocol.limit import Limit

log = logging.getLogger(__name__)

# A worker that leaves gives its clients two thirds of DRAIN_TIMEOUT_SEC (30 s) to move on.
CONNECTION_AGE_MS = 15_000
LARGEST = 2**31 - 1

RECEIVE = "grpc.max_receive_message_length"
SEND = "grpc.max_send_message_length"
METADATA = ("grpc.max_metadata_size", "grpc.absolute_max_metadata_size")


def receive_limit(config: Config) -> Limit:
    given = _size(config, RECEIVE)
    if given is None:
        return Limit(config.max_body_size, "MAX_BODY_SIZE")
    return Limit(given, f"{RECEIVE} in GRPC_OPTIONS")


def send_limit(config: Config) -> Limit:
    given = _size(config, SEND)
    return Limit(LARGEST if given is None else given, f"{SEND} in GRPC_OPTIONS")


def _size(config: Config, option: str) -> int | None:
    """Give a size that GRPC_OPTIONS sets; -1 is gRPC's word for as large as can be."""
    given = config.grpc_options.get(option)
    if given is None:
        return None
    return LARGEST if int(given) < 0 else int(given)


def channel_options(config: Config) -> dict[str, int | str]:
    """Complete GRPC_OPTIONS.

    gRPC refuses a message without naming a setting, so it is given twice the limit, and we refuse
    what is between the two.
    """
    given = config.grpc_options
    options: dict[str, int | str] = {"grpc.max_connection_age_ms": CONNECTION_AGE_MS, **given}
    options[RECEIVE] = min(2 * receive_limit(config).size, LARGEST)
    if not any(name in given for name in METADATA):
        # Between the two gRPC refuses at random; one bound is easier to understand.
        options.update(dict.fromkeys(METADATA, config.max_header_size))
    if not options.get("grpc.so_reuseport", 1):
        log.warning("GRPC_OPTIONS: grpc.so_reuseport stays on, the workers share the port by it")
    options["grpc.so_reuseport"] = 1
    return options
