"""A repository: a folder a model, and in it a folder a version.

A folder that holds a file is a model itself, in its one version, ``1``, unless numbered folders
stand beside it: then these are its versions. Hidden files and folders are not looked at. Versions
are ordered as numbers where they have any, so that 10 follows 9, and these follow words.
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
from pyfuncserver.model.kinds.finding import MLMODEL

log = logging.getLogger(__name__)

ONLY_VERSION = "1"
LONGEST_NAME = 255
"""Of a file. For a longer one there is no answer, but an error."""
_is_name = re.compile(NAME_PATTERN).fullmatch


@dataclass(frozen=True)
class Source:
    """Where a model is to be loaded from."""

    identity: Identity
    address: str
    title: str = ""
    """What the user calls it, if not by its address."""


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
    return could_have(name) and (root / name).is_dir()


def could_have(name: str) -> bool:
    """Tell whether a repository could have a model of this name."""
    return bool(_is_name(name)) and not name.startswith(".") and len(name) <= LONGEST_NAME


def _folders(root: Path) -> Iterator[Path]:
    """Give the folders in one, in their order, but for those that no request could name."""
    for entry in sorted(root.iterdir(), key=lambda path: _order(path.name)):
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        if _is_name(entry.name):
            yield entry
        else:
            log.warning("%s is left out: a name is of letters, digits, `_`, `.`, `-`", entry)


def _order(name: str) -> tuple[list[tuple[int, int | str]], str]:
    """Give what sorts numbers in a name by their size, and behind words; 01 and 1 always alike."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part)) if part.isdecimal() else (0, part) for part in parts if part], name


def _versions(folder: Path) -> list[Source]:
    try:
        versions = [] if _is_model(folder) else list(_folders(folder))
    except OSError:  # loading will say why
        versions = []
    if not versions:  # a model itself, or a folder in which loading will find none
        return [_source(folder.name, ONLY_VERSION, folder)]
    return [_source(folder.name, version.name, version) for version in versions]


def _is_model(folder: Path) -> bool:
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if any(path.name.isdecimal() and path.is_dir() for path in entries):
        return (folder / MLMODEL).is_file()
    return any(path.is_file() for path in entries)


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
