"""``seldon.protos.Model`` and ``Seldon``, and of ``Generic`` what is not a component's."""

from __future__ import annotations

from collections.abc import Callable

from pyfuncserver.codec import seldon_proto
from pyfuncserver.model.description import Description
from pyfuncserver.model.identity import Identity
from pyfuncserver.model.seldon_metadata import metadata_of, output_names
from pyfuncserver.protocol.limit import Limit
from pyfuncserver.protocol.seldon.dialect import Feedback, Seldon
from pyfuncserver.protocol.servicer import Control, Method, Servicer


def servicers(
    identity: Identity, description: Description, limit: Limit, count: Callable[[float], None]
) -> list[Servicer]:
    """Serve one model, for a message names none.

    ``limit`` bounds the answers; ``count`` is told the reward of each feedback.
    """
    predict = Method(Seldon(limit, output_names(description)), lambda _: identity.full_name)
    feedback = Method(Feedback(count, limit), lambda _: identity.full_name)
    metadata = seldon_proto.write_metadata(metadata_of(identity, description))
    predictions = {"Predict": predict, "SendFeedback": feedback}
    return [
        _servicer("Model", predictions, {"Metadata": lambda _: metadata}),
        _servicer("Seldon", predictions, {"ModelMetadata": lambda _: metadata}),
        _servicer("Generic", {"SendFeedback": feedback}, {}),
    ]


def _servicer(name: str, methods: dict[str, Method], controls: dict[str, Control]) -> Servicer:
    full_name = f"{seldon_proto.PACKAGE}.{name}"
    return Servicer(full_name, seldon_proto.file_set(), methods, controls)
