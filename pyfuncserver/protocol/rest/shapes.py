"""The shape of an error's body, by the path: each dialect has one of its own."""

from __future__ import annotations

from pyfuncserver.protocol.rest import scoring, seldon, v1, v2
from pyfuncserver.protocol.rest.paths import without_model
from pyfuncserver.protocol.rest.shape import Shape

SHAPES: tuple[tuple[str, Shape], ...] = (
    ("/v2", v2.SHAPE),
    *((root, seldon.SHAPE) for root in seldon.ROOTS),  # of which two begin with /health
    *((path, scoring.SHAPE) for path in ("/invocations", "/ping", "/health", "/version")),
)
"""By the beginning of the path."""


def shape_of(path: str) -> Shape:
    """Give the shape of a path's errors; V1's where no other dialect has it."""
    path = without_model(path)
    for beginning, shape in SHAPES:
        if path == beginning or path.startswith(f"{beginning}/"):
            return shape
    return v1.SHAPE
