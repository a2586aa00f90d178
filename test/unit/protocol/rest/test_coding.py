from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfuncserver.errors import InvalidInput, TooLarge, UnsupportedMediaType
from pyfuncserver.protocol.rest.coding import decoded

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
