"""CloudEvents 1.0 around a prediction in V1, in the modes of its HTTP binding.

In *binary* mode the attributes are headers (``ce-id``) and the body is the data; in *structured*
mode the body is the whole event, ``application/cloudevents+json``. An event is answered in its own
mode, with the type and source of KServe's SDK. Sources: CloudEvents 1.0.2, "Core", "HTTP Protocol
Binding" and "JSON Event Format".
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from pyfuncserver.codec import json
from pyfuncserver.config import Config
from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.call import Reply, Request

SPEC_VERSION = "1.0"
TYPE = "io.kserve.inference.response"
SOURCE = "io.kserve.inference."
"""What the model's full name is put behind."""
STRUCTURED = "application/cloudevents+json"
MEDIA_TYPES = b"application/cloudevents"
"""What the media types of all structured events begin with, in this format and in others."""

_REQUIRED = ("specversion", "id", "source", "type")
_OPTIONAL = ("subject", "dataschema")
_OWN = {*_REQUIRED, *_OPTIONAL, "time", "datacontenttype", "data", "data_base64"}
_PREFIX = "ce-"
_NAME = re.compile(r"[a-z0-9]{1,64}")
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)", re.ASCII
)
# All that a header's value may hold as it is (HTTP binding, section 3.1.3.2).
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')

Attributes = dict[str, str | int | bool]


@dataclass(frozen=True)
class Origin:
    """What an answer says of where it comes from."""

    type: str = TYPE
    source: str = ""
    """By default the model's, ``io.kserve.inference.<full name>``."""
    merges: bool = False
    """Whether the request's subject and schema go back, too, as its extensions do."""

    @classmethod
    def of(cls, config: Config) -> Origin:
        return cls(config.ce_type, config.ce_source, config.ce_merge)


NO_ORIGIN = Origin()


@dataclass(frozen=True)
class Event:
    """What is kept of an event until its answer is written."""

    attributes: Attributes
    data: Any
    """Parsed."""
    is_structured: bool
    model: str
    """The key of the model that it is for."""

    def reply(self, value: Any, origin: Origin) -> Reply:
        """Write the answer as an event, in the mode of this one.

        Raises: TypeError or ValueError that names what JSON cannot hold.
        """
        attributes: Attributes = {
            "specversion": SPEC_VERSION,
            "id": str(uuid.uuid4()),
            "source": origin.source or f"{SOURCE}{self.model}",
            "type": origin.type,
            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(),
            **self._returned(origin.merges),
        }
        if self.is_structured:
            body = json.dumps({**attributes, "data": value})
            return Reply(body, 200, content_type=STRUCTURED)
        headers = tuple((f"{_PREFIX}{name}", _header(it)) for name, it in attributes.items())
        return Reply(json.dumps(value), 200, headers=headers)

    def _returned(self, merges: bool) -> Attributes:
        """Give the extensions, and the optional attributes where they are wished for."""
        kept = _OPTIONAL if merges else ()
        return {
            name: value
            for name, value in self.attributes.items()
            if name not in _OWN or name in kept
        }


def is_structured(media_type: bytes) -> bool:
    """Tell by a content type whether a body is an event, or several."""
    return media_type[: len(MEDIA_TYPES)].lower() == MEDIA_TYPES


def decode(request: Request) -> Event:
    """Take a request that is an event apart. Raises: InvalidInput"""
    media_type = request.header(b"content-type") or b""
    if is_structured(media_type):
        return _structured(request, media_type)
    return _binary(request)


def _structured(request: Request, media_type: bytes) -> Event:
    if media_type.partition(b";")[0].strip().lower() != STRUCTURED.encode():
        raise InvalidInput(f"Events are taken one at a time, as {STRUCTURED}, or in binary mode")
    event = _parsed(request.body)
    if not isinstance(event, dict):
        raise InvalidInput(f"An event of type {STRUCTURED} is a JSON object")
    members = {name: value for name, value in event.items() if value is not None}
    attributes = {
        name: _typed(value)
        for name, value in members.items()
        if name not in ("data", "data_base64")
    }
    return Event(_checked(attributes), _data(event), is_structured=True, model=request.model)


def _data(event: Mapping[str, Any]) -> Any:
    """Give the data of an event in JSON's format (section 3.1). Raises: InvalidInput"""
    encoded = event.get("data_base64")
    if encoded is None:
        if "data" not in event:
            raise InvalidInput("The event has no data")
        return event["data"]
    if "data" in event:
        raise InvalidInput('The event has both "data" and "data_base64"')
    try:
        return _parsed(base64.b64decode(encoded, validate=True))
    except (TypeError, ValueError, binascii.Error):
        raise InvalidInput('The event\'s "data_base64" is not base64') from None


def _typed(value: Any) -> str | int | bool:
    """Give an attribute's value back. Raises: InvalidInput for a type that attributes have not."""
    if isinstance(value, str) or (isinstance(value, int) and -(1 << 31) <= value < 1 << 31):
        return value
    raise InvalidInput("An attribute of the event is no string, boolean or integer of 32 bits")


def _binary(request: Request) -> Event:
    attributes: Attributes = {}
    for header, value in request.headers().items():
        name = header.lower()
        if name.startswith(_PREFIX):
            attributes[name[len(_PREFIX) :]] = _text(value)
    data = _parsed(request.body)
    return Event(_checked(attributes), data, is_structured=False, model=request.model)


def _text(value: str) -> str:
    """Decode a header's value (HTTP binding, section 3.1.3.2). Raises: InvalidInput"""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        return unquote_to_bytes(value.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise InvalidInput("An attribute of the event is not UTF-8, percent-encoded") from None


def _header(value: str | int | bool) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return quote(text.encode("utf-8", "replace"), safe=_PLAIN)


def _checked(attributes: Attributes) -> Attributes:
    """Give the attributes back. Raises: InvalidInput where they are none of CloudEvents 1.0."""
    for name in _REQUIRED:
        if not isinstance(attributes.get(name), str) or not attributes[name]:
            raise InvalidInput(f"The event's attribute {name} is missing, empty, or no string")
    if attributes["specversion"] != SPEC_VERSION:
        raise InvalidInput(f"The event's specversion is not {SPEC_VERSION}")
    for name, value in attributes.items():
        if not _NAME.fullmatch(name):
            raise InvalidInput("An attribute's name holds more than lower-case letters and digits")
        if name in _OWN and not isinstance(value, str):
            raise InvalidInput(f"The event's attribute {name} is no string")
    if "time" in attributes and not _is_time(str(attributes["time"])):
        raise InvalidInput("The event's time is not one of RFC 3339")
    return attributes


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    try:
        datetime.datetime.strptime(text[:19].upper(), "%Y-%m-%dT%H:%M:%S")  # noqa: DTZ007
    except ValueError:
        return False
    return True


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"Unrecognized request format: {error}") from None
