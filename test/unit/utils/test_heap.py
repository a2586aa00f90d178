"""The collector rests while imports run, and leaves what was loaded alone afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from pyfuncserver.utils import heap


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    gc.enable()


def test_no_collection_runs_inside_and_they_run_again_afterwards() -> None:
    def fail() -> None:
        with heap.no_collections():
            assert not gc.isenabled()
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with heap.no_collections():
        pass
    assert not gc.isenabled()


def test_what_is_there_is_frozen_and_young_objects_are_looked_at_less_often() -> None:
    default = gc.get_threshold()
    before = gc.get_freeze_count()
    heap.settle()
    assert gc.get_freeze_count() > before + 1000
    assert gc.get_threshold() == (heap.YOUNG_CONTAINERS, *default[1:])


def test_thresholds_that_the_model_has_set_are_kept() -> None:
    gc.set_threshold(123, 4, 5)
    heap.settle()
    assert gc.get_threshold() == (123, 4, 5)
