"""The services on the gRPC port; a new one is a line here."""

from __future__ import annotations

from collections.abc import Callable

from pyfuncserver.config import Config
from pyfuncserver.model.description import Description
from pyfuncserver.model.identity import Identity
from pyfuncserver.protocol.oip import servicer as oip
from pyfuncserver.protocol.reloading import Reloader
from pyfuncserver.protocol.rpc.options import send_limit
from pyfuncserver.protocol.seldon import servicer as seldon
from pyfuncserver.protocol.servicer import Servicer
from pyfuncserver.protocol.upi import servicer as upi


def servicers(
    config: Config,
    description: Description,
    reloader: Reloader,
    count_feedback: Callable[[float], None],
) -> list[Servicer]:
    """Give every service, for the model that is configured."""
    limit = send_limit(config)
    return [
        upi.servicer(config.full_name, limit),
        oip.servicer(Identity.of(config), description, reloader, limit),
        *seldon.servicers(Identity.of(config), description, limit, count_feedback),
    ]
