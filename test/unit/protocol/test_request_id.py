from __future__ import annotations

import re
from collections.abc import Callable

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


def test_made_ids_are_alike_and_never_repeat() -> None:
    made = [request_id.take_or_make(None) for _ in range(1000)]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)
    assert len(set(made)) == 1000


def test_processes_do_not_make_the_same_ids(run_script: Callable[..., str]) -> None:
    printed = run_script("""
        import os, sys
        from pyfuncserver.protocol import request_id
        request_id.take_or_make(None)
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                print(request_id.take_or_make(None), flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
        print(request_id.take_or_make(None))
    """)
    assert len(set(printed.split())) == 3
