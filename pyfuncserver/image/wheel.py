"""Packs the server that runs here into a wheel, whether it was installed or is a checkout.

A wheel is a zip of the package beside a folder of metadata (PEP 427), and both are at hand: so
the image gets the very code that was asked to build it, without a build backend or an index.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pyfuncserver
from pyfuncserver.errors import StartupError

NAME = "pyfuncserver"
PACKAGE = Path(pyfuncserver.__file__).parent
_WHEEL = "Wheel-Version: 1.0\nGenerator: pyfuncserver\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write(folder: Path) -> Path:
    """Write the wheel into a folder and give its path.

    Raises: StartupError where the server is not installed, not even as a checkout.
    """
    try:
        distribution = metadata.distribution(NAME)
    except metadata.PackageNotFoundError:
        raise StartupError("the server is not installed here: pip install it first") from None
    stem = f"{NAME}-{distribution.version}"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        record = []
        for name, content in _files(distribution, f"{stem}.dist-info"):
            archive.writestr(name, content)
            record.append(f"{name},sha256={_digest(content)},{len(content)}\n")
        own = f"{stem}.dist-info/RECORD"
        archive.writestr(own, "".join([*record, f"{own},,\n"]))
    return path


def _files(distribution: metadata.Distribution, folder: str) -> Iterator[tuple[str, bytes]]:
    for file in sorted(PACKAGE.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            yield f"{NAME}/{file.relative_to(PACKAGE).as_posix()}", file.read_bytes()
    yield f"{folder}/WHEEL", _WHEEL.encode()
    # PKG-INFO: in a checkout's own folder the metadata that setuptools left there is found first.
    told = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO")
    if not told:
        raise StartupError("the server's metadata is gone: pip install it again")
    yield f"{folder}/METADATA", told.encode()
    yield f"{folder}/entry_points.txt", (distribution.read_text("entry_points.txt") or "").encode()


def _digest(content: bytes) -> str:
    digest = hashlib.sha256(content).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
