"""The files that a model consists of, with what tells one content from another of the same size."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pyfuncserver.model.addresses.failure import Unfetchable
from pyfuncserver.model.addresses.source import HTTP_SCHEMES, Source, at, parent_of

MLMODEL = "MLmodel"
PEEK = "peek-"
DEEPEST = 64
PATIENCE_S = 20.0
"""How long Google's storage is asked for a listing; its library does so for 120 s."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Item:
    """A file: its path relative to the repository, its bytes, and its version in the store."""

    path: str
    size: int | None
    """None where the store does not tell."""
    version: str = ""
    """An ETag or the like; empty where the store does not tell."""


@dataclass(frozen=True)
class Listing:
    """What is there: the files of a directory, or one file."""

    source: Source
    items: list[Item]
    is_file: bool
    state: str = ""
    """What tells this content from another where the store has no versions; see `identified`."""
    is_state_of_content: bool = True

    @property
    def size(self) -> int:
        """The bytes of all files, as far as they are known."""
        return sum(item.size or 0 for item in self.items)

    def has_become(self, later: Listing) -> bool:
        """Tell whether what is listed later is something else."""
        has_another_state = self.state != later.state and self.is_state_of_content
        return self.items != later.items or has_another_state

    def key(self) -> str:
        """Hash where it is and what is there; credentials have no part in it."""
        files = [[item.path, item.size, item.version] for item in self.items]
        text = json.dumps([_without_user(self.source.location), files, self.state])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def take(sources: list[Source]) -> Listing:
    """List the first place where something is.

    Raises: Unfetchable where there is nothing, or what may not be; whatever the stores' libraries
    raise.
    """
    for source in sources:
        items = _items_of(source)
        if items:
            return Listing(source, items, is_file=False)
    for source in sources:
        found = _single_file(source)
        if found is not None:
            return found
    raise Unfetchable("nothing is there: it does not exist, or is empty")


def identified(listing: Listing, room: Path, download: Callable[[Item, Path], None]) -> Listing:
    """Add what tells this content from another where the store has no versions.

    MLflow's repositories list neither ETags nor times, and models of one kind are often of the
    same size. But an MLmodel file has an id and a time of its own; ``download`` is asked for each
    of them, into a directory within ``room``. What no MLmodel file stands for is taken for new.
    """
    if all(item.version for item in listing.items):
        return listing
    markers = [item for item in listing.items if PurePosixPath(item.path).name == MLMODEL]
    if not _stand_for(markers, listing.items):
        return replace(listing, state=uuid.uuid4().hex, is_state_of_content=False)
    state = hashlib.sha256()
    with tempfile.TemporaryDirectory(prefix=PEEK, dir=room) as directory:
        for number, marker in enumerate(markers):
            path = Path(directory) / str(number)
            download(marker, path)
            state.update(hashlib.sha256(path.read_bytes()).digest())
    return replace(listing, state=state.hexdigest())


def _stand_for(markers: list[Item], items: list[Item]) -> bool:
    """Tell whether each file is in the directory of a model, or below one."""
    models = {PurePosixPath(marker.path).parent for marker in markers}
    return all(models.intersection(PurePosixPath(item.path).parents) for item in items)


def _without_user(location: str) -> str:
    parts = urlsplit(location)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


def _items_of(source: Source) -> list[Item]:
    lister = _lister_of(source) or _listed_by_mlflow
    return sorted(map(_checked, lister(source, "/")), key=lambda item: item.path)


def _lister_of(source: Source) -> Callable[[Source, str], Iterator[Item]] | None:
    """Give a lister that knows versions; none where a plugin's repository reads such a scheme."""
    if type(source.repository).__name__ == "S3ArtifactRepository":
        return _listed_by_s3
    if type(source.repository).__name__ == "GCSArtifactRepository":
        return _listed_by_gcs
    return None


def _single_file(source: Source) -> Listing | None:
    """Find a file at the location itself: MLflow lists nothing there."""
    found = parent_of(source)
    if found is None:
        return None
    parent, name = found
    parent = replace(parent, version=source.version)
    lister = _lister_of(source)
    if lister is not None:
        items = [replace(item, path=name) for item in lister(source, "") if not item.path]
    else:
        infos = parent.repository.list_artifacts(None)
        items = [_item(info) for info in infos if info.path == name and not info.is_dir]
    return Listing(parent, [_checked(items[0])], is_file=True) if items else None


def _checked(item: Item) -> Item:
    """Refuse a path that would lead out of the cache; a store may hold any name."""
    path = PurePosixPath(item.path)
    is_plain = str(path) == item.path  # else another name may mean the same file
    if not is_plain or path.is_absolute() or ".." in path.parts or _CONTROL.search(item.path):
        raise Unfetchable(f"it holds a file whose name cannot be used: {item.path!r}")
    return item


def _item(info: Any) -> Item:
    return Item(str(info.path), None if info.file_size is None else int(info.file_size))


def _listed_by_mlflow(source: Source, _: str) -> Iterator[Item]:
    yield from _walk(source, None, 0)


def _walk(source: Source, path: str | None, depth: int) -> Iterator[Item]:
    if depth > DEEPEST:
        raise Unfetchable(f"its directories are nested more than {DEEPEST} deep")
    infos = source.repository.list_artifacts(path)
    if path and not infos and urlsplit(source.location).scheme in HTTP_SCHEMES:
        # MLflow lists a directory that holds one file, of the directory's name, as if it were
        # that file: as empty. It does not at the root of a repository.
        inner = at(f"{source.location.rstrip('/')}/{path}")
        for item in _walk(inner, None, depth):
            yield replace(item, path=f"{path}/{item.path}")
    for info in infos:
        if info.path in {".", path}:  # some stores list a directory in itself
            continue
        if info.is_dir:
            yield from _walk(source, info.path, depth + 1)
        else:
            yield _item(info)


def _listed_by_s3(source: Source, end: str) -> Iterator[Item]:
    """List what is below the location (``end`` is a slash), or the object there (it is empty).

    With ETags, which MLflow leaves out, and a thousand objects a request.
    """
    bucket, prefix = _bucket_and_prefix(source.location, end)
    pages = source.repository._get_s3_client().get_paginator("list_objects_v2")
    limit = (
        {} if end else {"MaxItems": 1, "PageSize": 1}
    )  # they come in order: the object before longer names
    for page in pages.paginate(Bucket=bucket, Prefix=prefix, PaginationConfig=limit):
        for found in page.get("Contents", []):
            if end and found["Key"].endswith("/"):  # the mark of a directory
                continue
            yield Item(found["Key"][len(prefix) :], int(found["Size"]), found.get("ETag", ""))


def _listed_by_gcs(source: Source, end: str) -> Iterator[Item]:
    """List as :func:`_listed_by_s3` does, with generations."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    bucket, prefix = _bucket_and_prefix(source.location, end)
    retry = DEFAULT_RETRY.with_deadline(PATIENCE_S)
    repository = source.repository  # MLflow 1.26's makes a client for each file
    client = repository.client if hasattr(repository, "client") else repository.gcs.Client()
    limit = None if end else 1
    for blob in client.list_blobs(bucket, prefix=prefix, max_results=limit, retry=retry):
        if end and blob.name.endswith("/"):
            continue
        version = blob.generation or blob.etag or ""
        is_unpacked = blob.content_encoding == "gzip"  # by Google's library: it comes longer
        size = None if is_unpacked else int(blob.size)
        yield Item(blob.name[len(prefix) :], size, str(version))


def _bucket_and_prefix(location: str, end: str) -> tuple[str, str]:
    """Take a location apart as MLflow does, which will download from there.

    Raises: Unfetchable where MLflow would take another one for it.
    """
    parts = urlsplit(location)
    if not parts.netloc:
        raise Unfetchable(f"it names no bucket ({parts.scheme}://BUCKET/PATH)")
    if "@" in parts.netloc:
        raise Unfetchable("credentials cannot be a part of it; they belong into variables")
    if "?" in location or "#" in location:
        raise Unfetchable("MLflow reads no such address that holds a ? or a #")
    key = parts.path.removeprefix("/")
    if not end:
        return parts.netloc, key.rstrip("/")
    return parts.netloc, key if not key or key.endswith("/") else f"{key}/"
