"""The shape of an error's body, by the path: each dialect has one of its own."""

from __future__ import annotations

from pyfuncserver.protocol.rest import v1
from pyfuncserver.protocol.rest.shape import Shape

SHAPES: tuple[tuple[str, Shape], ...] = ()
"""By the beginning of the path."""


def shape_of(path: str) -> Shape:
    """Give the shape of a path's errors; V1's where no other dialect has it."""
    for beginning, shape in SHAPES:
        if path == beginning or path.startswith(f"{beginning}/"):
            return shape
    return v1.SHAPE
