"""The models that one process has loaded: the one that it is there for, or a repository's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pyfuncserver.config import Config
from pyfuncserver.errors import StartupError
from pyfuncserver.model import addresses, loader, repository
from pyfuncserver.model.catalogue import UNLOADED, Catalogue, Entry
from pyfuncserver.model.description import NOTHING_KNOWN
from pyfuncserver.model.identity import Identity
from pyfuncserver.model.own_code import OwnCode
from pyfuncserver.model.pyfunc import PyFuncRunner
from pyfuncserver.model.repository import Source
from pyfuncserver.orders import NO_ORDERS, Orders

log = logging.getLogger(__name__)


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


Tell = Callable[[str, str, str], None]
"""Is told what becomes of a model, by its name and its full name.

``loads``: this process loads it now, and no other any more; without names, that it is done with
all. ``serves``: it has been loaded.
"""


def gather(
    config: Config,
    address: str,
    orders: Orders = NO_ORDERS,
    tell: Tell = lambda *_: None,
) -> Roster:
    """Load what is at an address: a model, or the models of a repository.

    In a repository one that fails does not stop the others.
    Raises: StartupError where the one model fails, or all of them, or one that the orders demand.
    """
    if config.model_repository:
        members = _members(config, Path(address), orders, tell)
        default = _default(config, members)
    else:
        source = Source(Identity.of(config), address, config.model_dir)
        is_absent = source.identity.name in orders.absent
        members = [_absent(source) if is_absent else _loaded(config, source, tell)]
        default = source.identity.full_name
    tell("loads", "", "")
    for member in members:
        if member.runner is not None:
            tell("serves", member.identity.name, member.identity.full_name)
    return Roster(members, default, is_repository=config.model_repository != "")


def _members(config: Config, root: Path, orders: Orders, tell: Tell) -> list[Member]:
    sources = repository.sources(root)
    if addresses.is_remote(config.address):
        sources = [_titled(source, config.address, root) for source in sources]
    _compare(addresses.shown(config.address), sources, orders)
    own_code = OwnCode()
    members = [_member(config, source, orders, tell, own_code) for source in sources]
    failed = [member for member in members if member.why_not and member.why_not != UNLOADED]
    if failed and len(failed) == len(members):
        raise StartupError(f"no model of the repository can be loaded: {failed[0].why_not}")
    return members


def _titled(source: Source, address: str, root: Path) -> Source:
    """Let a model that was fetched be called by where it was fetched from."""
    path = Path(source.address).relative_to(root).as_posix()
    return replace(source, title=f"{address.rstrip('/')}/{path}")


def _compare(address: str, sources: list[Source], orders: Orders) -> None:
    """Compare what is there with what is demanded. Raises: StartupError"""
    names = {source.identity.name for source in sources}
    if orders.wanted and orders.wanted not in names:
        raise StartupError(f"the repository {address} has no model {orders.wanted}")
    gone = ", ".join(sorted(orders.required - {source.identity.full_name for source in sources}))
    if not sources and gone:  # a volume that is not mounted?
        raise StartupError(f"the repository {address} is empty, and {gone} are served")
    if not sources:
        log.warning("the repository %s is empty", address)
    if gone:
        log.warning("no longer in the repository, and not served any more: %s", gone)


def _member(
    config: Config, source: Source, orders: Orders, tell: Tell, own_code: OwnCode
) -> Member:
    identity = source.identity
    if identity.name in orders.absent:
        return _absent(source)
    try:
        if identity.full_name in orders.deadly and identity.name != orders.wanted:
            raise StartupError(orders.deadly[identity.full_name])
        with own_code.of(identity.full_name, Path(source.address)):
            return _loaded(config, source, tell)
    except StartupError as error:
        if orders.demands(identity.name, identity.full_name):
            raise
        log.error("%s", error)
        return Member(identity, None, str(error))


def _absent(source: Source) -> Member:
    return Member(source.identity, None, UNLOADED)


def _loaded(config: Config, source: Source, tell: Tell) -> Member:
    tell("loads", source.identity.name, source.identity.full_name)
    loaded = loader.load(source.address, title=source.title, options=loader.options_of(config))
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
