from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pyfuncserver.model.assembly import Assembly, Closed, Group
from pyfuncserver.model.batch_size import FixedSize
from pyfuncserver.model.rows import Rows

LATER = 1e6


@dataclass(eq=False)
class Call:
    name: str
    arrived_at: float
    rows: Rows | None
    deadline: float = math.inf

    def __repr__(self) -> str:
        return self.name


class Desk:
    """Hands calls to an assembly, a second apart."""

    def __init__(self, most: int, delay_s: float = 0) -> None:
        self.size = FixedSize(most)
        self.assembly: Assembly[Call] = Assembly(self.size, delay_s)
        self.now = 100.0

    def add(
        self,
        layout: str,
        length: int = 1,
        labels: Iterable[str] = (),
        deadline_s: float = math.inf,
    ) -> Call:
        self.now += 1
        rows = Rows(length, layout, frozenset(labels)) if length else None
        call = Call(f"{layout}{length}", self.now, rows, self.now + deadline_s)
        self.assembly.add(call)
        return call

    def next(self, now: float = LATER) -> Group[Call] | None:
        return self.assembly.next(now)

    def taken(self, now: float = LATER) -> list[tuple[str, Closed | None]]:
        """Take all that goes by then; give each group's calls as text, and why it was closed."""
        groups = []
        while group := self.next(now):
            groups.append((" ".join(map(repr, group.calls)), group.closed))
        return groups


def test_calls_of_one_layout_go_together() -> None:
    desk = Desk(64)
    calls = [desk.add("a", 1), desk.add("a", 2), desk.add("a", 3)]
    group = desk.next()
    assert group is not None
    assert list(group.calls) == calls
    assert (group.length, group.closed, group.arrived_at) == (6, Closed.EMPTY, 101)
    assert desk.next() is None


def test_groups_of_other_layouts_go_in_the_order_in_which_they_came() -> None:
    desk = Desk(64)
    for layout in "abacb":
        desk.add(layout)
    assert desk.taken() == [
        ("a1 a1", Closed.OTHERS),
        ("b1 b1", Closed.OTHERS),
        ("c1", Closed.EMPTY),
    ]


def test_full_group_lets_no_more_in() -> None:
    desk = Desk(4)
    for length in (2, 2, 1):
        desk.add("a", length)
    assert desk.taken() == [("a2 a2", Closed.FULL), ("a1", Closed.EMPTY)]


def test_call_that_does_not_fit_begins_the_next_group() -> None:
    desk = Desk(4)
    for length in (3, 2, 2, 1):
        desk.add("a", length)
    assert desk.taken() == [
        ("a3", Closed.FULL),
        ("a2 a2", Closed.FULL),
        ("a1", Closed.EMPTY),
    ]


def test_call_larger_than_any_group_goes_alone() -> None:
    desk = Desk(4)
    for length in (1, 9, 1):
        desk.add("a", length)
    assert desk.taken() == [("a1 a1", Closed.OTHERS), ("a9", Closed.FULL)]


def test_call_without_rows_goes_alone() -> None:
    desk = Desk(4)
    desk.add("a", 0)
    desk.add("a", 0)
    desk.add("a", 1)
    assert desk.taken() == [
        ("a0", Closed.ALONE),
        ("a0", Closed.ALONE),
        ("a1", Closed.EMPTY),
    ]


def test_two_rows_of_one_name_are_never_together() -> None:
    desk = Desk(4)
    desk.add("a", 2, ["p", "q"])
    desk.add("a", 1, ["r"])
    desk.add("a", 1, ["q"])
    assert [calls for calls, _ in desk.taken()] == ["a2 a1", "a1"]


def test_name_of_a_row_that_has_gone_is_free() -> None:
    desk = Desk(4)
    desk.add("a", 1, ["p"])
    gone = desk.add("a", 2, ["q", "r"])
    assert desk.assembly.discard(gone)
    desk.add("a", 3, ["q", "r", "s"])
    assert desk.taken() == [("a1 a3", Closed.FULL)]


def test_size_of_one_puts_nothing_together() -> None:
    desk = Desk(1)
    desk.add("a")
    desk.add("a")
    assert desk.taken() == [("a1", Closed.FULL)] * 2


def test_size_may_change_at_any_time() -> None:
    desk = Desk(2)
    desk.add("a")
    desk.size.rows = 3
    desk.add("a")
    desk.add("a")
    assert desk.taken() == [("a1 a1 a1", Closed.FULL)]


def test_group_is_held_until_its_first_call_has_waited_for_the_delay() -> None:
    desk = Desk(64, delay_s=10)
    desk.add("a")
    desk.add("a")
    assert desk.assembly.due_at == 111
    assert desk.next(110.9) is None
    desk.add("a")
    assert desk.taken(111) == [("a1 a1 a1", Closed.DELAY)]


def test_full_group_is_not_held() -> None:
    desk = Desk(2, delay_s=10)
    desk.add("a")
    desk.add("b")
    desk.add("b")
    assert desk.taken(103) == [("b1 b1", Closed.FULL)]
    assert desk.taken(111) == [("a1", Closed.DELAY)]


def test_held_group_does_not_wait_behind_full_ones() -> None:
    desk = Desk(2, delay_s=10)
    desk.add("a")
    for _ in range(4):
        desk.add("b")
    assert desk.taken(112) == [
        ("a1", Closed.DELAY),
        ("b1 b1", Closed.FULL),
        ("b1 b1", Closed.FULL),
    ]


def test_call_is_held_for_no_more_than_half_of_its_time() -> None:
    desk = Desk(64, delay_s=10)
    desk.add("a")
    desk.add("a", deadline_s=4)
    assert desk.assembly.due_at == 104
    assert desk.taken(104) == [("a1 a1", Closed.DELAY)]


def test_discarded_call_is_nowhere_any_more() -> None:
    desk = Desk(2)
    calls = [desk.add("a"), desk.add("a"), desk.add("a"), desk.add("a", 0)]
    assert [desk.assembly.discard(call) for call in calls] == [True] * 4
    assert [desk.assembly.discard(call) for call in calls] == [False] * 4
    assert desk.taken() == []
    assert desk.assembly.due_at == math.inf
    assert not desk.assembly.has_next()


def test_taken_call_cannot_be_discarded() -> None:
    desk = Desk(2)
    call = desk.add("a")
    desk.taken()
    assert not desk.assembly.discard(call)


def test_group_is_next_only_where_none_came_before_it() -> None:
    desk = Desk(2)
    desk.add("a")
    assert not desk.assembly.has_next(), "more may fit"
    desk.add("b")
    desk.add("b")
    assert not desk.assembly.has_next(), "a came before"
    desk.add("a")
    assert desk.assembly.has_next()


def test_calls_that_are_put_first_go_alone_and_before_all() -> None:
    desk = Desk(64)
    desk.add("a")
    desk.add("b", 0)
    calls = [Call(name, 0, Rows(1, "a")) for name in "xyz"]
    for call in reversed(calls):
        desk.assembly.put_first(call)
    assert desk.taken() == [
        ("x", Closed.ALONE),
        ("y", Closed.ALONE),
        ("z", Closed.ALONE),
        ("a1", Closed.OTHERS),
        ("b0", Closed.ALONE),
    ]
