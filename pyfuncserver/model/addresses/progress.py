"""How far a download is: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MEGABYTE = 1e6
LINE_INTERVAL_S = 5.0

Tell = Callable[[int], None]
"""To be called often, with the bytes that there are now."""

log = logging.getLogger(__name__)


@contextmanager
def told(total: int) -> Iterator[Tell]:
    """Give what tells of the progress towards ``total`` bytes."""
    if total and sys.stderr.isatty():
        with _bar(total) as tell:
            yield tell
    else:
        yield _lines(total)


@contextmanager
def _bar(total: int) -> Iterator[Tell]:
    import click  # MLflow's own dependency

    there = [0]
    size = f"{total / MEGABYTE:.1f} MB"
    with click.progressbar(
        length=total,
        label="fetching the model",
        file=sys.stderr,
        item_show_func=lambda now: f"{now / MEGABYTE:.1f} of {size}" if now else size,
    ) as bar:

        def tell(now: int) -> None:
            # A part that has to be fetched again makes it less: the bar does not go back.
            steps = min(now, total) - there[0]
            if steps > 0:
                there[0] += steps
                bar.update(steps, now)

        yield tell


def _lines(total: int) -> Tell:
    told_at = [time.monotonic()]

    def tell(now: int) -> None:
        if time.monotonic() - told_at[0] < LINE_INTERVAL_S:
            return
        told_at[0] = time.monotonic()
        share = f" of {total / MEGABYTE:.1f} MB ({100 * now // total} %)" if total else " MB"
        log.info("fetching the model: %.1f%s", now / MEGABYTE, share)

    return tell
