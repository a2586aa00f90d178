from __future__ import annotations

from collections.abc import Callable

import pytest

from pyfuncserver.scoreboard import Scoreboard, Slot, State


def test_new_board_is_empty_and_not_ready() -> None:
    board = Scoreboard(3)
    assert board.slots() == []
    assert not board.is_ready
    assert not board.is_draining
    assert board.generation == 0
    assert board.restarts == {"signal": 0, "exit": 0}


@pytest.mark.parametrize(
    ("state", "ready"),
    [(State.STARTING, False), (State.READY, True), (State.DRAINING, False)],
)
def test_ready_with_one_ready_worker(state: State, ready: bool) -> None:
    board = Scoreboard(2)
    board.set_slot(1, 77, state, 4)
    assert board.slots() == [Slot(1, 77, state, 4)]
    assert board.is_ready is ready


def test_draining_board_is_not_ready() -> None:
    board = Scoreboard(1)
    board.set_slot(0, 77, State.READY, 1)
    board.set_draining()
    assert board.is_draining
    assert not board.is_ready
    assert board.slots() == [Slot(0, 77, State.READY, 1)]


def test_cleared_slot_leaves_its_neighbours() -> None:
    board = Scoreboard(3)
    for number in range(3):
        board.set_slot(number, 100 + number, State.READY, 1)
    board.clear_slot(1)
    assert [slot.number for slot in board.slots()] == [0, 2]


def test_header_fields_do_not_disturb_each_other() -> None:
    board = Scoreboard(1)
    board.count_restart(by_signal=True)
    board.set_generation(7)
    board.count_restart(by_signal=True)
    board.count_restart(by_signal=False)
    board.set_draining()
    board.set_slot(0, 2**31 - 1, State.READY, 2**32 - 1)
    assert board.restarts == {"signal": 2, "exit": 1}
    assert board.generation == 7
    assert board.is_draining
    assert board.slots() == [Slot(0, 2**31 - 1, State.READY, 2**32 - 1)]


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
