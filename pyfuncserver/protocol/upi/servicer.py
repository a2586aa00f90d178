"""``caraml.upi.v1.UniversalPredictionService``"""

from __future__ import annotations

from pyfuncserver.codec import upi
from pyfuncserver.protocol.limit import Limit
from pyfuncserver.protocol.servicer import Method, Servicer
from pyfuncserver.protocol.upi.dialect import Upi


def servicer(limit: Limit) -> Servicer:
    """Serve the models that are there; a request names none. ``limit`` bounds the answers."""
    return Servicer(upi.SERVICE, upi.file_set(), {upi.METHOD: Method(Upi(limit))})
