"""From a remote address to files on this machine that are whole."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from pyfuncserver.errors import StartupError
from pyfuncserver.model.addresses import download, listing, progress, source
from pyfuncserver.model.addresses.cache import VARIABLE, Entry
from pyfuncserver.model.addresses.failure import Incomplete, Unfetchable, cause_of, passes
from pyfuncserver.model.addresses.listing import Item, Listing
from pyfuncserver.model.addresses.redaction import redacted_logs, shown
from pyfuncserver.model.addresses.source import Source

MOST_ROUNDS = 3
"""How often a model is fetched that changes while it is fetched."""
# MLflow would draw a bar of its own for a file that it fetches in parts.
QUIET = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}

log = logging.getLogger(__name__)


def fetch(address: str, cache: Path) -> Path:
    """Give a local directory, or file, with all that is at a remote address now.

    What is in the cache and has not changed is not fetched again; what another process fetches is
    waited for. The model may be in the cache of others, too: nobody is to write to it.

    Raises: StartupError with the address and the cause in one line.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow would give its loggers, and some of others, a handler and a format of its own.
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    with redacted_logs(), source.variables({**QUIET, **source.RETRIES}):
        try:
            return _fetch(address, cache)
        except Exception as error:
            cause = cause_of(error, cache)
            log.debug("fetching failed", exc_info=error)
    raise StartupError(f"the model {shown(address)} cannot be fetched: {cause}")


def _fetch(address: str, cache: Path) -> Path:
    source.check(address)
    log.info("asking for %s", shown(address))
    sources = source.resolve(address)
    local = _on_this_machine(sources)
    if local is not None:
        source.tell(address, Source(None, str(local), sources[0].version))
        return local
    for number in range(MOST_ROUNDS):
        found = _look(sources, cache)
        if number == 0:
            source.tell(address, found.source)
        path = _brought(address, found, cache, lambda: _look(sources, cache))
        if path is not None:
            return path
        log.warning("%s has changed while it was fetched; once more", shown(address))
    raise Unfetchable("it has changed each time while it was fetched")


def _on_this_machine(sources: list[Source]) -> Path | None:
    """Give the model of a registry whose artifacts lie in a directory: it is whole there."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    if not all(isinstance(place.repository, LocalArtifactRepository) for place in sources):
        return None
    paths = [Path(place.repository.artifact_dir) for place in sources]
    for path in paths:
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            return path.resolve()
    raise Unfetchable(
        f"the server says that it is at {paths[-1]}, and this machine has no such path"
    )


def _look(sources: list[Source], cache: Path) -> Listing:
    found = _listed(sources)

    def peek(item: Item, path: Path) -> None:
        download.fetch_file(found, item, path)

    for _ in range(MOST_ROUNDS - 1):
        try:
            return listing.identified(found, cache, peek)
        except Incomplete:  # changed since it was listed
            found = _listed(sources)
    return listing.identified(found, cache, peek)


def _listed(sources: list[Source]) -> Listing:
    with source.variables(source.PATIENCE):
        return listing.take(sources)


def _brought(
    address: str, found: Listing, cache: Path, look_again: Callable[[], Listing]
) -> Path | None:
    """Give the model's path in the cache, when it is there; None where it has changed meanwhile."""
    entry = Entry(cache, found.key())
    path = entry.path / found.items[0].path if found.is_file else entry.path
    if _is_cached(address, entry, found):
        return path
    started = time.monotonic()
    with entry.drafting() as draft:
        if _is_cached(address, entry, found):  # by the one that was waited for
            entry.discard()
            return path
        _check_room(entry, cache, [item for item in found.items if not draft.has(item)])
        try:
            download.bring(found, draft)
        except Exception as error:
            # A file that is gone, or has another length, may be that of another model.
            is_lost = isinstance(error, Incomplete) or not passes(error)
            if not (is_lost and found.has_become(look_again())):
                raise
            entry.discard()
            return None
        if found.has_become(look_again()):
            entry.discard()
            return None
        entry.publish()
    log.info(
        "fetched %s: %d files, %.1f MB, in %.1f s",
        *(shown(address), len(found.items), found.size / progress.MEGABYTE),
        time.monotonic() - started,
    )
    entry.tidy()
    return path


def _is_cached(address: str, entry: Entry, found: Listing) -> bool:
    if not entry.is_whole(found.items):
        return False
    log.info("%s has not changed since it was fetched: %s", shown(address), entry.path)
    entry.touch()
    return True


def _check_room(entry: Entry, cache: Path, missing: list[Item]) -> None:
    needed = sum(item.size or 0 for item in missing)
    free = entry.make_room(needed)
    if needed > free:
        raise Unfetchable(
            f"it needs {needed / progress.MEGABYTE:.1f} MB more, and the disk of {cache} has "
            f"{free / progress.MEGABYTE:.1f} MB ({VARIABLE})"
        )
