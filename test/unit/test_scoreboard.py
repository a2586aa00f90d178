from __future__ import annotations

from collections.abc import Callable

import pytest

from pyfuncserver import scoreboard
from pyfuncserver.scoreboard import FRESH_S, Reload, Restart, Scoreboard, State

Row = tuple[int, int, State, int]


def rows(board: Scoreboard) -> list[Row]:
    return [(slot.number, slot.pid, slot.state, slot.generation) for slot in board.slots()]


def test_new_board_is_empty_and_not_ready() -> None:
    board = Scoreboard(3)
    assert board.slots() == []
    assert not board.is_ready
    assert not board.is_draining
    assert board.generation == 0
    assert board.boot_failures == 0
    assert all(board.count_of(event) == 0 for event in (*Restart, *Reload))


@pytest.mark.parametrize(
    ("state", "ready"),
    [(State.STARTING, False), (State.READY, True), (State.DRAINING, False)],
)
def test_ready_with_one_ready_worker(state: State, ready: bool) -> None:
    board = Scoreboard(2)
    board.set_slot(1, 77, state, 4)
    board.beat(1)
    assert rows(board) == [(1, 77, state, 4)]
    assert board.is_ready is ready


def test_draining_board_is_not_ready() -> None:
    board = Scoreboard(1)
    board.set_slot(0, 77, State.READY, 1)
    board.beat(0)
    board.set_draining()
    assert board.is_draining
    assert not board.is_ready
    assert rows(board) == [(0, 77, State.READY, 1)]


def test_ready_only_with_a_worker_that_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(scoreboard.time, "monotonic", lambda: now[0])
    board = Scoreboard(2)
    for number in range(2):
        board.set_slot(number, 77 + number, State.READY, 1)
        board.beat(number)
    now[0] += FRESH_S - 1
    assert board.is_ready
    board.beat(1)
    now[0] += 2
    assert [slot.is_serving for slot in board.slots()] == [False, True]
    assert board.is_ready
    now[0] += FRESH_S
    assert not board.is_ready
    assert board.silent_s(0) == pytest.approx(2 * FRESH_S + 1)


def test_a_beat_while_the_silence_is_reckoned(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Scoreboard(1)
    board.beat(0)
    clock = scoreboard._now_ms

    def now() -> int:  # as if the worker beat just before the reader looks at the clock
        monkeypatch.setattr(scoreboard, "_now_ms", lambda: clock() + 5)
        board.beat(0)
        return clock()

    monkeypatch.setattr(scoreboard, "_now_ms", now)
    assert board.silent_s(0) < 60, "not the two and a half months of a wrap"


def test_silence_is_right_when_the_clock_wraps_around(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [(2**32 - 500) / 1000]
    monkeypatch.setattr(scoreboard.time, "monotonic", lambda: now[0])
    board = Scoreboard(1)
    board.beat(0)
    now[0] += 2
    assert board.silent_s(0) == pytest.approx(2)


def test_cleared_slot_leaves_its_neighbours() -> None:
    board = Scoreboard(3)
    for number in range(3):
        board.set_slot(number, 100 + number, State.READY, 1)
    board.clear_slot(1)
    assert [slot.number for slot in board.slots()] == [0, 2]


def test_header_fields_do_not_disturb_each_other() -> None:
    board = Scoreboard(1)
    for times, event in enumerate((*Restart, *Reload), start=1):
        for _ in range(times):
            board.count(event)
    board.set_generation(7)
    board.count_boot_failure()
    board.set_draining()
    board.set_slot(0, 2**31 - 1, State.READY, 2**32 - 1)
    counts = [board.count_of(event) for event in (*Restart, *Reload)]
    assert counts == list(range(1, len(counts) + 1))
    assert board.generation == 7
    assert board.boot_failures == 1
    assert board.is_draining
    assert rows(board) == [(0, 2**31 - 1, State.READY, 2**32 - 1)]


def test_slot_beyond_the_board_is_refused() -> None:
    board = Scoreboard(1)
    with pytest.raises(Exception, match="out of bounds"):
        board.set_slot(1, 1, State.READY, 1)


def test_child_sees_what_the_parent_writes_later(run_script: Callable[..., str]) -> None:
    printed = run_script("""
        import os, select
        from pyfuncserver.scoreboard import Scoreboard, State
        board = Scoreboard(1)
        told, tell = os.pipe()
        if os.fork() == 0:
            os.read(told, 1)
            os._exit(0 if board.is_draining and board.slots()[0].pid == 5 else 1)
        board.set_slot(0, 5, State.READY, 1)
        board.set_draining()
        os.write(tell, b"!")
        print(os.waitstatus_to_exitcode(os.wait()[1]))
    """)
    assert printed.strip() == "0"
