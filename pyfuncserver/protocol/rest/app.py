"""The Tornado application: every path, and what answers it.

A dialect is a line in :func:`endpoints`; what it answers beside predictions, one in ``PAGES``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

import tornado.web

from pyfuncserver.config import NAME_PATTERN
from pyfuncserver.model.call import Dialect
from pyfuncserver.model.identity import Identity
from pyfuncserver.protocol.rest import v1
from pyfuncserver.protocol.rest.handler import Handler, Predict, Surroundings
from pyfuncserver.protocol.rest.pages import probes
from pyfuncserver.protocol.rest.pages import v1 as v1_pages
from pyfuncserver.protocol.rest.prediction import Route

PAGES: tuple[tuple[str, type[Handler]], ...] = (*probes.PAGES, *v1_pages.PAGES)
"""What is answered beside predictions, whether there is a model in this process or not."""


@dataclass(frozen=True)
class Endpoint:
    """Where the predictions of one dialect come in."""

    paths: tuple[str, ...]
    """With `{full_name}`, or `{model}` and perhaps `{version}`, where they name one."""
    dialect: Dialect
    content_type: str
    """The usual one of its answers."""


def endpoints(around: Surroundings) -> list[Endpoint]:  # noqa: ARG001
    """Give the dialects that are spoken over HTTP."""
    return [Endpoint(v1.PATHS, v1.V1(), v1.CONTENT_TYPE)]


def application(around: Surroundings) -> tornado.web.Application:
    """Build the application; without a service it has probes and metrics only."""
    routes: list[Any] = [(_pattern(path), page, {"around": around}) for path, page in PAGES]
    for endpoint, route in _routes(around):
        arguments = {"around": around, "route": route}
        routes += [(_pattern(path), Predict, arguments) for path in endpoint.paths]
    return tornado.web.Application(
        routes, default_handler_class=probes.NoSuchPath, default_handler_args={"around": around}
    )


def predictions(around: Surroundings) -> dict[bytes, Route]:
    """Give the predictions that a transport may take past the application, by their paths."""
    return {
        path.encode(): route
        for endpoint, route in _routes(around)
        for path in _paths(endpoint.paths, around.model)
    }


def _routes(around: Surroundings) -> Iterable[tuple[Endpoint, Route]]:
    service = around.service
    if service is None:
        return
    for endpoint in endpoints(around):
        route = Route(
            endpoint.dialect, endpoint.content_type, service, around.tokens, around.model.full_name
        )
        yield endpoint, route


def _pattern(path: str) -> str:
    """Give the regular expression of a path."""
    named = {name: f"(?P<{name}>{NAME_PATTERN})" for name in ("full_name", "model", "version")}
    return re.sub(r"\{(\w+)\}", lambda found: named[found[1]], path)


def _paths(templates: Iterable[str], model: Identity) -> Iterable[str]:
    """Give all paths of a model."""
    for template, name in product(templates, model.names):
        yield template.format(full_name=model.full_name, model=name, version=model.version)
