"""What may stand in ``--model_dir``, told apart by its scheme."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from pyfuncserver.errors import StartupError

# Written without an authority, so that one slash, or none, makes them no path.
REGISTRY_SCHEMES = frozenset({"models", "runs"})
SCHEMES_WITHOUT_HOST = REGISTRY_SCHEMES | {"mlflow-artifacts", "dbfs"}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?")  # RFC 3986, 3.1; one letter is a drive
_LOCALHOST = ("", "localhost")  # RFC 8089, section 2


def scheme_of(address: str) -> str:
    """Give an address's scheme in lower case; empty for a path, even one that has a colon."""
    found = _SCHEME.match(address)
    if found is None:
        return ""
    scheme = found[1].lower()
    is_address = found[2] or scheme == "file" or scheme in SCHEMES_WITHOUT_HOST
    return scheme if is_address else ""


def is_remote(address: str) -> bool:
    """Tell whether an address has to be fetched, or asked for, before it is a local path."""
    return scheme_of(address) not in {"", "file"}


def local(address: str) -> Path:
    """Give the path of a local address: a path, or a ``file:`` URL of this machine.

    Links are followed: MLflow refuses artifacts that a link leads to out of the directory that it
    was given, and a link is how a new version is put in place at once (Kubernetes does so).

    Raises: StartupError where nothing is there.
    """
    path = _path_of_url(address) if scheme_of(address) == "file" else Path(address)
    try:
        return path.resolve(strict=True)
    except FileNotFoundError:
        reason = "does not exist: no such directory"
    except NotADirectoryError:
        reason = "does not exist: a part of the path is a file"
    except ValueError:
        reason = "is not a path: it holds a byte that no path may have"
    except RuntimeError:  # Python 3.12 and older, of links that lead to one another
        reason = "cannot be reached: a link leads to itself"
    except OSError as error:
        reason = f"cannot be reached: {error.strerror}"
    raise StartupError(f"the model {address} {reason}")


def _path_of_url(address: str) -> Path:
    """Read ``file:/path``, ``file:///path``, ``file://localhost/path``: RFC 8089; ``file:path``.

    Such a URL has neither a query nor a fragment: a ``?`` or ``#`` belongs to the path.
    """
    rest = address[len("file:") :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in _LOCALHOST:
            raise StartupError(
                f"the model {address} cannot be read: {host!r} stands where a host does; "
                "a local path has three slashes (file:///path)"
            )
        rest = slash + path
    if not rest:
        raise StartupError(f"the model {address} does not exist: it names no path")
    return Path(unquote(rest))
