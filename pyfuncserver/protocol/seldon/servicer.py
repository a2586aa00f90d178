"""``seldon.protos.Model`` and ``Seldon``, and of ``Generic`` what is not a component's."""

from __future__ import annotations

from collections.abc import Callable

from pyfuncserver.codec import seldon_proto
from pyfuncserver.model.description import Description
from pyfuncserver.model.identity import Identity
from pyfuncserver.model.seldon_metadata import metadata_of, output_names
from pyfuncserver.protocol.limit import Limit
from pyfuncserver.protocol.seldon.dialect import FEEDBACK_NAME, NAME, Proto
from pyfuncserver.protocol.seldon_core import Feedback, Predictions
from pyfuncserver.protocol.servicer import Control, Method, Servicer


def servicers(
    identity: Identity, description: Description, limit: Limit, count: Callable[[float], None]
) -> list[Servicer]:
    """Serve one model, for a message names none.

    ``limit`` bounds the answers; ``count`` is told the reward of each feedback.
    """
    predictions = Predictions(NAME, Proto(limit), output_names(description))
    predict = Method(predictions, lambda _: identity.full_name)
    feedback = Method(Feedback(FEEDBACK_NAME, Proto(limit), count), lambda _: identity.full_name)
    metadata = seldon_proto.write_metadata(metadata_of(identity, description))
    methods = {"Predict": predict, "SendFeedback": feedback}
    return [
        _servicer("Model", methods, {"Metadata": lambda _: metadata}),
        _servicer("Seldon", methods, {"ModelMetadata": lambda _: metadata}),
        _servicer("Generic", {"SendFeedback": feedback}, {}),
    ]


def _servicer(name: str, methods: dict[str, Method], controls: dict[str, Control]) -> Servicer:
    full_name = f"{seldon_proto.PACKAGE}.{name}"
    return Servicer(full_name, seldon_proto.file_set(), methods, controls)
