"""When Python's garbage collector runs, and over what.

It looks for cycles each time that so many containers have come into being, and now and then over
all there are. A loaded model and its libraries are half a million objects of which none will go.
Figures: benchmark/README.md, "The collector".
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

YOUNG_CONTAINERS = 5_000
"""So many new containers make a collection, in place of 700 (2000 from Python 3.13 on).

A body of 78 KB is 1700 lists: now it comes and goes by reference counts alone, for 13 % less CPU.
More does not gain more, and garbage in cycles waits longer; 2000 gained nothing.
"""


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Make what stays without looking for what could go: an import of MLflow takes a fifth less.

    Not around code of the user's, which may make garbage in earnest.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def settle() -> None:
    """Take what was loaded out of the collector's sight, so that no collection walks over it.

    It keeps collections short (at 78 KB a body it halves a request's CPU), and pages that nobody
    writes stay shared after a fork. Thresholds that the model has set itself are kept.
    """
    gc.collect()
    gc.freeze()
    if gc.get_threshold() == _DEFAULT:
        gc.set_threshold(YOUNG_CONTAINERS, *_DEFAULT[1:])


_DEFAULT = gc.get_threshold()
