"""A repository: a folder a model, and in it a folder a version.

A folder that holds a file is a model itself, in its one version, ``1``; hidden files and folders
are not looked at. Versions are ordered as numbers where they have any, so that 10 follows 9.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyfuncserver.config import NAME_PATTERN
from pyfuncserver.errors import StartupError
from pyfuncserver.model.identity import Identity

log = logging.getLogger(__name__)

ONLY_VERSION = "1"
_is_name = re.compile(NAME_PATTERN).fullmatch


@dataclass(frozen=True)
class Source:
    """Where a model is to be loaded from."""

    identity: Identity
    address: str


def sources(root: Path) -> list[Source]:
    """List the models of a repository, by their names, and their versions from old to new.

    Raises: StartupError where it cannot be read, or two models have one name.
    """
    try:
        found = [source for folder in _folders(root) for source in _versions(folder)]
    except OSError as error:
        raise StartupError(f"the repository {root} cannot be read: {error.strerror}") from None
    _check(found)
    return found


def has(root: Path, name: str) -> bool:
    """Tell whether a repository has a folder for a model of this name."""
    is_hidden = name.startswith(".")
    return not is_hidden and bool(_is_name(name)) and (root / name).is_dir()


def _folders(root: Path) -> Iterator[Path]:
    """Give the folders in one, in their order, but for those that no request could name."""
    for entry in sorted(root.iterdir(), key=lambda path: _order(path.name)):
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        if _is_name(entry.name):
            yield entry
        else:
            log.warning("%s is left out: a name is of letters, digits, `_`, `.`, `-`", entry)


def _order(name: str) -> list[tuple[int, int | str]]:
    """Give what sorts numbers in a name by their size."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]


def _versions(folder: Path) -> list[Source]:
    is_model = any(not path.name.startswith(".") and path.is_file() for path in folder.iterdir())
    versions = [] if is_model else list(_folders(folder))
    if not versions:  # a model itself, or a folder in which loading will find none
        return [_source(folder.name, ONLY_VERSION, folder)]
    return [_source(folder.name, version.name, version) for version in versions]


def _source(name: str, version: str, path: Path) -> Source:
    return Source(Identity(name, version, f"{name}-{version}"), str(path))


def _check(found: list[Source]) -> None:
    """Raise StartupError where a name, or a full name, could mean either of two models."""
    owners: dict[str, Source] = {}
    for source in found:
        owners.setdefault(source.identity.name, source)
    for source in found:
        other = owners.setdefault(source.identity.full_name, source)
        if other is not source:
            raise StartupError(
                f"two models have the name {source.identity.full_name}: "
                f"{other.address} and {source.address}"
            )
