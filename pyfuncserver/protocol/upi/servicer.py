"""``caraml.upi.v1.UniversalPredictionService``"""

from __future__ import annotations

from pyfuncserver.codec import upi
from pyfuncserver.protocol.limit import Limit
from pyfuncserver.protocol.servicer import Method, Servicer
from pyfuncserver.protocol.upi.dialect import Upi


def servicer(model: str, limit: Limit) -> Servicer:
    """Serve one model, for a request names none. ``limit`` bounds the answers."""
    method = Method(Upi(limit), lambda _: model)
    return Servicer(upi.SERVICE, upi.file_set(), {upi.METHOD: method})
