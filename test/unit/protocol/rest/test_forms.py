from __future__ import annotations

import pytest

from pyfuncserver.protocol.rest.forms import fields_of

URL = "application/x-www-form-urlencoded"
PARTS = "multipart/form-data; boundary=x"


def part(head: str, body: bytes) -> bytes:
    return b"--x\r\nContent-Disposition: form-data%b\r\n\r\n%b\r\n" % (head.encode(), body)


def test_no_form() -> None:
    assert fields_of(b"json=1", "application/json") is None
    assert fields_of(b"json=1", "") is None


def test_url_encoded() -> None:
    assert fields_of(b"json=%7B%7D+%C3%A4&b=&json=2", f"{URL}; charset=utf-8") == {
        "json": "2",
        "b": "",
    }


def test_multipart() -> None:
    body = part('; name="a"', b"1") + part('; name="f"; filename="n"', b"\0\r\n\xff\n") + b"--x--"
    for whole in (body, body + b"\r\n", b"preamble\r\n" + body + b"\r\nepilogue"):
        assert fields_of(whole, PARTS) == {"a": "1", "f": b"\0\r\n\xff\n"}
    assert fields_of(b"--x--", 'multipart/form-data; boundary="x"') == {}


@pytest.mark.parametrize(("body", "kind"), [
    (b"\xff", URL),
    (b"a=%ff", URL),
    (b"&".join(b"a%d=" % number for number in range(200)), URL),
    (b"", PARTS),
    (b"text", PARTS),
    (part('; name="a"', b"1") + b"--x--", "multipart/form-data"),
    (part("", b"1") + b"--x--", PARTS),
    (part('; name="a"', b"\xff") + b"--x--", PARTS),
    (part('; name="a"', b"1"), PARTS),
    (part('; name="a"; b="' + ";" * 200_000 + '"', b"1") + b"--x--", PARTS),  # takes a minute
    (part("; name=a; filename*=a\0b'x'%ff", b"1") + b"--x--", PARTS),
    (part('; name="a"', b"1") + b"--x--", PARTS + '; b="' + ";" * 60_000 + '"'),
    (b"".join(part(f'; name="a{number}"', b"") for number in range(200)) + b"--x--", PARTS),
])  # fmt: skip
def test_what_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(ValueError, match="form"):
        fields_of(body, kind)
