"""The services on the gRPC port; a new one is a line here."""

from __future__ import annotations

from pyfuncserver.config import Config
from pyfuncserver.protocol.rpc.options import send_limit
from pyfuncserver.protocol.servicer import Servicer
from pyfuncserver.protocol.upi import servicer as upi


def servicers(config: Config) -> list[Servicer]:
    """Give every service, for the model that is configured."""
    limit = send_limit(config)
    return [upi.servicer(config.full_name, limit)]
