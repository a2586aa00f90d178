"""Paths of dialects that name no model: with one in front they mean it, else the default."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pyfuncserver.config import NAME_PATTERN

MODEL = "/models/{model}"
VERSION = f"{MODEL}/versions/{{version}}"
_in_front = re.compile(rf"/models/{NAME_PATTERN}(?:/versions/{NAME_PATTERN})?(?=/)").match


def everywhere(paths: Iterable[str]) -> tuple[str, ...]:
    """Give the paths as they are, and behind a model, and behind a version of one."""
    paths = tuple(paths)
    return tuple(f"{front}{path}" for front in ("", MODEL, VERSION) for path in paths)


def without_model(path: str) -> str:
    """Give a path without the model that it has in front, if it has one."""
    found = _in_front(path)
    return path if found is None else path[found.end() :]
