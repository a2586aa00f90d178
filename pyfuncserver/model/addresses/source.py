"""What an address means now: an alias becomes a version, a version a location.

MLflow's repositories do it. From MLflow 1.26 on those of ``runs:`` and ``models:`` addresses hold
the one that they stand for as ``repo``, which in turn may hold another.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pyfuncserver.model.addresses.address import REGISTRY_SCHEMES, scheme_of
from pyfuncserver.model.addresses.failure import Unfetchable
from pyfuncserver.model.addresses.redaction import shown

TRACKING, REGISTRY = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"
HTTP_SCHEMES = frozenset({"http", "https"})
NOT_FOUND = 404
# Where a tracking server serves artifacts (MLflow's REST API, "mlflow-artifacts").
ARTIFACTS_ENDPOINT = "/mlflow-artifacts/artifacts"
# MLflow itself goes on for some four minutes, with 120 s for each attempt. A server that is down
# is to be told of while somebody looks. (MLflow 1.26 has no such variables, and takes a minute.)
RETRIES = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
# Not for downloads: a server may have to fetch a file itself before it sends the first byte.
PATIENCE = {**RETRIES, "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a model lies, and who can read it."""

    repository: Any
    """An ``ArtifactRepository`` of MLflow's."""
    location: str
    """The repository's URI; it may hold credentials."""
    version: str = ""
    """The registered model's, where the address names one in any way."""


@contextmanager
def variables(wanted: dict[str, str]) -> Iterator[None]:
    """Set variables that the user has not set, and take them away again: the model's not to see."""
    ours = {name: text for name, text in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def check(address: str) -> None:
    """Refuse what can be refused without asking anybody. Raises: Unfetchable."""
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

    scheme = scheme_of(address)
    known = _artifact_repository_registry._registry
    if scheme not in known:
        names = ", ".join(sorted(filter(None, known)))
        raise Unfetchable(f"the scheme {scheme!r} is unknown; known are {names}")
    if scheme in HTTP_SCHEMES and ARTIFACTS_ENDPOINT not in urlsplit(address).path:
        raise Unfetchable(
            f"it is not the URL of artifacts of an "
            f"MLflow server (http(s)://HOST/api/2.0{ARTIFACTS_ENDPOINT}/PATH)"
        )
    needed = (TRACKING, REGISTRY) if scheme == "models" else (TRACKING,)
    asks_server = scheme in REGISTRY_SCHEMES or scheme == "mlflow-artifacts"
    if asks_server and not any(os.environ.get(name) for name in needed):
        raise Unfetchable(f"{' or '.join(needed)} has to be set to the MLflow server that knows it")


def resolve(address: str) -> list[Source]:
    """Give the places where the model may be, the likeliest first.

    Raises: whatever MLflow and the stores' libraries do.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with variables(PATIENCE):
        outer = get_artifact_repository(address)
        sources = [_innermost(outer)]
        if scheme_of(address) == "runs":
            sources += _logged_model(outer, address)
    return sources


def tell(address: str, source: Source) -> None:
    """Log what an address of a registry means now."""
    if scheme_of(address) in REGISTRY_SCHEMES:
        what = f"version {source.version}, " if source.version else ""
        log.info("%s is %sat %s", shown(address), what, shown(source.location))


def _innermost(repository: Any) -> Source:
    version = getattr(repository, "model_version", None)  # MLflow 2.4 and later
    while (inner := getattr(repository, "repo", None)) is not None:
        repository = inner
    return Source(repository, str(repository.artifact_uri), str(version or ""))


def _logged_model(repository: Any, address: str) -> list[Source]:
    """Find the model that a run has logged under the name: MLflow 3 keeps it beside the run."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    if not hasattr(client, "search_logged_models"):
        return []
    run_id, path = type(repository).parse_runs_uri(address)
    name, _, inside = (path or "").partition("/")
    if not name:
        return []
    experiment = client.get_run(run_id).info.experiment_id
    try:
        for model in _models_named(name, experiment, client):
            if model.source_run_id == run_id:
                return [at(f"{model.artifact_location}/{inside}".rstrip("/"))]
    except MlflowException as error:
        if error.get_http_status_code() != NOT_FOUND:
            raise
        log.debug("the tracking server is older than MLflow 3: %s", error)
    return []


def _models_named(name: str, experiment: str, client: Any) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_logged_models(
            [experiment], filter_string=f"name = '{name}'", page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def at(location: str) -> Source:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return _innermost(get_artifact_repository(location))


def parent_of(source: Source) -> tuple[Source, str] | None:
    """Give the directory that something lies in, and its name there; None at a store's root."""
    parent, _, name = source.location.rstrip("/").rpartition("/")
    at_root = parent.endswith(("/", ":")) or not name
    if at_root or (urlsplit(parent).scheme in HTTP_SCHEMES and ARTIFACTS_ENDPOINT not in parent):
        return None
    return at(parent), name
