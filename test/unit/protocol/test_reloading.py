from __future__ import annotations

import asyncio
import math
import time

import pytest

from pyfuncserver.errors import DeadlinePassed, LoadFailed, NotReady, ServingError
from pyfuncserver.orders import Action, Outcomes
from pyfuncserver.protocol.reloading import Reloader
from pyfuncserver.scoreboard import Reload, Scoreboard


def change(
    end: Reload | None, why: str = "", deadline: float = math.inf, board: Scoreboard | None = None
) -> None:
    """Ask for a change that ends so as soon as it is asked for; None for one that goes on."""
    outcomes = Outcomes()

    def ask(action: Action, name: str, ticket: int) -> None:
        assert (action, name) == (Action.LOAD, "m")
        if end is not None:
            outcomes.settle(ticket, end, why)

    reloader = Reloader(board or Scoreboard(1), outcomes, ask)
    asyncio.run(reloader.change(Action.LOAD, "m", deadline))


def test_done() -> None:
    change(Reload.DONE)


@pytest.mark.parametrize(
    ("end", "error", "why"),
    [(Reload.FAILED, LoadFailed, "weights are missing"), (Reload.REFUSED, NotReady, "no memory")],
)
def test_what_becomes_of_it_otherwise(end: Reload, error: type[ServingError], why: str) -> None:
    with pytest.raises(error, match=why):
        change(end, "weights are missing")


def test_a_server_that_stops() -> None:
    board = Scoreboard(1)
    board.set_draining()
    with pytest.raises(NotReady, match="stops"):
        change(None, board=board)


def test_the_deadline() -> None:
    with pytest.raises(DeadlinePassed):
        change(None, deadline=time.monotonic() + 0.01)
