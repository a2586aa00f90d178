from __future__ import annotations

import pytest

from pyfuncserver.fleet import Fleet, Generation, Loading, RestartBudget, Worker
from pyfuncserver.scoreboard import Restart, State


def test_budget_bears_so_many_deaths_and_no_more() -> None:
    budget = RestartBudget(limit=3, window_s=10)
    assert [budget.spend(now) for now in (0, 1, 2, 3)] == [True, True, True, False]


def test_budget_forgets_deaths_out_of_its_window() -> None:
    budget = RestartBudget(limit=1, window_s=10)
    assert all(budget.spend(now) for now in (0, 11, 22))
    assert not budget.spend(22.5)


def test_budget_of_none_ends_with_the_first() -> None:
    assert not RestartBudget(limit=0, window_s=10).spend(5)


@pytest.mark.parametrize(
    ("loading", "host_pid", "can"),
    [
        (Loading.UNDECIDED, 5, False),
        (Loading.FORKED, 5, True),
        (Loading.FORKED, 0, False),
        (Loading.SEPARATE, 0, True),
    ],
)
def test_workers_start_where_somebody_can_start_them(
    loading: Loading, host_pid: int, can: bool
) -> None:
    assert Generation(1, loading, host_pid=host_pid).can_start_workers is can


@pytest.mark.parametrize(
    ("changes", "is_ready", "is_staying"),
    [
        ({"state": State.STARTING}, False, True),
        ({"state": State.READY}, True, True),
        ({"state": State.DRAINING}, False, False),
        ({"state": State.READY, "is_stuck": True}, False, False),
        ({"state": State.READY, "leaving": Restart.RECYCLED}, True, False),
    ],
)
def test_a_leaving_worker_serves_and_does_not_count(
    changes: dict[str, object], is_ready: bool, is_staying: bool
) -> None:
    worker = Worker(0, Generation(1, Loading.FORKED), 0.0, pid=7, **changes)  # type: ignore[arg-type]
    assert (worker.is_ready, worker.is_staying) == (is_ready, is_staying)


def test_free_slots_are_neither_taken_nor_reserved() -> None:
    current = Generation(1, Loading.FORKED)
    loading = Generation(2, Loading.UNDECIDED, reserved=3)
    fleet = Fleet(5, [Worker(0, current, 0.0, pid=7), Worker(2, current, 0.0)])
    assert fleet.free_slots(current, loading, None) == [1, 4]
    assert fleet.free_slots(current) == [1, 3, 4]


def test_workers_are_found_by_slot_pid_and_generation() -> None:
    one, two = Generation(1, Loading.FORKED), Generation(2, Loading.FORKED)
    first, second = Worker(0, one, 0.0, pid=7), Worker(1, two, 0.0, pid=8)
    fleet = Fleet(4, [first, second])
    assert fleet.in_slot(1) is second
    assert fleet.in_slot(2) is None
    assert fleet.with_pid(7) is first
    assert fleet.of(two) == [second]
    assert not fleet.has_ready
    second.state = State.READY
    assert fleet.has_ready


def test_burying_while_walking_over_the_fleet() -> None:
    generation = Generation(1, Loading.FORKED)
    fleet = Fleet(3, [Worker(slot, generation, 0.0) for slot in range(3)])
    for worker in fleet:
        fleet.workers.remove(worker)
    assert fleet.workers == []
