"""``X-Request-Timeout``: how many seconds a client waits for its answer."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyfuncserver.errors import InvalidInput

HEADER = "X-Request-Timeout"
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")


def of(value: str | None) -> float:
    """Give the deadline that a header's value sets, from now on, by :func:`time.monotonic`.

    Raises: InvalidInput
    """
    if value is None:
        return math.inf
    seconds = float(value) if _SECONDS.fullmatch(value) else 0.0
    if not 0 < seconds < math.inf:
        raise InvalidInput(f"{HEADER} is not a positive number of seconds: {value[:40]!r}")
    return time.monotonic() + seconds


@contextmanager
def alarm(
    loop: asyncio.AbstractEventLoop, deadline: float, ring: Callable[[], None]
) -> Iterator[None]:
    """Call ``ring`` on the loop at the deadline, unless the block was left before."""
    if deadline == math.inf:
        yield
        return
    timer = loop.call_later(deadline - time.monotonic(), ring)
    try:
        yield
    finally:
        timer.cancel()
