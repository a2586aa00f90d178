from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pyfuncserver.model import wishes


def model(metadata: Any) -> Any:
    return SimpleNamespace(metadata=SimpleNamespace(metadata=metadata))


@pytest.mark.parametrize(
    ("metadata", "belongs"),
    [
        (None, False),
        ({}, False),
        ({"owner": "me"}, False),
        ({"pyfuncserver": {}}, False),
        ({"pyfuncserver": None}, False),
        ({"owner": "me", "pyfuncserver": {"threads": "1 fixed"}}, True),
    ],
)
def test_a_model_says_that_it_belongs_to_a_thread(
    metadata: Any, belongs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert wishes.belongs_to_thread(model(metadata)) is belongs
    assert not caplog.records


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"threads": 4}, "threads=4; known is '1 fixed'"),
        ({"thread": "1 fixed"}, "pyfuncserver.thread, which is not known"),
        ("1 fixed", "pyfuncserver='1 fixed', which is no mapping"),
    ],
)
def test_a_wish_that_is_not_known_is_told(
    wish: Any, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert not wishes.belongs_to_thread(model({"pyfuncserver": wish}))
    assert told in caplog.text


def test_a_model_of_an_old_mlflow_wishes_for_nothing() -> None:
    assert not wishes.belongs_to_thread(object())
    assert not wishes.belongs_to_thread(SimpleNamespace(metadata=object()))
