from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from pyfuncserver.model.batch_size import LARGEST, FixedSize, MeasuredSize

Cost = Callable[[int], float]
"""Seconds that a batch of so many rows takes."""


def cost(call_s: float, row_s: float) -> Cost:
    return lambda rows: call_s + row_s * rows


def settle(size: MeasuredSize, cost: Cost, batches: int = 400, waiting: int = 10_000) -> int:
    """Run batches as full as may be of what waits; give the size most of them had."""
    sizes = []
    for _ in range(batches):
        rows = min(size.rows, waiting)
        sizes.append(size.rows)
        size.observe(rows, cost(rows))
    return max(set(sizes), key=sizes.count)


def test_set_size_stays() -> None:
    size = FixedSize(7)
    size.observe(7, 1000)
    assert size.rows == 7


def test_model_that_costs_by_the_call_gets_the_largest_batches() -> None:
    assert settle(MeasuredSize(), cost(0.003, 0.000_001)) == LARGEST


def test_model_that_costs_by_the_row_gets_single_calls() -> None:
    size = MeasuredSize()
    assert settle(size, cost(0, 0.01), batches=4000) == 1
    assert size.rows == 1


@pytest.mark.parametrize("ratio", [1, 3, 10, 20, 40])
def test_size_ends_where_a_row_is_cheap_and_a_batch_is_soon_over(ratio: int) -> None:
    row_s = 0.000_1
    model = cost(ratio * row_s, row_s)
    found = settle(MeasuredSize(), model)
    assert 3 * ratio <= found <= 8 * ratio
    assert model(found) / found <= 1.34 * row_s
    assert model(found) <= 9 * model(1)


@pytest.mark.parametrize("edge", [2, 8, 32, 100])
def test_size_stays_below_a_cliff(edge: int) -> None:
    def cliff(rows: int) -> float:
        return (0.003 if rows <= edge else 0.3) + 0.000_001 * rows

    size = MeasuredSize()
    found = settle(size, cliff, batches=5000)
    assert edge / 2 < found <= edge


def test_size_past_a_cliff_is_tried_ever_more_seldom() -> None:
    size, slow = MeasuredSize(), []

    def cliff(rows: int) -> float:
        slow.append(rows > 16)
        return 0.003 if rows <= 16 else 0.3

    settle(size, cliff, batches=20_000)
    assert sum(slow[:200]) <= 18
    assert sum(slow) < 0.006 * len(slow)


def test_size_follows_a_model_that_changes() -> None:
    size = MeasuredSize()
    assert settle(size, cost(0.003, 0.000_001)) == LARGEST
    assert settle(size, cost(0.000_01, 0.003), batches=2000) == 1
    assert settle(size, cost(0.003, 0.000_001), batches=20_000) == LARGEST


def test_machine_that_becomes_slower_does_not_lower_the_size_for_good() -> None:
    size = MeasuredSize()
    settle(size, cost(0.003, 0.000_001))
    settle(size, cost(0.03, 0.000_01), batches=2000)
    assert size.rows == LARGEST


def test_batch_that_takes_long_is_not_doubled() -> None:
    size = MeasuredSize()
    settle(size, lambda rows: 0.02 * rows**0.6)
    assert size.rows == 16
    assert 0.02 * 16**0.6 > 0.1 >= 0.02 * 8**0.6


def test_model_whose_single_call_takes_long_still_gets_batches() -> None:
    assert settle(MeasuredSize(), cost(2, 0.000_001)) == LARGEST


def test_size_does_not_grow_beyond_what_waits() -> None:
    size = MeasuredSize()
    settle(size, cost(0.003, 0), waiting=5)
    assert size.rows == 8, "5 rows count for 8; 16 would need 9"


def test_calls_with_more_rows_than_the_size_let_it_grow() -> None:
    size = MeasuredSize()
    model = cost(0.003, 0.000_001)
    for _ in range(200):
        calls = max(1, size.rows // 5)
        size.observe(calls * 5, model(calls * 5))
    assert size.rows == LARGEST


def test_noise_does_not_lower_the_size_by_much() -> None:
    noise = random.Random(7)
    size, sizes = MeasuredSize(), []
    for _ in range(5000):
        sizes.append(size.rows)
        took = 0.003 * noise.uniform(0.7, 1.3) + (0.1 if noise.random() < 0.05 else 0)
        size.observe(size.rows, took)
    assert sum(rows == LARGEST for rows in sizes) > 0.9 * len(sizes)
