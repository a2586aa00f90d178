"""CloudEvents 1.0 in V1: what is taken, what is refused, and what goes back."""

from __future__ import annotations

import base64
import datetime
import json
import uuid
from typing import Any

import pytest

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.call import Answer, Call, Complete, Form, Predictions, Reply, Request
from pyfuncserver.protocol.rest.cloudevents import Origin
from pyfuncserver.protocol.rest.v1 import V1

STRUCTURED = "application/cloudevents+json"
ATTRIBUTES = {"specversion": "1.0", "id": "a-1", "source": "/me", "type": "my.type"}
EVENT = {**ATTRIBUTES, "data": {"instances": [1]}}
ORIGIN = Origin("answer.type", "answer.source")


def request(body: object, headers: dict[str, str]) -> Request:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = {name.lower().encode(): value.encode("latin-1") for name, value in headers.items()}
    return Request("m-1", raw, "id", lambda: headers, found.get)


def structured(event: object, media_type: str = STRUCTURED) -> Request:
    return request(event, {"Content-Type": media_type})


def binary(body: object = None, **attributes: str) -> Request:
    headers = {f"Ce-{name.title()}": value for name, value in {**ATTRIBUTES, **attributes}.items()}
    headers = {name: value for name, value in headers.items() if value is not None}
    return request({"instances": [1]} if body is None else body, headers)


def answered(request: Request, origin: Origin = ORIGIN, value: Any = "answer") -> Reply:
    dialect = V1(origin)
    return dialect.encode(Complete(value, dialect.decode(request)))


def headers_of(reply: Reply) -> dict[str, str]:
    return dict(reply.headers)


@pytest.mark.parametrize(
    "given", [structured(EVENT), binary(), structured(EVENT, STRUCTURED + "; charset=UTF-8"),
              structured(EVENT, "Application/CloudEvents+JSON ;charset=utf-8")]
)  # fmt: skip
def test_the_data_is_what_the_model_gets(given: Request) -> None:
    call = V1().decode(given)
    assert (call.form, call.payload) == (Form.JSON, {"instances": [1]})


def test_data_in_base64() -> None:
    data = base64.b64encode(b'{"instances": [2]}').decode()
    assert V1().decode(structured({**ATTRIBUTES, "data_base64": data})).payload == {
        "instances": [2]
    }


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/json"},
        {"Content-Type": "text/plain"},
        {"Ce-Id": "1", "Ce-Source": "s", "Ce-Type": "t"},
    ],
)
def test_a_request_that_is_no_event(headers: dict[str, str]) -> None:
    call = V1().decode(request(EVENT, headers))
    assert (call.payload, call.origin) == (EVENT, None)
    assert V1().encode(Complete(1, call)) == Reply(b"1", 200)


def test_answer_in_structured_mode() -> None:
    reply = answered(structured({**EVENT, "myext": 7, "flag": True, "subject": "s"}))
    assert (reply.content_type, reply.headers) == (STRUCTURED, ())
    event = json.loads(reply.body)
    uuid.UUID(event.pop("id"))
    assert datetime.datetime.fromisoformat(event.pop("time")).utcoffset() == datetime.timedelta(0)
    assert event == {
        "specversion": "1.0",
        "source": "answer.source",
        "type": "answer.type",
        "myext": 7,
        "flag": True,
        "data": "answer",
    }


def test_answer_in_binary_mode() -> None:
    reply = answered(binary(myext="E", subject="s"))
    assert (reply.body, reply.content_type) == (b'"answer"', "")
    headers = headers_of(reply)
    uuid.UUID(headers.pop("ce-id"))
    datetime.datetime.fromisoformat(headers.pop("ce-time"))
    assert headers == {
        "ce-specversion": "1.0",
        "ce-source": "answer.source",
        "ce-type": "answer.type",
        "ce-myext": "E",
    }


def test_predictions_are_framed_inside_the_event() -> None:
    dialect = V1(ORIGIN)
    for answer in (Predictions([1], dialect.decode(structured(EVENT))),):
        assert json.loads(dialect.encode(answer).body)["data"] == {"predictions": [1]}


def test_two_answers_have_two_ids() -> None:
    assert headers_of(answered(binary()))["ce-id"] != headers_of(answered(binary()))["ce-id"]


def test_merging_gives_subject_and_schema_back() -> None:
    given = structured({**EVENT, "subject": "s", "dataschema": "/d", "datacontenttype": "a/b"})
    event = json.loads(answered(given, Origin("t", "s", merges=True)).body)
    assert (event["subject"], event["dataschema"]) == ("s", "/d")
    assert "datacontenttype" not in event


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("a%20b", "a b"),
        ("%C3%A4", "ä"),
        ("%e2%82%ac", "€"),
        ("100%25", "100%"),
        ('"quoted \\"text\\""', 'quoted "text"'),
        ("%0d%0aSet-Cookie:x", "\r\nSet-Cookie:x"),
    ],
)
def test_text_in_headers_is_percent_encoded(sent: str, meant: str) -> None:
    given = binary(myext=sent)
    assert V1().decode(given).origin.attributes["myext"] == meant
    back = headers_of(answered(given))["ce-myext"]
    assert back.isascii()
    assert back.isprintable()
    assert " " not in back
    again = V1().decode(binary(myext=back))
    assert again.origin.attributes["myext"] == meant


def test_source_of_any_text_fits_into_a_header() -> None:
    headers = headers_of(answered(binary(), Origin("t", "a b\r\nX: y")))
    assert headers["ce-source"] == "a%20b%0D%0AX:%20y"


BAD = {
    "no JSON": structured(b"{"),
    "no object": structured([EVENT]),
    "a batch": structured([EVENT], "application/cloudevents-batch+json"),
    "another format": structured(EVENT, "application/cloudevents+avro"),
    "no data": structured(ATTRIBUTES),
    "data twice": structured({**EVENT, "data_base64": "e30="}),
    "no base64": structured({**ATTRIBUTES, "data_base64": "?"}),
    "base64 of no text": structured({**ATTRIBUTES, "data_base64": 7}),
    "base64 of no JSON": structured({**ATTRIBUTES, "data_base64": "ew=="}),
    "no id": structured({**EVENT, "id": None}),
    "empty source": structured({**EVENT, "source": ""}),
    "number for a type": structured({**EVENT, "type": 1}),
    "another version": structured({**EVENT, "specversion": "0.3"}),
    "version of a number": structured({**EVENT, "specversion": 1.0}),
    "object for an attribute": structured({**EVENT, "myext": {}}),
    "number beyond 32 bits": structured({**EVENT, "myext": 1 << 31}),
    "fraction": structured({**EVENT, "myext": 1.5}),
    "name in capitals": structured({**EVENT, "myExt": "a"}),
    "empty name": structured({**EVENT, "": "a"}),
    "time of no day": structured({**EVENT, "time": "2024-02-31T00:00:00Z"}),
    "time without a zone": structured({**EVENT, "time": "2024-02-28T00:00:00"}),
    "number for a subject": structured({**EVENT, "subject": 1}),
    "body in binary mode": binary(b"{"),
    "no id in binary mode": binary(id=None),  # type: ignore[arg-type]
    "version in binary mode": binary(specversion="1.1"),
    "bytes that are no UTF-8": binary(myext="%ff"),
    "name with a hyphen": request({}, {**{f"Ce-{n}": v for n, v in ATTRIBUTES.items()},
                                       "Ce-My-Ext": "a", "Ce-Specversion": "1.0"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_malformed_event(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        V1().decode(BAD[name])
    assert "a-1" not in str(caught.value)


@pytest.mark.parametrize(
    "time", ["2024-02-29T12:30:15Z", "2024-02-29T12:30:15.123456789+01:00", "2024-02-29t12:30:15z"]
)
def test_time_of_rfc_3339(time: str) -> None:
    V1().decode(structured({**EVENT, "time": time}))


def test_errors_are_v1s_own() -> None:
    dialect = V1(ORIGIN)
    reply = dialect.error(InvalidInput("bad"))
    assert (reply.status, reply.headers, reply.content_type) == (400, (), "")


def test_answer_without_a_call_is_written_as_it_is() -> None:
    answer: Answer = Complete({"a": 1})
    assert V1().encode(answer).body == b'{"a":1}'
    assert V1().encode(Predictions([1], Call(Form.JSON, None))).body == b'{"predictions":[1]}'
