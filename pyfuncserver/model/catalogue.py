"""The models of a process: by which names they are asked for, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from pyfuncserver.errors import NotReady, ServingError, UnknownModel, UnnamedModel
from pyfuncserver.model.description import NOTHING_KNOWN, Description
from pyfuncserver.model.identity import Identity
from pyfuncserver.model.seldon_metadata import output_names

UNLOADED = "unloaded"
"""Why a model is not served that a client did not want any more."""


@dataclass(frozen=True)
class Entry:
    """One model, in one version."""

    identity: Identity
    description: Description = NOTHING_KNOWN
    why_not: str = ""
    """Why it is not served, where it is known and is not: its load has failed, or was undone."""

    @property
    def is_loaded(self) -> bool:
        return not self.why_not

    @cached_property
    def output_names(self) -> list[str]:
        """List the names of its output tensors; none where its signature does not say."""
        return [tensor.name for tensor in self.description.outputs]

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """List the names that its signature gives to outputs."""
        return output_names(self.description)


class Catalogue:
    """The entries by their keys, which are their full names; versions of a name in their order.

    ``default`` is the key that is meant where a request names no model; empty for none. In a
    repository V1 knows a model by its bare name, too, which is its latest version's.
    """

    def __init__(
        self, entries: Iterable[Entry], default: str = "", is_repository: bool = False
    ) -> None:
        self._entries = {entry.identity.full_name: entry for entry in entries}
        self.default = default
        self.is_repository = is_repository
        self._latest: dict[str, str] = {}
        self._versions: dict[tuple[str, str], str] = {}
        for key, entry in self._entries.items():
            name, version = entry.identity.name, entry.identity.version
            self._versions[key, version] = self._versions[name, version] = key
            before = self._latest.get(name)
            if before is None or entry.is_loaded or not self._entries[before].is_loaded:
                self._latest[name] = key
        self._latest |= {key: key for key in self._entries}

    @classmethod
    def of(cls, identity: Identity, description: Description = NOTHING_KNOWN) -> Catalogue:
        """Make the catalogue of a server that is there for one model."""
        return cls([Entry(identity, description)], identity.full_name)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, key: str) -> Entry:
        return self._entries[key]

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    @property
    def any(self) -> str:
        """Give the key of a model that is here, for requests of which nothing can be read."""
        return self.default or next(iter(self._entries), "")

    def key_of(self, name: str, version: str = "") -> str:
        """Give the key of what a client asks for; of a name alone, that of its latest version.

        Where that is no model here, it is what was asked for, as no model is called.
        """
        key = self._versions.get((name, version)) if version else self._latest.get(name)
        if key is not None:
            return key
        return f"{name}/versions/{version}" if version else name

    def full_key_of(self, full_name: str) -> str:
        """Give the key of a model by what V1 calls it."""
        return self.key_of(full_name) if self.is_repository else full_name

    def demand(self, key: str) -> Entry:
        """Give an entry. Raises: UnknownModel, UnnamedModel"""
        entry = self._entries.get(key)
        if entry is None:
            raise UnknownModel(key) if key else UnnamedModel()
        return entry

    def demand_loaded(self, key: str) -> Entry:
        """Give an entry of a model that is served. Raises: NotReady, or see :meth:`demand`"""
        entry = self.demand(key)
        if not entry.is_loaded:
            raise NotReady(f"Model with full name {key} is not loaded.")
        return entry

    def missing(self, key: str) -> ServingError:
        """Make the error for a model that is not served."""
        try:
            self.demand_loaded(key)
        except ServingError as error:
            return error
        raise AssertionError(f"{key} is served")

    def versions_of(self, name: str) -> list[Entry]:
        """List the versions of a model by its name, or the one of a full name.

        Raises: UnknownModel
        """
        found = [entry for entry in self if entry.identity.name == name]
        return found or [self.demand(name)]


NO_MODELS = Catalogue(())
