from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

import pytest

from pyfuncserver.errors import DeadlinePassed, LoadFailed, NotReady, ServingError
from pyfuncserver.protocol.reloading import Reloader, Watch
from pyfuncserver.scoreboard import Reload, Scoreboard

Step = Callable[[Scoreboard], None]


def begin(board: Scoreboard) -> None:
    board.count_reload()


def ends(end: Reload) -> Step:
    return lambda board: board.count(end)


def seen(*steps: Step, board: Scoreboard | None = None) -> list[Reload | None]:
    """Tell what a watch tells after each step."""
    board = board or Scoreboard(1)
    watch = Watch(board)
    found = []
    for step in steps:
        step(board)
        found.append(watch.end())
    return found


@pytest.mark.parametrize("end", [Reload.DONE, Reload.FAILED, Reload.REFUSED])
def test_an_end(end: Reload) -> None:
    assert seen(begin, ends(end)) == [None, end]


@pytest.mark.parametrize("end", [Reload.DONE, Reload.FAILED])
def test_the_end_of_one_that_had_begun_before_is_not_ours(end: Reload) -> None:
    board = Scoreboard(1)
    begin(board)
    steps = (ends(end), begin, ends(Reload.DONE))
    assert seen(*steps, board=board) == [None, None, Reload.DONE]


def test_the_end_of_one_that_superseded_ours() -> None:
    steps = (begin, ends(Reload.SUPERSEDED), begin, ends(Reload.DONE))
    assert seen(*steps) == [None, None, None, Reload.DONE]


def test_two_ends_seen_at_once() -> None:
    board = Scoreboard(1)
    begin(board)
    watch = Watch(board)
    for step in (ends(Reload.DONE), begin, ends(Reload.REFUSED)):
        step(board)
    assert watch.end() is Reload.REFUSED


def reload(board: Scoreboard, *steps: Step, deadline: float = math.inf) -> None:
    def ask() -> None:
        for step in steps:
            step(board)

    asyncio.run(Reloader(board, ask).reload(deadline))


def test_reload() -> None:
    reload(Scoreboard(1), begin, ends(Reload.DONE))


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ((begin, ends(Reload.FAILED)), LoadFailed),
        ((begin, ends(Reload.REFUSED)), NotReady),
        ((Scoreboard.set_draining,), NotReady),
    ],
)
def test_what_becomes_of_it_otherwise(steps: tuple[Step, ...], error: type[ServingError]) -> None:
    with pytest.raises(error):
        reload(Scoreboard(1), *steps)


def test_the_deadline() -> None:
    with pytest.raises(DeadlinePassed):
        reload(Scoreboard(1), begin, deadline=time.monotonic() + 0.01)
