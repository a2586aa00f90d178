"""``inference.GRPCInferenceService``"""

from __future__ import annotations

from pyfuncserver.codec import inference
from pyfuncserver.model.catalogue import Catalogue
from pyfuncserver.protocol.limit import Limit
from pyfuncserver.protocol.oip.controls import GUARDED, Controls
from pyfuncserver.protocol.oip.dialect import Oip
from pyfuncserver.protocol.reloading import Reloader
from pyfuncserver.protocol.servicer import Method, Servicer


def servicer(models: Catalogue, reloader: Reloader, limit: Limit) -> Servicer:
    """Serve the models that are there. ``limit`` bounds the answers."""
    dialect = Oip(models, limit)
    controls = Controls(models, reloader)
    return Servicer(
        inference.SERVICE,
        inference.file_set(),
        {inference.METHOD: Method(dialect, dialect.model_of)},
        controls.by_name(),
        controls.errands(),
        GUARDED,
    )
