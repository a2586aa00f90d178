"""Sends events as the CloudEvents SDK writes them, and tells as JSON how it reads the answers.

Runs in an environment of its own, which has that SDK: ``cloudevents_client.py URL``.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent, from_http


def answered(url: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    request = urllib.request.Request(url, body, headers, method="POST")
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = dict(response.headers)
        event = from_http(answer, response.read())
    media_type = answer["Content-Type"]
    return {
        "attributes": dict(event.get_attributes()),
        "data": event.get_data(),
        "type": media_type,
    }


def main(url: str) -> None:
    attributes = {"source": "/tests", "type": "example", "myext": "a b%ä"}
    event = CloudEvent(attributes, {"do": "echo", "n": 7})
    binary = to_binary(CloudEvent({**attributes, "myext": "plain"}, {"do": "echo", "n": 8}))
    found = [answered(url, *to_structured(event)), answered(url, *binary)]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
