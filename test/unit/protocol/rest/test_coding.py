from __future__ import annotations

import gzip
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfuncserver.errors import InvalidInput, TooLarge, UnsupportedMediaType
from pyfuncserver.protocol.rest.coding import MOST_CODINGS, MOST_MEMBERS, decoded

LIMIT = 1000


@given(st.binary(max_size=LIMIT))
def test_what_was_coded_comes_back(body: bytes) -> None:
    assert decoded(gzip.compress(body), "gzip", LIMIT) == body
    assert decoded(gzip.compress(body), "X-GZip", LIMIT) == body
    assert decoded(zlib.compress(body), "deflate", LIMIT) == body
    assert decoded(gzip.compress(zlib.compress(body)), "deflate, gzip", 2 * LIMIT) == body
    assert decoded(body, "identity", LIMIT) == body


def test_members_of_a_gzip_file_are_put_together() -> None:
    assert decoded(gzip.compress(b"a") + gzip.compress(b"b"), "gzip", LIMIT) == b"ab"


def test_a_body_may_be_as_large_as_the_limit_and_no_larger() -> None:
    assert len(decoded(gzip.compress(bytes(LIMIT)), "gzip", LIMIT)) == LIMIT
    with pytest.raises(TooLarge, match="MAX_BODY_SIZE"):
        decoded(gzip.compress(bytes(LIMIT + 1)), "gzip", LIMIT)
    with pytest.raises(TooLarge):
        decoded(gzip.compress(bytes(LIMIT)) + gzip.compress(b"1"), "gzip", LIMIT)


def test_a_small_body_that_would_be_a_huge_one_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(100_000_000))
    with pytest.raises(TooLarge):
        decoded(bomb, "gzip", LIMIT)


def test_members_cost_what_they_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows a member is not copied for each of them."""
    handed = 0
    make = zlib.decompressobj

    class Counting:
        def __init__(self, window: int) -> None:
            self.inner = make(window)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def decompress(self, data: Any, most: int) -> bytes:
            nonlocal handed
            handed += len(data)
            return self.inner.decompress(data, most)

    monkeypatch.setattr(zlib, "decompressobj", Counting)
    large = bytes(range(256)) * 4000
    body = gzip.compress(b"a", 0) * 3000 + gzip.compress(large, 0)
    assert decoded(body, "gzip", 10**7) == b"a" * 3000 + large
    assert handed < 20 * len(body)


def test_more_members_than_anybody_makes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="more than 65536 members"):
        decoded(gzip.compress(b"", mtime=0) * (MOST_MEMBERS + 1), "gzip", LIMIT)


def test_more_codings_than_anybody_uses_are_refused() -> None:
    body = b"a"
    for _ in range(MOST_CODINGS):
        body = gzip.compress(body)
    names = ", ".join(["gzip"] * MOST_CODINGS)
    assert decoded(body, f"{names}, identity", LIMIT) == b"a"
    with pytest.raises(UnsupportedMediaType, match="more than 4 codings"):
        decoded(gzip.compress(body), f"{names}, gzip", LIMIT)


# With names of their own: gzip writes the time into its header, and so into a name made of it, and
# the processes that share the tests have to have the same names for them.
@pytest.mark.parametrize(
    "body",
    [b"{}", gzip.compress(b"abc")[:-5], gzip.compress(b"a") + b"b"],
    ids=["not at all", "torn", "with a rest"],
)
def test_what_is_not_in_its_coding_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        decoded(body, "gzip", LIMIT)


def test_other_codings_are_refused() -> None:
    with pytest.raises(UnsupportedMediaType, match="gzip, deflate"):
        decoded(b"{}", "br", LIMIT)
