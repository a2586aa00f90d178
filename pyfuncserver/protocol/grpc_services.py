"""The services on the gRPC port; a new one is a line here."""

from __future__ import annotations

from collections.abc import Callable

from pyfuncserver.config import Config
from pyfuncserver.model.catalogue import Catalogue
from pyfuncserver.protocol.oip import servicer as oip
from pyfuncserver.protocol.reloading import Reloader
from pyfuncserver.protocol.rpc.options import send_limit
from pyfuncserver.protocol.seldon import servicer as seldon
from pyfuncserver.protocol.servicer import Servicer
from pyfuncserver.protocol.upi import servicer as upi


def servicers(
    config: Config,
    models: Catalogue,
    reloader: Reloader,
    count_feedback: Callable[[float], None],
) -> list[Servicer]:
    """Give every service."""
    limit = send_limit(config)
    return [
        upi.servicer(limit),
        oip.servicer(models, reloader, limit),
        *seldon.servicers(models, limit, count_feedback),
    ]
