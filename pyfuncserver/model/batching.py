"""Batching: calls that wait for the model go to it together.

A model called once with 64 rows is often many times faster than one called 64 times. So the thread
that is free for a prediction takes not one call but what waits, opens it, and hands over as one
input what differs in nothing but its rows. The answer is cut again, and each call gets its part, as
if it had been alone. Nothing is held up for it, unless BATCH_MAX_DELAY_MS says so.

What that asks of a model: that it treats each row by itself, and does no harm when it sees one
twice. For a batch that fails is run again, call by call, so that only the bad one fails; and so is
one whose answer is not a row for each row, after which nothing is put together any more. What a
model makes of all rows (the type of a column that has a null in one of them) is the batch's.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from pyfuncserver.errors import Overloaded
from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.metrics.meters import Where
from pyfuncserver.model.assembly import Assembly, Group
from pyfuncserver.model.batch import Batcher, Member, Ticket
from pyfuncserver.model.lane import Lane


class _Turn:
    """What one thread does at a time, as a :class:`Lane`'s job: gather a batch, and run it."""

    __slots__ = ("_batching", "is_over", "is_running", "opened", "opening", "tickets")

    needs_thread = False

    def __init__(self, batching: BatchingLane) -> None:
        self._batching = batching
        self.opened = 0
        self.opening: Ticket | None = None
        self.tickets: Sequence[Ticket] = ()
        """What was taken for the model."""
        self.is_running = False
        """It has gathered its batch."""
        self.is_over = False
        """Its place is free, by its end or because it took too long."""

    def run(self, where: Where) -> None:  # noqa: ARG002  always a thread
        self._batching.run(self)

    def finish(self) -> None:
        self._batching.close(self)
        for ticket in self.tickets:
            ticket.member.finish()

    def time_out(self) -> None:
        for ticket in self._batching.lose(self):
            ticket.member.time_out()


class BatchingLane:
    """A lane in which calls that wait run together; one for all the protocols of a worker.

    It stands in the place of a :class:`~pyfuncserver.model.lane.Lane`. Its own ``lane``, which has
    nobody else's jobs, runs at most ``width`` batches at a time; ``depth`` calls more may wait. One
    thread at a time gathers. A batch that runs for longer than the lane's limit is written off with
    its thread, and each of its calls is told so; what waits goes on. Thread-safe.
    """

    def __init__(
        self,
        lane: Lane,
        width: int,
        depth: int,
        batcher: Batcher,
        assembly: Assembly[Ticket],
        instruments: Instruments,
    ) -> None:
        self.limit_s = lane.limit_s
        self.started = 0
        """How many calls have begun so far."""
        self._lane = lane
        self._width = width
        self._depth = depth
        self._batcher = batcher
        self._assembly = assembly
        self._instruments = instruments
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: dict[Member, Ticket] = {}
        """All that wait, whether they have been opened or not."""
        self._arrived: OrderedDict[Ticket, None] = OrderedDict()
        """Those that have not been opened."""
        self._gathering: _Turn | None = None
        self._running = 0

    def submit(self, member: Member) -> None:
        """Let a call go to the model, soon or when it is its turn.

        Raises: Overloaded where as many wait as may.
        """
        with self._lock:
            if len(self._waiting) >= self._depth + self._width - self._running:
                raise Overloaded(self._depth)
            ticket = self._waiting[member] = Ticket(member)
            self._arrived[ticket] = None
            self._find_turn()

    def run_here(self, member: Member) -> bool:  # noqa: ARG002  as a Lane
        """Give False: whoever brings a call waits until it has run with others."""
        return False

    def run_on_loop(self, member: Member) -> bool:  # noqa: ARG002  as a Lane
        """Give False, as :meth:`run_here` does."""
        return False

    def forget(self, member: Member) -> bool:
        """Take out a call that waits, so that its place is free at once; False if it does not."""
        with self._lock:
            ticket = self._waiting.pop(member, None)
            if ticket is None:
                return False
            if ticket in self._arrived:
                del self._arrived[ticket]
            else:  # or it is being opened
                self._assembly.discard(ticket)
            return True

    def restart(self, member: Member) -> None:
        """Do nothing: a turn counts the time of what it runs."""

    def run(self, turn: _Turn) -> None:
        """Gather a batch and run it; a turn's thread calls it."""
        while isinstance(step := self._next_step(turn), Ticket):
            self._open(turn, step)
        if step is None:
            return
        tickets = [ticket for ticket in turn.tickets if ticket.member.begin()]
        self._note(step, tickets)
        if len(tickets) == 1:
            self._batcher.run_alone(tickets[0], partial(self._lane.restart, turn))
        elif tickets and not self._batcher.run_together(tickets):
            self._put_back(turn, tickets)

    def close(self, turn: _Turn) -> None:
        """Free a turn's place, at its end."""
        with self._lock:
            self._free(turn)

    def lose(self, turn: _Turn) -> Sequence[Ticket]:
        """Free the place of a turn that takes too long; give those for whom it does."""
        with self._lock:
            held = turn.tickets if turn.opening is None else [turn.opening]
            return held if self._free(turn) else []

    def _free(self, turn: _Turn) -> bool:
        """Free a turn's place; False where it was free already."""
        if turn.is_over:
            return False
        turn.is_over = True
        if turn.is_running:
            self._running -= 1
        elif self._gathering is turn:
            self._gathering = None
        if turn.opening is not None:
            self._waiting.pop(turn.opening.member, None)
        self._find_turn()
        return True

    def _find_turn(self) -> None:
        """Have somebody gather, where calls wait and a place is free."""
        turn = self._gathering
        if turn is None:
            if self._waiting and self._running < self._width:
                self._gathering = turn = _Turn(self)
                self._lane.submit(turn)
        elif self._lane.forget(turn):  # it has no thread yet; perhaps there was none to be had
            self._lane.submit(turn)
        else:
            self._changed.notify()

    def _next_step(self, turn: _Turn) -> Ticket | Group[Ticket] | None:
        """Give what to open, or what goes to the model; None where nothing waits any more."""
        with self._lock:
            while self._waiting and not turn.is_over:
                if self._may_open(turn):
                    turn.opened += 1
                    turn.opening, _ = self._arrived.popitem(last=False)
                    return turn.opening
                group = self._assembly.next(time.monotonic())
                if group is not None:
                    self._take(turn, group)
                    return group
                turn.opened = 0
                if not self._arrived:
                    self._wait_for_more(turn)
            return None  # what comes until this turn has ended is the next one's

    def _may_open(self, turn: _Turn) -> bool:
        """Tell whether to look at one more, before what is there goes to the model."""
        if not self._arrived or self._assembly.has_next():
            return False
        return turn.opened < self._assembly.size

    def _wait_for_more(self, turn: _Turn) -> None:
        self._lane.restart(turn)
        self._changed.wait(max(0.0, self._assembly.due_at - time.monotonic()))

    def _take(self, turn: _Turn, group: Group[Ticket]) -> None:
        turn.tickets = list(group.calls)
        for ticket in turn.tickets:
            del self._waiting[ticket.member]
        turn.is_running = True
        self._running += 1
        self._gathering = None
        self._lane.restart(turn)
        self._find_turn()

    def _open(self, turn: _Turn, ticket: Ticket) -> None:
        is_open = self._batcher.open(ticket)
        with self._lock:
            turn.opening = None
            if is_open and ticket.member in self._waiting and not turn.is_over:
                self._assembly.add(ticket)
            elif not is_open:
                self._waiting.pop(ticket.member, None)
        if not is_open:
            ticket.member.finish()

    def _note(self, group: Group[Ticket], tickets: Sequence[Ticket]) -> None:
        with self._lock:
            self.started += len(tickets)
        if not tickets or group.closed is None:
            return
        meters = self._instruments
        meters.batches.labels(group.closed.value).inc()
        meters.batch_wait.observe(max(0.0, time.monotonic() - group.arrived_at))
        rows = [ticket.rows.length for ticket in tickets if ticket.rows is not None]
        if rows:
            meters.batch_rows.observe(sum(rows))

    def _put_back(self, turn: _Turn, tickets: Sequence[Ticket]) -> None:
        """Let calls that have failed together go next, one by one."""
        self._instruments.batch_retries.inc()
        with self._lock:
            if turn.is_over:
                return
            turn.tickets = [ticket for ticket in turn.tickets if ticket not in tickets]
            for ticket in reversed(tickets):
                self._waiting[ticket.member] = ticket
                self._assembly.put_first(ticket)
