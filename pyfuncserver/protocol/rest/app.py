"""The Tornado application: every path, and what answers it.

A dialect is a line in :func:`endpoints`; what it answers beside predictions, one in ``PAGES``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import tornado.web

from pyfuncserver.config import NAME_PATTERN
from pyfuncserver.model.call import Dialect
from pyfuncserver.model.catalogue import Catalogue
from pyfuncserver.protocol.rest import generate, scoring, seldon, v1, v2
from pyfuncserver.protocol.rest.handler import Handler, Predict, Surroundings
from pyfuncserver.protocol.rest.pages import docs, probes
from pyfuncserver.protocol.rest.pages import scoring as scoring_pages
from pyfuncserver.protocol.rest.pages import seldon as seldon_pages
from pyfuncserver.protocol.rest.pages import v1 as v1_pages
from pyfuncserver.protocol.rest.pages import v2 as v2_pages
from pyfuncserver.protocol.rest.passthrough import Passthrough
from pyfuncserver.protocol.rest.paths import everywhere
from pyfuncserver.protocol.rest.prediction import Route
from pyfuncserver.protocol.seldon_core import Feedback, Predictions

log = logging.getLogger(__name__)

LONGEST_PATH = 200
"""Of a path that is logged."""

PAGES: tuple[tuple[str, type[Handler]], ...] = (
    *probes.PAGES,
    *v1_pages.PAGES,
    *v2_pages.PAGES,
    *scoring_pages.PAGES,
    *seldon_pages.PAGES,
)
"""What is answered beside predictions, whether there is a model in this process or not."""

NAMELESS: tuple[type[Handler], ...] = (seldon_pages.Metadata,)
"""Of these, what tells of a model that its path does not name."""


@dataclass(frozen=True)
class Endpoint:
    """Where the predictions of one dialect come in."""

    paths: tuple[str, ...]
    """With `{full_name}`, or `{model}` and perhaps `{version}`, where they name one."""
    dialect: Dialect
    content_type: str
    """The usual one of its answers."""


def endpoints(around: Surroundings) -> list[Endpoint]:
    """Give the dialects that are spoken over HTTP."""
    return [
        Endpoint(v1.PATHS, _passing(v1.V1(around.origin), around), v1.CONTENT_TYPE),
        Endpoint(v2.PATHS, v2.V2(around.models), v2.CONTENT_TYPE),
        *_seldon(around),
        Endpoint(_placed(scoring.PATHS, around), scoring.Scoring(), scoring.CONTENT_TYPE),
        Endpoint(generate.PATHS, generate.Generate(around.models), generate.CONTENT_TYPE),
        Endpoint(
            generate.STREAM_PATHS, generate.GenerateStream(around.models), generate.CONTENT_TYPE
        ),
    ]


def _seldon(around: Surroundings) -> list[Endpoint]:
    messages = seldon.Json()
    predict = _passing(Predictions(seldon.NAME, messages, around.models), around)
    feedback = Feedback(seldon.FEEDBACK_NAME, messages, around.count_feedback)
    return [
        Endpoint(_placed(seldon.PATHS, around), predict, seldon.CONTENT_TYPE),
        Endpoint(_placed(seldon.FEEDBACK_PATHS, around), feedback, seldon.CONTENT_TYPE),
    ]


def _placed(paths: tuple[str, ...], around: Surroundings) -> tuple[str, ...]:
    """Give the paths of a dialect that names no model; in a repository one may stand before."""
    return everywhere(paths) if around.models.is_repository else paths


def _passing(dialect: Dialect, around: Surroundings) -> Dialect:
    """Give a dialect, or one that passes on what it is brought (PAYLOAD_PASSTHROUGH)."""
    return Passthrough(dialect) if around.passes_payload else dialect


def application(around: Surroundings) -> tornado.web.Application:
    """Build the application; without a service it has probes and metrics only."""
    routes = _pages(around, PAGES)
    if around.has_docs:
        with_book = {"around": around, "book": docs.Book(around)}
        routes += [(_pattern(path), page, with_book) for path, page in docs.PAGES]
    for endpoint, route in _routes(around):
        arguments = {"around": around, "route": route}
        routes += [(_pattern(path), Predict, arguments) for path in endpoint.paths]
    return _application(routes, around)


def metrics_application(around: Surroundings) -> tornado.web.Application:
    """Build what a port for the metrics alone serves."""
    return _application(_pages(around, probes.PAGES), around)


def _pages(around: Surroundings, pages: Iterable[tuple[str, type[Handler]]]) -> list[Any]:
    routes: list[Any] = [
        (_pattern(path), page, {"around": around})
        for plain, page in pages
        for path in (_placed((plain,), around) if page in NAMELESS else (plain,))
    ]
    if around.metrics_path is not None:
        routes.append((re.escape(around.metrics_path), probes.Metrics, {"around": around}))
    return routes


def _application(routes: list[Any], around: Surroundings) -> tornado.web.Application:
    return tornado.web.Application(
        routes,
        default_handler_class=probes.NoSuchPath,
        default_handler_args={"around": around},
        log_function=_log_page if around.logs_all else _log_nothing,
    )


def _log_page(handler: tornado.web.RequestHandler) -> None:
    """Log what was no prediction, of which the service logs a line."""
    if isinstance(handler, Predict):
        return
    request = handler.request
    took_ms = request.request_time() * 1000
    path = request.path[:LONGEST_PATH]
    log.info("%s %s status=%s in %.1f ms", request.method, path, handler.get_status(), took_ms)


def _log_nothing(_: tornado.web.RequestHandler) -> None:
    """Log nothing: what has failed has been logged where it failed."""


def predictions(around: Surroundings) -> dict[bytes, Route]:
    """Give the predictions that a transport may take past the application, by their paths."""
    return {
        path.encode(): replace(route, model=key)
        for endpoint, route in _routes(around)
        for template in endpoint.paths
        for path, key in _paths(template, around.models)
    }


def _routes(around: Surroundings) -> Iterable[tuple[Endpoint, Route]]:
    service = around.service
    if service is None:
        return
    for endpoint in endpoints(around):
        yield endpoint, Route(endpoint.dialect, endpoint.content_type, service, around.tokens)


def _pattern(path: str) -> str:
    """Give the regular expression of a path."""
    names = ("full_name", "model", "version", "asset")
    named = {name: f"(?P<{name}>{NAME_PATTERN})" for name in names}
    return re.sub(r"\{(\w+)\}", lambda found: named[found[1]], path)


def _paths(template: str, models: Catalogue) -> Iterable[tuple[str, str]]:
    """Give the paths that a template stands for, each with the key of its model."""
    if "{" not in template:
        yield template, models.default
        return
    for entry in models:
        identity = entry.identity
        for name in identity.names:
            path = template.format(full_name=name, model=name, version=identity.version)
            if "{full_name}" in template:
                key = models.full_key_of(name)
            else:
                key = models.key_of(name, identity.version if "{version}" in template else "")
            if key in models:  # V1 does not know every name of a model
                yield path, key
