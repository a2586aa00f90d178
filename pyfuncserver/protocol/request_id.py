"""The id of a request: the client's, where it is fit for a log, else a new one."""

from __future__ import annotations

import os
import re

HEADER = "X-Request-Id"
_FIT = re.compile(r"[\x21-\x7e]{1,128}").fullmatch
_DIGITS = 32
_STOCK = 256
"""Ids that are made at a time: to ask the kernel for each costs more than all the rest."""

_stock: list[str] = []
# Or two processes would give the same ids.
os.register_at_fork(after_in_child=_stock.clear)


def take_or_make(given: str | None) -> str:
    """Give the client's id, or a new one where it is missing, too long or not printable ASCII.

    Thread-safe.
    """
    return given if given and _FIT(given) else _make()


def _make() -> str:
    """Give 32 hexadecimal digits, drawn at random."""
    while True:
        try:
            return _stock.pop()
        except IndexError:
            _draw()


def _draw() -> None:
    digits = os.urandom(_STOCK * _DIGITS // 2).hex()
    _stock.extend(digits[at : at + _DIGITS] for at in range(0, len(digits), _DIGITS))
