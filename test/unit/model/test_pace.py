from __future__ import annotations

import random

import pytest

from pyfuncserver.model.pace import (
    FIRST_PROOF,
    LONG_S,
    LONGEST_PROOF,
    SAVED_S,
    SHORT_S,
    SLOW_ONES,
    SLOW_S,
    Pace,
)

SHORT, BETWEEN, SLOW, LONG = SHORT_S / 2, (SHORT_S + SLOW_S) / 2, SLOW_S * 2, LONG_S * 2


def prove(pace: Pace, most: int = 10 * LONGEST_PROOF) -> int:
    """Let jobs on threads be short until that is proof; give how many it took."""
    for number in range(most):
        if pace.is_short:
            return number
        pace.note_on_thread(SHORT)
    raise AssertionError(f"not after {most}")


def test_at_first_nothing_is_short() -> None:
    assert not Pace().is_short
    assert prove(Pace()) == FIRST_PROOF


@pytest.mark.parametrize("took_s", [SHORT_S, SLOW, LONG])
def test_one_that_is_not_short_undoes_the_proof(took_s: float) -> None:
    pace = Pace()
    for _ in range(10):
        for _ in range(FIRST_PROOF - 1):
            pace.note_on_thread(SHORT)
        pace.note_on_thread(took_s)
    assert not pace.is_short
    assert prove(pace) == FIRST_PROOF


def test_one_long_one_on_the_loop_ends_it() -> None:
    pace = Pace()
    prove(pace)
    for _ in range(1000):
        pace.note_on_loop(BETWEEN)
    assert pace.is_short
    pace.note_on_loop(LONG)
    assert not pace.is_short


def test_slow_ones_end_it_where_they_are_not_the_exception() -> None:
    pace = Pace()
    prove(pace)
    for _ in range(SLOW_ONES - 1):
        pace.note_on_loop(SLOW)
    assert pace.is_short
    pace.note_on_loop(SLOW)
    assert not pace.is_short
    prove(pace)
    for number in range(5000):
        pace.note_on_loop(SHORT if number % 20 else SLOW)
    assert pace.is_short


def test_a_long_one_has_to_be_earned_back() -> None:
    pace = Pace()
    prove(pace)
    pace.note_on_loop(2.0)
    assert prove(pace) == 2.0 / SAVED_S


def test_each_fall_demands_a_longer_proof_within_a_bound() -> None:
    pace = Pace()
    proofs = []
    for _ in range(16):
        proofs.append(prove(pace))
        pace.note_on_loop(LONG_S)
    assert proofs[:4] == [FIRST_PROOF, 2 * FIRST_PROOF, 4 * FIRST_PROOF, 8 * FIRST_PROOF]
    assert proofs[-1] == LONGEST_PROOF


def test_a_fall_is_forgiven_when_it_is_earned_back() -> None:
    pace = Pace()
    for _ in range(4):
        prove(pace)
        pace.note_on_loop(LONG_S)
    for _ in range(prove(pace) + 1):
        pace.note_on_loop(SHORT)
    pace.note_on_loop(LONG_S)
    assert prove(pace) == 2 * FIRST_PROOF


def test_a_long_one_that_began_on_a_thread_ends_it_too() -> None:
    pace = Pace()
    prove(pace)
    pace.note_on_thread(SLOW)
    assert pace.is_short
    pace.note_on_thread(LONG)
    assert not pace.is_short
    assert prove(pace) == FIRST_PROOF, "it has held up nobody"


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
def test_a_model_that_is_long_now_and_then_stops_the_loop_a_few_times_only(share: float) -> None:
    draw = random.Random(1).random
    pace, stops = Pace(), 0
    for _ in range(200_000):
        took_s = 2.0 if draw() < share else SHORT
        if pace.is_short:
            stops += took_s > LONG_S
            pace.note_on_loop(took_s)
        else:
            pace.note_on_thread(took_s)
    assert stops <= 1
