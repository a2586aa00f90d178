from __future__ import annotations

import pytest

from pyfuncserver.protocol import request_id


@pytest.mark.parametrize("given", ["a", "x" * 128, "0f-9e_8/:=~!"])
def test_fit_id_is_taken(given: str) -> None:
    assert request_id.take_or_make(given) == given


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a\nb", "a\n", "ä", "\x7f", "\t"])
def test_unfit_id_is_replaced(given: str | None) -> None:
    made = request_id.take_or_make(given)
    assert made != given
    assert made.isalnum()
    assert made != request_id.take_or_make(given), "each request has its own"
