"""Makes real conda channels: packages in both of their forms, metadata, and an index."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import platform
import struct
import sys
import sysconfig
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

# As long as conda's own builds have it, for the path of the environment has to fit in its place.
PLACEHOLDER = "/opt/placehold".ljust(255, "_")
SUBDIR = {"x86_64": "linux-64"}.get(platform.machine(), f"linux-{platform.machine()}")
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
PYTHON_VERSION = ".".join(map(str, sys.version_info[:3]))
_ZSTD_MAGIC, _ZSTD_WINDOW_128_KIB, _ZSTD_BLOCK = 0xFD2FB528, 7 << 3, 1 << 17
# Of the standard library, what no test needs.
_LEFT_OUT = {"site-packages", "test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3"}


@dataclass(frozen=True)
class Package:
    """A package of a channel; PLACEHOLDER in a file becomes the environment's path.

    A file that is a `str` is a link to that path.
    """

    name: str
    version: str
    files: Mapping[str, bytes | str] = field(default_factory=dict)
    depends: Sequence[str] = ()
    is_noarch: bool = False
    """A package of Python's for every platform: its modules are below site-packages."""
    executables: frozenset[str] = frozenset()

    def write(self, folder: Path, form: str) -> Path:
        stem = f"{self.name}-{self.version}-0"
        path = folder / f"{stem}{form}"
        if form == ".tar.bz2":
            files = {**self._info(), **self.files}
            path.write_bytes(_tar(files, self.executables, "w:bz2"))
            return path
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("metadata.json", json.dumps({"conda_pkg_format_version": 2}))
            for part, files in (("pkg", self.files), ("info", self._info())):
                archive.writestr(f"{part}-{stem}.tar.zst", _zstd(_tar(files, self.executables)))
        return path

    @property
    def subdir(self) -> str:
        return "noarch" if self.is_noarch else SUBDIR

    @property
    def index(self) -> dict[str, Any]:
        """What is told of the package, in itself and in its channel."""
        told = {
            "name": self.name,
            "version": self.version,
            "build": "0",
            "build_number": 0,
            "depends": list(self.depends),
            "subdir": self.subdir,
        }
        return {**told, "noarch": "python"} if self.is_noarch else told

    def _info(self) -> dict[str, bytes | str]:
        paths = {"paths": [*self._paths()], "paths_version": 1}
        info: dict[str, Any] = {"index.json": self.index, "paths.json": paths}
        if self.is_noarch:
            info["link.json"] = {"noarch": {"type": "python"}, "package_metadata_version": 1}
        return {f"info/{name}": json.dumps(content).encode() for name, content in info.items()}

    def _paths(self) -> Iterator[dict[str, Any]]:
        for path, content in self.files.items():
            data = b"" if isinstance(content, str) else content
            entry = {
                "_path": path,
                "path_type": "softlink" if isinstance(content, str) else "hardlink",
                "sha256": hashlib.sha256(data).hexdigest(),
                "size_in_bytes": len(data),
            }
            if PLACEHOLDER.encode() in data:
                mode = "binary" if b"\0" in data else "text"
                entry |= {"prefix_placeholder": PLACEHOLDER, "file_mode": mode}
            yield entry


def _tar(files: Mapping[str, bytes | str], executables: frozenset[str], mode: Any = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.mode = 0o755 if path in executables else 0o644
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _zstd(content: bytes) -> bytes:
    """Give a frame of raw blocks (RFC 8878, 3.1.1): quicker than to compress, and as valid."""
    parts = [struct.pack("<IBB", _ZSTD_MAGIC, 0, _ZSTD_WINDOW_128_KIB)]
    for start in range(0, len(content), _ZSTD_BLOCK):
        block = content[start : start + _ZSTD_BLOCK]
        is_last = start + _ZSTD_BLOCK >= len(content)
        parts += [(is_last | len(block) << 3).to_bytes(3, "little"), block]
    return b"".join(parts)


def write(channel: Path, *packages: Package, form: str = ".conda") -> None:
    """Write a channel with these packages, beside those that it has."""
    for subdir in ("noarch", SUBDIR):
        folder = channel / subdir
        folder.mkdir(parents=True, exist_ok=True)
        index = folder / "repodata.json"
        told = json.loads(index.read_text()) if index.exists() else {"info": {"subdir": subdir}}
        for package in packages:
            if package.subdir == subdir:
                path = package.write(folder, form)
                content = path.read_bytes()
                sums = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
                part = "packages.conda" if form == ".conda" else "packages"
                told.setdefault(part, {})[path.name] = {**package.index, **sums}
        index.write_text(json.dumps(told))


def module(name: str, version: str, depends: Sequence[str] = ("python",)) -> Package:
    """Give a package of one module, with the metadata that pip reads."""
    info = f"site-packages/{name}-{version}.dist-info"
    told = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"site-packages/{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": told,
        f"{info}/INSTALLER": "conda\n",
        f"{info}/RECORD": f"{name}.py,,\n{name}-{version}.dist-info/METADATA,,\n",
    }
    encoded: dict[str, bytes | str] = {path: text.encode() for path, text in files.items()}
    return Package(name, version, encoded, depends, is_noarch=True)


def python() -> Package:
    """Give the Python that runs here as a package. Skips the test where it cannot be moved."""
    prefix = Path(sys.base_prefix)
    binary = prefix / "bin" / PYTHON
    if str(prefix) == "/usr" or not binary.is_file():
        pytest.skip(f"CONDA IS NOT TESTED: the Python in {prefix} cannot be moved")
    files: dict[str, bytes | str] = {
        f"bin/{PYTHON}": _moved(binary.read_bytes(), prefix),
        "bin/python": PYTHON,
        "bin/python3": PYTHON,
        "lib/python3.1": PYTHON,  # as conda-forge's has it
    }
    libraries = [*(prefix / "lib").glob("libpython*.so*")]
    header = Path(sysconfig.get_path("include", vars={"installed_base": str(prefix)}))
    for file in [*libraries, *_standard_library(prefix / "lib" / PYTHON), header / "pyconfig.h"]:
        path = file.relative_to(prefix).as_posix()
        files[path] = str(file.readlink()) if file.is_symlink() else _text_moved(file, prefix)
    return Package(
        "python",
        PYTHON_VERSION,
        files,
        executables=frozenset({f"bin/{PYTHON}"}),
    )


def _standard_library(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        parts = set(file.relative_to(folder).parts)
        is_needed = not parts & {*_LEFT_OUT, "__pycache__"} and file.suffix != ".a"
        if is_needed and (file.is_file() or file.is_symlink()):
            yield file


def _text_moved(file: Path, prefix: Path) -> bytes:
    content = file.read_bytes()
    is_text = b"\0" not in content
    return content.replace(str(prefix).encode(), PLACEHOLDER.encode()) if is_text else content


def _moved(binary: bytes, prefix: Path) -> bytes:
    """Let it look for its library beside itself, where it has been told a path to look at."""
    told, wanted = f"{prefix}/lib".encode() + b"\0", b"$ORIGIN/../lib"
    return binary.replace(told, wanted.ljust(len(told), b"\0"))


NATIVE = Package(
    "native",
    "1.0",
    {
        "share/native/data.txt": b"42",
        "share/native/where.txt": f"{PLACEHOLDER}/share/native\n".encode(),
        "share/man/man1/native.1": b"How to use it",
        "share/doc/native/COPYING": b"You may",
        "include/native.h": b"int native();",
        "lib/libnative.a": b"!<arch>",
        "lib/libnative.so": f"\x7fELF\0{PLACEHOLDER}/share\0end".encode(),
        "bin/.native-post-link.sh": b'#!/bin/sh\necho linked >"$PREFIX/share/native/linked.txt"\n',
        "etc/conda/activate.d/native.sh": b'export NATIVE_DATA="$CONDA_PREFIX/share/native"\n',
        "etc/conda/activate.d/other.sh": b"false\nexport OTHER=$UNSET; false\n",
    },
    executables=frozenset({"bin/.native-post-link.sh"}),
)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve the channels in a folder, and give their address; below /broken it is always 500."""
    with _Server(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that has seen the status and is gone


class _Handler(SimpleHTTPRequestHandler):
    def send_head(self) -> Any:
        if self.path.startswith("/broken/"):
            self.send_error(500)
            return None
        return super().send_head()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass
