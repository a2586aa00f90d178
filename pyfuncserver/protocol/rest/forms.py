"""Bodies of HTML forms, as Seldon's clients send them."""

from __future__ import annotations

import email
from email.message import Message
from urllib.parse import parse_qs

MOST_FIELDS = 100
MOST_HEAD_BYTES = 4096
"""Of what describes a form, or a field: the standard library takes the square of it in time."""
Fields = dict[str, str | bytes]
"""By name; what comes as a file is bytes."""


def fields_of(body: bytes, content_type: str) -> Fields | None:
    """Give a form's fields; None where the type is no form's. Of duplicates the last one stays.

    Raises: ValueError where the body is not what its type says.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "application/x-www-form-urlencoded":
        return _url_encoded(body)
    if media_type == "multipart/form-data":
        return _multipart(body, content_type)
    return None


def _url_encoded(body: bytes) -> Fields:
    try:
        found = parse_qs(
            body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS
        )
    except ValueError:  # and what is no UTF-8
        raise ValueError("the body is not a form") from None
    return {name: values[-1] for name, values in found.items()}


def _multipart(body: bytes, content_type: str) -> Fields:
    """Read RFC 7578's form: parts between lines of the boundary (RFC 2046, section 5.1.1)."""
    if len(content_type) > MOST_HEAD_BYTES:
        raise ValueError("the form's type is too long")
    boundary = email.message_from_string(f"Content-Type: {content_type}\n\n").get_boundary()
    if not boundary:
        raise ValueError("the form's type names no boundary")
    line = b"\r\n--" + boundary.encode("latin-1", "replace")
    _, *parts = (b"\r\n" + body).split(line, MOST_FIELDS + 1)
    if not parts or not parts[-1].startswith(b"--"):
        raise ValueError("the body is not a multipart form, or has too many fields")
    return dict(map(_field, parts[:-1]))


def _field(part: bytes) -> tuple[str, str | bytes]:
    head, gap, content = part.partition(b"\r\n\r\n")
    if len(head) > MOST_HEAD_BYTES or b"\0" in head:
        raise ValueError("the head of a part of the form is too long, or no text")
    described = email.message_from_bytes(head.lstrip())
    name = described.get_param("name", header="content-disposition")
    if not gap or not isinstance(name, str):
        raise ValueError("a part of the form has no name")
    return name, content if _is_file(described) else _decoded(content)


def _is_file(described: Message) -> bool:
    return described.get_filename() is not None


def _decoded(content: bytes) -> str:
    try:
        return content.decode()  # RFC 7578, section 5.1.2
    except ValueError:
        raise ValueError("a field of the form is not UTF-8") from None
