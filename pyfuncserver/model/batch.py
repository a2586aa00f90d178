"""A batch: calls that go to the model together, and what becomes of each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from pyfuncserver.errors import ServingError
from pyfuncserver.model.batch_size import BatchSize
from pyfuncserver.model.call import Answer, Call, Predictions
from pyfuncserver.model.plain import Prepared
from pyfuncserver.model.pyfunc import failure_of
from pyfuncserver.model.rows import NotByRow, Rows, is_by_row, rows_of, split, stacked, takes_rows
from pyfuncserver.model.streaming import whole
from pyfuncserver.utils import logs

if TYPE_CHECKING:
    from pyfuncserver.model.spans import PredictionSpan

log = logging.getLogger(__name__)

_UNPREPARED = Prepared(None, None)


class Member(Protocol):
    """One of the jobs that may run together; an object is one job. None of these raises."""

    @property
    def id(self) -> str: ...

    @property
    def arrived_at(self) -> float: ...

    @property
    def deadline(self) -> float: ...

    @property
    def span(self) -> PredictionSpan | None:
        """Its span, where it is traced; then all are."""

    def open(self, prepare: Callable[[Call], Any]) -> tuple[Call, Any] | None:
        """Give the call, and what ``prepare`` makes of it.

        None where it is settled, or fails, which :meth:`finish` tells.
        """

    def begin(self) -> bool:
        """Be handed to the model; False where it is settled, or too late, which finish tells."""

    def answer(self, make: Callable[[], Answer]) -> None:
        """Have the answer that this gives, or the ServingError that it raises."""

    def stream(self, call: Call, beat: Callable[[], None]) -> None:
        """Be answered part by part, and ``beat`` whenever the model has made one."""

    def finish(self) -> None:
        """Tell of it, when its place is free for the next."""

    def time_out(self) -> None:
        """Take note that the model takes longer than the limit; it still runs."""


class Divisible(Protocol):
    """A model whose input is prepared apart from the call, which so may be one for many."""

    @property
    def input_schema(self) -> Any: ...

    def prepare(self, call: Call) -> Prepared: ...

    def invoke(self, prepared: Prepared) -> Any: ...


class Ticket:
    """A member that waits, and its input once that is opened."""

    __slots__ = ("arrived_at", "call", "deadline", "member", "prepared", "rows")

    def __init__(self, member: Member) -> None:
        self.member = member
        self.arrived_at = member.arrived_at
        self.deadline = member.deadline
        self.call: Call
        self.prepared: Prepared
        self.rows: Rows | None = None
        """None also where it has to go alone."""


class Batcher:
    """Opens calls, and runs those that have been put together. Thread-safe where the model is."""

    def __init__(self, model: Divisible, size: BatchSize) -> None:
        self._model = model
        self._size = size
        self._schema = model.input_schema
        self._may_share = takes_rows(self._schema)

    def open(self, ticket: Ticket) -> bool:
        """Decode and prepare a ticket's input; False where that settles it."""
        opened = ticket.member.open(self._prepare)
        if opened is None:
            return False
        ticket.call, ticket.prepared = opened
        if self._may_share and ticket.call.parts is None:
            ticket.rows = self._rows(ticket.call, ticket.prepared)
        return True

    def run_alone(self, ticket: Ticket, beat: Callable[[], None]) -> None:
        """Answer one call, as if there were no batches; see :meth:`Member.stream`."""
        if ticket.call.parts is None:
            ticket.member.answer(partial(self._answer, ticket))
        else:
            ticket.member.stream(ticket.call, beat)

    def run_together(self, tickets: Sequence[Ticket]) -> bool:
        """Answer them by one call of the model; False where each has to be run alone, unanswered.

        For the model has failed, or its answer is not theirs, after which none is put together.
        """
        if not self._may_share:
            return False
        mark = logs.mark(f"{tickets[0].member.id}+{len(tickets) - 1}")
        try:
            with _traced(tickets):
                values = self._invoke(tickets)
        except NotByRow as error:
            self._may_share = False
            log.warning("batching is off from now on: the model answers a batch with %s", error)
            return False
        except BaseException as error:  # noqa: BLE001  each call alone tells whose fault it is
            log.info(
                "%d calls failed together and are run one by one: %s",
                len(tickets), type(error).__name__,
            )  # fmt: skip
            return False
        finally:
            logs.unmark(mark)
        for ticket, value in zip(tickets, values, strict=True):
            ticket.member.answer(partial(Predictions, value, ticket.call))
        return True

    def _prepare(self, call: Call) -> Prepared:
        if call.parts is not None:  # it runs as a whole, and alone
            return _UNPREPARED
        with _Blaming(call):
            return self._model.prepare(call)

    def _rows(self, call: Call, prepared: Prepared) -> Rows | None:
        by_row = is_by_row(call.payload, self._schema)
        return rows_of(prepared.data, prepared.params, is_by_row=by_row)

    def _answer(self, ticket: Ticket) -> Answer:
        started = time.monotonic()
        with _traced([ticket]), _Blaming(ticket.call):
            value = whole(self._model.invoke(ticket.prepared))
        if ticket.rows is not None:
            self._size.observe(ticket.rows.length, time.monotonic() - started)
        return Predictions(value, ticket.call)

    def _invoke(self, tickets: Sequence[Ticket]) -> list[Any]:
        counts = [ticket.rows.length for ticket in tickets if ticket.rows is not None]
        started = time.monotonic()
        data = stacked([ticket.prepared.data for ticket in tickets])
        index = data.index if isinstance(data, pd.DataFrame) else None
        answer = self._model.invoke(replace(tickets[0].prepared, data=data))
        values = split(answer, counts, index)
        self._size.observe(sum(counts), time.monotonic() - started)
        return values


def _traced(tickets: Sequence[Ticket]) -> AbstractContextManager[object]:
    """Have what is done inside be the run of these calls, where they are traced."""
    first, *others = (ticket.member.span for ticket in tickets)
    if first is None:
        return nullcontext()
    return first.run_with([span for span in others if span is not None], tickets[0].call.form)


class _Blaming:
    """Turns what the user's model raises inside into the ServingError that its client gets."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is not None and not isinstance(error, ServingError):
            raise failure_of(error, self._call) from error
