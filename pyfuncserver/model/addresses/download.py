"""Bring a model's files into a draft: several at a time, and again where the line broke."""

from __future__ import annotations

import logging
import random
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from pyfuncserver.model.addresses import progress
from pyfuncserver.model.addresses.cache import Draft
from pyfuncserver.model.addresses.failure import Incomplete, passes
from pyfuncserver.model.addresses.listing import Item, Listing
from pyfuncserver.model.addresses.redaction import shown

FILES_AT_A_TIME = 4
ATTEMPTS = 5
FIRST_PAUSE_S = 0.5
LOOK_INTERVAL_S = 0.2

log = logging.getLogger(__name__)


def bring(listing: Listing, draft: Draft) -> None:
    """Fetch every file that the draft does not have yet.

    Raises: whatever the store's library does, at the first file that cannot be fetched; what has
    arrived stays in the draft.
    """
    there = sum(item.size or 0 for item in listing.items if draft.has(item))
    missing = [item for item in listing.items if not draft.has(item)]
    if there:
        log.info("%.1f MB are there from an earlier attempt", there / progress.MEGABYTE)
    stop = threading.Event()
    pool = ThreadPoolExecutor(FILES_AT_A_TIME, thread_name_prefix="fetch")
    try:
        pending: dict[Future[None], Item] = {}
        for number, item in enumerate(missing):
            pending[pool.submit(_bring_one, listing, item, draft, number, stop)] = item
        with progress.told(listing.size) as tell:
            while pending:
                done, _ = wait(pending, LOOK_INTERVAL_S, FIRST_COMPLETED)
                for future in done:
                    there += pending.pop(future).size or 0
                    future.result()
                tell(there + draft.arriving_bytes())
    finally:
        # After a failure the others are not waited for: a large file takes long, and nobody
        # looks into the draft's parts again.
        stop.set()
        pool.shutdown(wait=not pending, cancel_futures=True)


def _bring_one(
    listing: Listing, item: Item, draft: Draft, number: int, stop: threading.Event
) -> None:
    part = draft.part(number)
    fetch_file(listing, item, part, stop)
    draft.put(part, item)


def fetch_file(
    listing: Listing, item: Item, path: Path, stop: threading.Event | None = None
) -> None:
    """Fetch a file, with pauses between attempts that become longer.

    Raises: the last attempt's error; an error that will not pass by itself at once.
    """
    stop = stop or threading.Event()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            # The one method that every repository has; part of the interface for plugins.
            listing.source.repository._download_file(item.path, str(path))
            _check_size(item, path)
        except Exception as error:
            path.unlink(missing_ok=True)
            if attempt == ATTEMPTS or stop.is_set() or not passes(error):
                raise
            pause_s = FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(1, 1.5)
            log.warning(
                "%s broke off (%s); attempt %d of %d in %.1f s",
                *(item.path, shown(f"{type(error).__name__}: {error}")),
                *(attempt + 1, ATTEMPTS, pause_s),
            )
            stop.wait(pause_s)
        else:
            return


def _check_size(item: Item, path: Path) -> None:
    size = path.stat().st_size
    if item.size is not None and size != item.size:
        raise Incomplete(f"{item.path} has come with {size} of {item.size} bytes")
