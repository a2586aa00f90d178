"""``seldon.protos.Model`` and ``Seldon``, and of ``Generic`` what is not a component's."""

from __future__ import annotations

from collections.abc import Callable

from pyfuncserver.codec import seldon_proto
from pyfuncserver.model.catalogue import Catalogue
from pyfuncserver.model.seldon_metadata import metadata_of
from pyfuncserver.protocol.limit import Limit
from pyfuncserver.protocol.seldon.dialect import FEEDBACK_NAME, NAME, Proto
from pyfuncserver.protocol.seldon_core import Feedback, Predictions
from pyfuncserver.protocol.servicer import Control, Method, Servicer


def servicers(models: Catalogue, limit: Limit, count: Callable[[float], None]) -> list[Servicer]:
    """Serve the models that are there; a message names none.

    ``limit`` bounds the answers; ``count`` is told the reward of each feedback.
    """
    wire = Proto(limit)
    predict = Method(Predictions(NAME, wire, models))
    feedback = Method(Feedback(FEEDBACK_NAME, wire, count))

    def metadata(_: bytes) -> bytes:
        entry = models.demand_loaded(models.default)
        return seldon_proto.write_metadata(metadata_of(entry.identity, entry.description))

    methods = {"Predict": predict, "SendFeedback": feedback}
    return [
        _servicer("Model", methods, {"Metadata": metadata}),
        _servicer("Seldon", methods, {"ModelMetadata": metadata}),
        _servicer("Generic", {"SendFeedback": feedback}, {}),
    ]


def _servicer(name: str, methods: dict[str, Method], controls: dict[str, Control]) -> Servicer:
    full_name = f"{seldon_proto.PACKAGE}.{name}"
    return Servicer(full_name, seldon_proto.file_set(), methods, controls)
