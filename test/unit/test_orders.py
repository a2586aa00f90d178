from __future__ import annotations

import random
from collections import deque

from pyfuncserver.orders import (
    NO_ORDERS,
    TICKETS_KEPT,
    Action,
    Change,
    Orders,
    Outcomes,
    new_ticket,
    put,
)
from pyfuncserver.scoreboard import Reload


def test_orders_that_follow() -> None:
    gone = NO_ORDERS.after(Action.UNLOAD, "a").after(Action.UNLOAD, "b")
    assert (gone.absent, gone.asked, gone.wanted) == ({"a", "b"}, "b", "")
    back = gone.after(Action.LOAD, "a")
    assert (back.absent, back.asked, back.wanted) == ({"b"}, "a", "a")


def test_what_is_demanded() -> None:
    orders = Orders(required=frozenset(["b-1"])).after(Action.LOAD, "a")
    assert orders.demands("a", "a-1")
    assert orders.demands("b", "b-1")
    assert not orders.demands("b", "b-2")
    assert not orders.after(Action.UNLOAD, "a").demands("a", "a-1")
    assert not NO_ORDERS.demands("a", "a-1")


def test_wishes_that_wait() -> None:
    waiting: deque[Change] = deque()
    put(waiting, Action.LOAD, "a", 1)
    put(waiting, Action.LOAD, "b", 2)
    put(waiting, Action.LOAD, "a", 3)
    put(waiting, Action.UNLOAD, "a", 4)
    put(waiting, Action.LOAD, "a", 5)  # not with those before the unload
    assert [(change.action.value, change.name, change.tickets) for change in waiting] == [
        ("load", "a", [1, 3]),
        ("load", "b", [2]),
        ("unload", "a", [4]),
        ("load", "a", [5]),
    ]


def test_tickets_are_not_those_of_a_model_that_seeds() -> None:
    random.seed(42)
    first = new_ticket()
    random.seed(42)
    assert new_ticket() != first


def test_outcomes_by_their_tickets() -> None:
    outcomes = Outcomes()
    first, second = new_ticket(), new_ticket()
    assert outcomes.of(first) is None
    outcomes.settle(first, Reload.FAILED, "wéights are missing")
    outcomes.settle(second, Reload.DONE)
    assert outcomes.of(first) == (Reload.FAILED, "wéights are missing")
    assert outcomes.of(second) == (Reload.DONE, "")


def test_only_the_last_outcomes_are_kept() -> None:
    outcomes = Outcomes()
    for ticket in range(1, TICKETS_KEPT + 2):
        outcomes.settle(ticket, Reload.DONE)
    assert outcomes.of(1) is None
    assert outcomes.of(2) == (Reload.DONE, "")
    assert outcomes.of(TICKETS_KEPT + 1) == (Reload.DONE, "")


def test_reasons_that_are_too_long_are_cut() -> None:
    outcomes = Outcomes()
    outcomes.settle(7, Reload.FAILED, "é" * 1000)
    found = outcomes.of(7)
    assert found is not None
    assert found[1].startswith("é" * 200)
