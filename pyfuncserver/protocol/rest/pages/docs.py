"""The API's documentation: ``/openapi.json``, and ``/docs``, a page to read it and try it out.

The page is Swagger UI, from files that come with this package: nothing is fetched from elsewhere,
and the browser is told to refuse whatever else it might be asked to fetch.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import tornado.web

from pyfuncserver.model.call import Reply
from pyfuncserver.model.catalogue import Entry
from pyfuncserver.protocol.rest.handler import Handler, Surroundings
from pyfuncserver.protocol.rest.openapi import interface
from pyfuncserver.protocol.rest.openapi.document import render
from pyfuncserver.protocol.rest.openapi.subject import Subject

ASSETS = Path(__file__).parents[1] / "assets"
PAGE = "docs.html"
TYPES = {
    "docs.js": "text/javascript; charset=UTF-8",
    "favicon-32x32.png": "image/png",
    "swagger-ui-bundle.js": "text/javascript; charset=UTF-8",
    "swagger-ui.css": "text/css; charset=UTF-8",
}
"""The files that the page needs."""
_DIRECTIVES = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",  # the style sheet's own icons
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
POLICY = "; ".join(_DIRECTIVES)
CODE, FLAVOURS = "mlflow.pyfunc.model", "mlflow."
"""What loads models that are code of somebody's, and what MLflow's own begin with."""


class Book:
    """The documents of a process, one a model, written when first asked for. Not thread-safe."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._texts: dict[str, bytes] = {}

    def written(self, key: str) -> bytes:
        """Give a model's document as JSON. Where there are many columns that takes a while."""
        text = self._texts.get(key)
        if text is None:
            entry = self._around.models[key]
            text = self._texts[key] = render(subject_of(self._around, entry))
        return text


def subject_of(around: Surroundings, entry: Entry) -> Subject:
    """Say what the document of a model is about."""
    models, identity, description = around.models, entry.identity, entry.description
    is_latest = models.is_repository and models.key_of(identity.name) == identity.full_name
    return Subject(
        model=identity,
        interface=interface.of(description),
        inputs=tuple(description.inputs),
        forms=description.forms,
        has_predictions=around.service is not None,
        needs_token=around.tokens is not None,
        chooses_status=_is_code(description.loader_module),
        is_plain=description.is_plain,
        is_raw=bool(getattr(description.signature, "_is_signature_from_type_hint", False)),
        passes_payload=around.passes_payload,
        metrics_path=around.metrics_path,
        also_named=(identity.name,) if is_latest else (),
        is_alone=not models.is_repository,
        is_default=identity.full_name == models.default,
    )


def _is_code(loader_module: str) -> bool:
    """Tell whether a model is somebody's own code, which may raise what it likes."""
    return loader_module == CODE or not loader_module.startswith(FLAVOURS)


class Bound(Handler):
    """What all handlers here share."""

    def initialize(self, around: Surroundings, book: Book) -> None:  # type: ignore[override]
        super().initialize(around)
        self.book = book

    async def send_file(self, name: str, content_type: str) -> None:
        """Send one of the files that come with this package."""
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(self.around.slow_work, (ASSETS / name).read_bytes)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.send(Reply(body, 200), content_type)


class OpenApi(Bound):
    """``GET /openapi.json``, of the model that ``?model=`` and ``version=`` name, or the default"""

    async def get(self) -> None:
        models = self.around.models
        name, version = self.get_query_argument("model", ""), self.get_query_argument("version", "")
        key = models.key_of(name, version) if name else models.any
        models.demand(key)
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(self.around.slow_work, self.book.written, key)
        self.send(Reply(text, 200), "application/json")


class Page(Bound):
    """``GET /docs``"""

    async def get(self) -> None:
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Referrer-Policy", "no-referrer")
        await self.send_file(PAGE, "text/html; charset=UTF-8")


class Asset(Bound):
    """``GET /docs/{asset}``"""

    async def get(self, asset: str) -> None:
        if asset not in TYPES:
            raise tornado.web.HTTPError(404, reason="No such file")
        self.set_header("Cache-Control", "public, max-age=3600")
        await self.send_file(asset, TYPES[asset])


PAGES = (("/openapi.json", OpenApi), ("/docs", Page), ("/docs/{asset}", Asset))
