"""A reload that a client asks for: the supervisor is told, and what became of it is waited for.

The supervisor counts what it has begun and how each ended in the scoreboard, which is all that
comes back from it; every reload that has begun ends in one way, and at most one is under way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from pyfuncserver.errors import DeadlinePassed, LoadFailed, NotReady
from pyfuncserver.scoreboard import Reload, Scoreboard

POLL_INTERVAL_S = 0.05
LONGEST_LOAD_S = 3600.0
"""Nobody is let wait for longer."""

_BY_HASTE = (Reload.REFUSED, Reload.FAILED, Reload.DONE)
"""What can end soonest after the one before, first: of two ends seen at once it is the last."""


class Watch:
    """Tells how the next reload ends, or one that takes its place. Made before it is asked for."""

    def __init__(self, scoreboard: Scoreboard) -> None:
        self._scoreboard = scoreboard
        self._begun_before = scoreboard.reloads_begun
        self._seen = self._counts()

    def _counts(self) -> dict[Reload, int]:
        return {event: self._scoreboard.count_of(event) for event in Reload}

    def end(self) -> Reload | None:
        """Give how it has ended; None while it has not. To be asked every now and then."""
        counts = self._counts()
        begun = self._scoreboard.reloads_begun
        if begun == self._begun_before or sum(counts.values()) < begun:
            self._seen = counts
            return None
        # None where it was superseded by one that has not begun yet.
        return next((event for event in _BY_HASTE if counts[event] != self._seen[event]), None)


@dataclass(frozen=True)
class Reloader:
    """Has the model loaded again, as ``SIGHUP`` does."""

    scoreboard: Scoreboard
    ask: Callable[[], None]
    """Tells the supervisor."""

    async def reload(self, deadline: float) -> None:
        """Return when the model has been loaded again and all workers serve it.

        Raises: LoadFailed; NotReady where the daemon stops, or has no memory for a second copy;
        DeadlinePassed
        """
        watch = self.begin()
        until = min(deadline, time.monotonic() + LONGEST_LOAD_S)
        # The supervisor writes to memory that all share, so there is nothing to be woken by.
        while not self.is_over(watch, until):  # noqa: ASYNC110
            await asyncio.sleep(POLL_INTERVAL_S)

    def begin(self) -> Watch:
        """Ask for a reload."""
        watch = Watch(self.scoreboard)
        self.ask()
        return watch

    def is_over(self, watch: Watch, until: float) -> bool:
        """Tell whether it has been done. Raises: see :meth:`reload`"""
        end = watch.end()
        if end is Reload.FAILED:
            raise LoadFailed
        if end is Reload.REFUSED:
            raise NotReady("There is no memory for a second copy of the model; the old one serves")
        if end is None and self.scoreboard.is_draining:
            raise NotReady("The server stops")
        if end is None and time.monotonic() >= until:
            raise DeadlinePassed
        return end is not None
