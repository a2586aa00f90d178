from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pyfuncserver import config as configuration
from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.model.batching import BatchingLane
from pyfuncserver.model.lane import Lane
from pyfuncserver.model.lanes import Lanes
from pyfuncserver.model.pyfunc import PyFuncRunner


class Loop:
    """Stands in for an event loop that no job comes to."""


def lanes(*flags: str, belongs_to_thread: bool = False, is_divisible: bool = True) -> Lanes:
    runner = SimpleNamespace(
        belongs_to_thread=belongs_to_thread, is_divisible=is_divisible, input_schema=None
    )
    config = configuration.read(["--model_dir", "x", *flags])
    return Lanes(config, cast(PyFuncRunner, runner), Instruments(), lambda: None)


def uses_loop(found: Lanes) -> bool:
    found.use_loop(cast(Any, Loop()))
    return isinstance(found.http, Lane) and found.http._loop is not None


def test_each_protocol_has_its_own() -> None:
    found = lanes()
    assert found.http is not found.grpc
    assert isinstance(found.http, Lane)
    assert found.own_thread is None
    assert uses_loop(found)


def test_none_predicts_on_the_loop_where_a_limit_is_set() -> None:
    assert not uses_loop(lanes("--predict_timeout_sec", "1"))


@pytest.mark.parametrize("whose", ["setting", "model"])
def test_one_thread_serves_both(whose: str) -> None:
    flags = ["--threads", "1 fixed"] if whose == "setting" else []
    found = lanes(*flags, belongs_to_thread=whose == "model")
    assert found.http is found.grpc is found.own_thread
    assert not uses_loop(found)


@pytest.mark.parametrize("flags", [[], ["--threads", "1 fixed"]])
@pytest.mark.parametrize("size", ["8", "auto"])
def test_one_lane_puts_the_calls_of_both_together(flags: list[str], size: str) -> None:
    found = lanes("--batch_max_size", size, *flags)
    assert isinstance(found.http, BatchingLane)
    assert found.http is found.grpc
    assert isinstance(found.own_thread, Lane) == bool(flags)
    assert not uses_loop(found)
    assert found.started == 0


def test_calls_that_cannot_be_divided(caplog: pytest.LogCaptureFixture) -> None:
    found = lanes("--batch_max_size", "8", is_divisible=False)
    assert isinstance(found.http, Lane)
    assert "BATCH_MAX_SIZE is without effect" in caplog.text
