"""The models that one process has loaded: the one that it is there for, or a repository's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pyfuncserver.config import Config
from pyfuncserver.errors import StartupError
from pyfuncserver.model import loader, repository
from pyfuncserver.model.catalogue import Catalogue, Entry
from pyfuncserver.model.description import NOTHING_KNOWN
from pyfuncserver.model.identity import Identity
from pyfuncserver.model.pyfunc import PyFuncRunner
from pyfuncserver.model.repository import Source
from pyfuncserver.orders import NO_ORDERS, Orders

log = logging.getLogger(__name__)

UNLOADED = "unloaded"


@dataclass(frozen=True)
class Member:
    """A model that is known, and what runs it where it is loaded."""

    identity: Identity
    runner: PyFuncRunner | None
    why_not: str = ""

    @property
    def entry(self) -> Entry:
        description = NOTHING_KNOWN if self.runner is None else self.runner.description
        return Entry(self.identity, description, self.why_not)


class Roster:
    """Models in the order of their names and versions; ``catalogue`` says what is known of them."""

    def __init__(
        self, members: Iterable[Member], default: str, is_repository: bool = False
    ) -> None:
        members = tuple(members)
        self.runners = {
            member.identity.full_name: member.runner
            for member in members
            if member.runner is not None
        }
        """By the full names of those that are loaded."""
        entries = [member.entry for member in members]
        self.catalogue = Catalogue(entries, default, is_repository)


def gather(
    config: Config,
    address: str,
    orders: Orders = NO_ORDERS,
    tell: Callable[[str], None] = lambda _: None,
) -> Roster:
    """Load what is at an address: a model, or the models of a repository.

    ``tell`` is called with the full name of each that has been loaded. In a repository one that
    fails does not stop the others.
    Raises: StartupError where the one model fails, or all of them, or one that the orders require.
    """
    if not config.model_repository:
        source = Source(Identity.of(config), address)
        is_absent = source.identity.name in orders.absent
        member = _absent(source) if is_absent else _loaded(config, source)
        _tell_of([member], tell)
        return Roster([member], source.identity.full_name)
    sources = repository.sources(Path(address))
    members = [_member(config, source, orders) for source in sources]
    failed = [member for member in members if member.why_not and member.why_not != UNLOADED]
    if failed and len(failed) == len(members):
        raise StartupError(f"no model of the repository can be loaded: {failed[0].why_not}")
    if not members:
        log.warning("the repository %s is empty", address)
    _tell_of(members, tell)
    return Roster(members, _default(config, members), is_repository=True)


def _tell_of(members: list[Member], tell: Callable[[str], None]) -> None:
    for member in members:
        if member.runner is not None:
            tell(member.identity.full_name)


def _member(config: Config, source: Source, orders: Orders) -> Member:
    identity = source.identity
    if identity.name in orders.absent:
        return _absent(source)
    try:
        return _loaded(config, source)
    except StartupError as error:
        if identity.full_name in orders.required or identity.name == orders.asked:
            raise
        log.error("%s", error)
        return Member(identity, None, str(error))


def _absent(source: Source) -> Member:
    return Member(source.identity, None, UNLOADED)


def _loaded(config: Config, source: Source) -> Member:
    title = "" if config.model_repository else config.model_dir
    loaded = loader.load(source.address, title=title, options=loader.options_of(config))
    runner = PyFuncRunner(loaded.pyfunc, loaded.loader_module, loaded.example)
    return Member(source.identity, runner)


def _default(config: Config, members: list[Member]) -> str:
    """Give the full name of the model that is meant where none is named; empty for none."""
    versions: dict[str, str] = {}
    for member in members:
        identity = member.identity
        if member.runner is not None or identity.name not in versions:
            versions[identity.name] = identity.full_name
    if len(versions) == 1:
        return next(iter(versions.values()))
    return versions.get(config.model_name, "")
