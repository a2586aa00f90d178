"""Models that a client wants loaded, or not any more: the supervisor is told, and waited for.

A client's ticket goes up with what it wants; what became of that is found by it, in memory that all
processes share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from pyfuncserver.errors import DeadlinePassed, LoadFailed, NotReady
from pyfuncserver.orders import Action, Outcomes, new_ticket
from pyfuncserver.scoreboard import Reload, Scoreboard

POLL_INTERVAL_S = 0.05
LONGEST_LOAD_S = 3600.0
"""Nobody is let wait for longer."""


@dataclass(frozen=True)
class Reloader:
    """Has models loaded, again or for the first time, or not any more."""

    scoreboard: Scoreboard
    outcomes: Outcomes
    ask: Callable[[Action, str, int], None]
    """Tells the supervisor what a client wants for which name, under which ticket."""
    exists: Callable[[str], bool] = lambda _: False
    """Tells whether there is something to be loaded under a name that no model has yet."""

    async def change(self, action: Action, name: str, deadline: float) -> None:
        """Return when all workers serve what is wanted.

        Raises: LoadFailed; NotReady where the daemon stops, or has no memory for a second copy;
        DeadlinePassed
        """
        ticket = self.begin(action, name)
        until = min(deadline, time.monotonic() + LONGEST_LOAD_S)
        # The supervisor writes to memory that all share, so there is nothing to be woken by.
        while not self.is_over(ticket, until):  # noqa: ASYNC110
            await asyncio.sleep(POLL_INTERVAL_S)

    def begin(self, action: Action, name: str) -> int:
        """Ask for a change; give its ticket."""
        ticket = new_ticket()
        self.ask(action, name, ticket)
        return ticket

    def is_over(self, ticket: int, until: float) -> bool:
        """Tell whether it has been done. Raises: see :meth:`change`"""
        outcome = self.outcomes.of(ticket)
        if outcome is None:
            if self.scoreboard.is_draining:
                raise NotReady("The server stops")
            if time.monotonic() >= until:
                raise DeadlinePassed
            return False
        end, why = outcome
        if end is Reload.FAILED:
            raise LoadFailed(why)
        if end is Reload.REFUSED:
            raise NotReady("There is no memory for a second copy of the models; the old ones serve")
        return True
