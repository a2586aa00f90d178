"""Brings a model's files into the build: from the build's context, ``s3://`` or ``gs://``.

Credentials are those that the storage's own client finds in its variables. They are build
arguments of a stage of which only files go into the image.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pyfuncserver.errors import StartupError

SCHEMES = ("s3", "gs")
# As Merlin names them (MLFLOW_ARTIFACT_STORAGE_TYPE).
STORAGE_TYPES = {"s3": "s3", "gcs": "gs"}
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "GOOGLE_APPLICATION_CREDENTIALS",
)
"""Build arguments that a storage's client reads; all but the last are Amazon's."""

Item = tuple[str, Callable[[Path], None]]
"""An object's key, and what writes it to a file."""


def is_downloaded(address: str) -> bool:
    """Tell whether the build brings what is at the address from a store by itself."""
    return address.startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def scheme_of(url: str) -> str:
    """Give ``s3`` or ``gs``; empty for a path. Raises: StartupError for any other."""
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme and scheme not in SCHEMES:
        raise StartupError(
            f"{scheme}:// is no address that an image's build can read: it reads a path in its "
            "context, s3:// and gs://"
        )
    return scheme


def check_storage_type(storage_type: str, url: str) -> None:
    """Raises: StartupError where Merlin's word for the storage is another than the address's."""
    if storage_type and storage_type not in STORAGE_TYPES:
        known = ", ".join(STORAGE_TYPES)
        raise StartupError(f"MLFLOW_ARTIFACT_STORAGE_TYPE={storage_type!r} is none of {known}")
    scheme = scheme_of(url)
    if storage_type and scheme and STORAGE_TYPES[storage_type] != scheme:
        raise StartupError(f"MLFLOW_ARTIFACT_STORAGE_TYPE={storage_type} does not fit {url}")


def forget_empty(environ: MutableMapping[str, str]) -> None:
    """Take credentials out that are empty: Merlin hands on what it does not have, too."""
    for name in CREDENTIALS:
        if environ.get(name) == "":
            del environ[name]


def fetch(url: str, context: Path, target: Path) -> None:
    """Put the file, or the folder's files, that an address names at ``target``.

    Raises: StartupError where there is none, or it cannot be read.
    """
    scheme = scheme_of(url)
    if not scheme:
        _copy(url, context, target)
        return
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    listed = _OBJECTS[scheme](parts.netloc, prefix)
    if not _write(listed, prefix, target):
        raise StartupError(f"there is nothing at {url}")


def _copy(path: str, context: Path, target: Path) -> None:
    source = (context / path).resolve()
    if Path(path).is_absolute() or not source.is_relative_to(context.resolve()):
        raise StartupError(f"{path!r} is not inside the build's context")
    if not source.exists():
        raise StartupError(f"there is no {path!r} in the build's context")
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _write(objects: Iterable[Item], prefix: str, target: Path) -> int:
    """Write the objects that are the address or below it; give how many there were."""
    count = 0
    for key, download in objects:
        if key.endswith("/") or not (key == prefix or key.startswith(f"{prefix}/")):
            continue
        below = PurePosixPath(key).relative_to(prefix)
        if ".." in below.parts:
            raise StartupError(f"the object {key!r} is named out of its folder")
        file = target / below
        file.parent.mkdir(parents=True, exist_ok=True)
        download(file)
        count += 1
    return count


def _s3(bucket: str, prefix: str) -> Iterator[Item]:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    # Newer clients read AWS_ENDPOINT_URL by themselves.
    client = boto3.client("s3", endpoint_url=os.environ.get("AWS_ENDPOINT_URL"))

    def download(key: str) -> Callable[[Path], None]:
        return lambda file: client.download_file(bucket, key, str(file))

    try:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for entry in page.get("Contents", ()):
                yield entry["Key"], download(entry["Key"])
    except (BotoCoreError, ClientError) as error:
        raise StartupError(f"s3://{bucket}/{prefix} cannot be read: {error}") from None


def _gs(bucket: str, prefix: str) -> Iterator[Item]:
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage

    def download(blob: storage.Blob) -> Callable[[Path], None]:
        return lambda file: blob.download_to_filename(str(file))

    try:
        for blob in storage.Client().list_blobs(bucket, prefix=prefix):
            yield blob.name, download(blob)
    except (GoogleAPIError, GoogleAuthError) as error:
        raise StartupError(f"gs://{bucket}/{prefix} cannot be read: {error}") from None
    except OSError as error:  # the file of credentials
        raise StartupError(f"gs://{bucket}/{prefix}: {error}") from None


_OBJECTS: dict[str, Callable[[str, str], Iterator[Item]]] = {"s3": _s3, "gs": _gs}
