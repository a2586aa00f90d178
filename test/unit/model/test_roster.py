from __future__ import annotations

from pathlib import Path

import pytest

from pyfuncserver import config as configuration
from pyfuncserver.errors import StartupError
from pyfuncserver.model.catalogue import UNLOADED
from pyfuncserver.model.roster import Roster, gather
from pyfuncserver.orders import NO_ORDERS, Orders


def gathered(root: Path, orders: Orders = NO_ORDERS) -> Roster:
    config = configuration.read(["--model_repository", str(root)])
    return gather(config, str(root), orders)


def test_an_empty_repository(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(gathered(tmp_path).catalogue) == 0
    assert "is empty" in caplog.text


def test_a_repository_that_is_empty_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=f"{tmp_path} is empty, and a-1, b-1 are served"):
        gathered(tmp_path, Orders(required=frozenset(["b-1", "a-1"])))


def test_models_that_are_not_there_any_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "b").mkdir()
    orders = Orders(required=frozenset(["a-1"]), absent=frozenset(["b"]))
    (entry,) = gathered(tmp_path, orders).catalogue
    assert entry.why_not == UNLOADED
    assert "no longer in the repository, and not served any more: a-1" in caplog.text


def test_a_model_that_is_asked_for_and_not_there(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(StartupError, match=f"{tmp_path} has no model a"):
        gathered(tmp_path, Orders(asked="a", absent=frozenset(["b"])))


def test_models_that_no_process_survives(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    why = "the process was killed"
    found = gathered(tmp_path, Orders(absent=frozenset(["b"]), deadly={"a-1": why})).catalogue
    assert found["a-1"].why_not == why
    with pytest.raises(StartupError, match=f"no model .* can be loaded: {why}"):
        gathered(tmp_path, Orders(deadly={"a-1": why, "b-1": why}))
