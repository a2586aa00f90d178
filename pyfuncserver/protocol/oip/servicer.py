"""``inference.GRPCInferenceService``"""

from __future__ import annotations

from pyfuncserver.codec import inference
from pyfuncserver.model.description import Description
from pyfuncserver.model.identity import Identity
from pyfuncserver.protocol.limit import Limit
from pyfuncserver.protocol.oip.controls import GUARDED, Controls
from pyfuncserver.protocol.oip.dialect import Oip
from pyfuncserver.protocol.reloading import Reloader
from pyfuncserver.protocol.servicer import Method, Servicer


def servicer(
    identity: Identity, description: Description, reloader: Reloader, limit: Limit
) -> Servicer:
    """Serve one model. ``limit`` bounds the answers."""
    dialect = Oip(identity, [tensor.name for tensor in description.outputs], limit)
    controls = Controls(identity, description, reloader)
    return Servicer(
        inference.SERVICE,
        inference.file_set(),
        {inference.METHOD: Method(dialect, dialect.model_of)},
        controls.by_name(),
        controls.errands(),
        GUARDED,
    )
