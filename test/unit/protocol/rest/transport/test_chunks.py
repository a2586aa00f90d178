from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyfuncserver.protocol.rest.framing import Refused
from pyfuncserver.protocol.rest.transport.chunks import Chunks


def encoded(parts: list[bytes], trailers: bytes = b"") -> bytes:
    chunks = b"".join(b"%x;name=value\r\n%b\r\n" % (len(part), part) for part in parts if part)
    return chunks + b"0\r\n" + trailers + b"\r\n"


@given(
    parts=st.lists(st.binary(max_size=40), max_size=5),
    trailers=st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC:\r\n"]),
    cuts=st.lists(st.integers(0, 300), max_size=8),
)
def test_a_body_is_the_same_however_it_comes(
    parts: list[bytes], trailers: bytes, cuts: list[int]
) -> None:
    sent = encoded(parts, trailers) + b"GET /"
    places = sorted({0, len(sent), *(min(cut, len(sent)) for cut in cuts)})
    chunks = Chunks(1000, 1000)
    body, pending = b"", b""
    for start, end in pairwise(places):
        taken, pending = chunks.take(pending + sent[start:end])
        body += b"".join(taken)
    assert chunks.is_complete
    assert (body, pending) == (b"".join(parts), b"GET /")


def test_parts_are_given_before_their_chunk_is_whole() -> None:
    chunks = Chunks(1000, 1000)
    assert chunks.take(b"5\r\n12") == ([b"12"], b"")
    assert chunks.take(b"345") == ([b"345"], b"")
    assert chunks.take(b"\r") == ([], b"\r")
    assert chunks.take(b"\r\n0\r\n\r\n") == ([], b"")
    assert chunks.is_complete


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"5\r\n123456\r\n", 400),
        (b"x\r\n", 400),
        (b"5;" + b"x" * 5000, 400),
        (b"65\r\n", 413),
        (b"60\r\n" + b"x" * 96 + b"\r\n5\r\n", 413),
        (b"FFFFFFFFFFFFFFFF\r\n", 413),
        (b"0\r\nno field\r\n\r\n", 400),
        (b"0\r\nA: " + b"x" * 60, 431),
        (b"0\r\n" + b"A: b\r\n" * 20, 431),
    ],
)
def test_what_is_refused(sent: bytes, status: int) -> None:
    with pytest.raises(Refused) as refused:
        Chunks(100, 50).take(sent)
    assert refused.value.status == status
