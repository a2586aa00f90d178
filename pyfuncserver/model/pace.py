"""Pace: whether predictions are short enough to be run where clients are served.

A thread of its own for a prediction costs some 50 us of a processor. A prediction on the thread of
the loop saves them, and holds up everybody meanwhile: so only what has proved short runs there, and
what held everybody up for long has to prove itself for as long as it takes to earn that back.
"""

from __future__ import annotations

SHORT_S = 0.000_5
"""What proves short; of these the loop may have as many in a row as there are connections."""

SLOW_S = 0.001
"""What is not short any more, if it is not the exception."""

LONG_S = 0.01
"""What is too long even once."""

SLOW_ONES = 20
"""Slow ones that are too many, if there are not ten times as many that are not."""

FIRST_PROOF = 100
"""How many in a row have to be short at first."""

LONGEST_PROOF = 1_000_000

SAVED_S = 0.000_05
"""What the loop saves by running a prediction itself; about what handing it over costs."""


class Pace:
    """Judges a lane's jobs by their times. Call it with the lane's lock held.

    A model that is long now and then would stop the loop again and again. So whoever has stopped it
    for a time has to be short so often that the loop would have saved that time, and at least twice
    as often as before; that is forgiven when as many have been short on the loop.
    """

    def __init__(self) -> None:
        self.is_short = False
        self._proof = FIRST_PROOF
        self._short_ones = 0
        self._slowness = 0

    def note_on_thread(self, took_s: float) -> None:
        """Learn from a job that ran on a thread."""
        if took_s >= SHORT_S:
            self._short_ones = 0
            # It began before the others had proved short.
            self.is_short = self.is_short and took_s < LONG_S
            return
        self._short_ones += 1
        if self._short_ones >= self._proof and not self.is_short:
            self.is_short = True
            self._short_ones = self._slowness = 0

    def note_on_loop(self, took_s: float) -> None:
        """Learn from a job that ran on the loop."""
        self._short_ones += 1
        if took_s >= SLOW_S:
            self._slowness += 10
            if took_s >= LONG_S or self._slowness >= 10 * SLOW_ONES:
                self._fall(took_s)
        elif self._slowness:
            self._slowness -= 1

    def _fall(self, took_s: float) -> None:
        """Send jobs back to the threads until they have proved short again."""
        if self._short_ones > self._proof:
            self._proof = FIRST_PROOF
        earned_back = int(took_s / SAVED_S)
        self._proof = min(max(2 * self._proof, earned_back), LONGEST_PROOF)
        self._short_ones = 0
        self.is_short = False
