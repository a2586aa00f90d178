"""The document: every dialect's part, put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pyfuncserver.codec import json
from pyfuncserver.protocol.rest.openapi import data, probes, scoring, seldon, v1, v2
from pyfuncserver.protocol.rest.openapi.operation import SHARED, Paths, refusals
from pyfuncserver.protocol.rest.openapi.subject import Subject

VERSION = "3.1.0"


class Part(Protocol):
    """A dialect's module."""

    TAG: str
    ERROR: str
    DESCRIPTION: str

    def paths(self, subject: Subject) -> Paths: ...

    def schemas(self, subject: Subject) -> dict[str, Any]: ...


PARTS: tuple[Part, ...] = (v1, v2, scoring, seldon, probes)


def document(subject: Subject) -> dict[str, Any]:
    """Give the document of all that a process answers."""
    refused = {name: it for part in PARTS for name, it in refusals(part.ERROR).items()}
    components: dict[str, Mapping[str, Any]] = {**SHARED, "responses": refused}
    if not subject.needs_token:
        del components["securitySchemes"]
    return {
        "openapi": VERSION,
        "info": {
            "title": subject.model.full_name,
            "version": subject.model.version,
            "description": f"The model `{subject.model.full_name}`, served by pyfuncserver.",
        },
        "servers": [{"url": "."}],
        "tags": [{"name": part.TAG, "description": part.DESCRIPTION} for part in PARTS],
        "paths": {path: item for part in PARTS for path, item in part.paths(subject).items()},
        "components": {
            "schemas": {
                **data.schemas(subject),
                **{name: it for part in PARTS for name, it in part.schemas(subject).items()},
            },
            **components,
        },
    }


def render(subject: Subject) -> bytes:
    """Write the document as JSON."""
    return json.dumps(document(subject))
