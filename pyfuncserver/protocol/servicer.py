"""What a gRPC service is made of, apart from the transport that serves it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from pyfuncserver.model.call import Dialect

Control = Callable[[bytes], bytes]
"""Answers a message that asks for no prediction, soon. Raises: ServingError"""


@dataclass(frozen=True)
class Patience:
    """How long a client waits."""

    deadline: float = math.inf
    """By :func:`time.monotonic`."""
    is_wanted: Callable[[], bool] = lambda: True
    """Whether the client is still there."""


Errand = Callable[[bytes, Patience], bytes]
"""Answers a message that asks for no prediction either, and may wait. Raises: ServingError"""


@dataclass(frozen=True)
class Method:
    """A method whose calls are predictions."""

    dialect: Dialect
    model: Callable[[bytes], str] | None = None
    """Gives the key of the model that a message asks for, and never raises. None where messages
    name no model: then the call's metadata may."""


@dataclass(frozen=True)
class Servicer:
    """A service: its methods by their names, and what reflection tells of it."""

    name: str
    """With its package."""
    files: FileDescriptorSet
    predictions: Mapping[str, Method]
    controls: Mapping[str, Control] = field(default_factory=dict)
    errands: Mapping[str, Errand] = field(default_factory=dict)
    guarded: frozenset[str] = frozenset()
    """The controls and errands for which a client needs its token."""
