"""TLS of both protocols, from the files that the settings name; renewed files are taken up."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from pyfuncserver.errors import StartupError
from pyfuncserver.utils.renewal import Renewed


@dataclass(frozen=True)
class Material:
    """What the files hold, and what HTTP makes of it. Never log it: the private key is in it."""

    context: ssl.SSLContext
    cert: bytes
    key: bytes
    client_ca: bytes | None

    def __repr__(self) -> str:
        return "Material(...)"


class ServerTls:
    """A certificate with its key and, where clients need one too, their authorities. Thread-safe.

    Raises: StartupError that names the setting and the file that will not do.
    """

    def __init__(self, cert: str, key: str, client_ca: str = "") -> None:
        self.demands_client_certificates = bool(client_ca)
        paths = [path for path in (cert, key, client_ca) if path]
        self._material = Renewed(paths, lambda: _load(cert, key, client_ca))

    def material(self) -> Material:
        """Give what the files hold by now: the same object, unless they were renewed."""
        return self._material.get()


def of(cert: str, key: str, client_ca: str) -> ServerTls | None:
    """Give the TLS that the settings ask for. Raises: StartupError"""
    return ServerTls(cert, key, client_ca) if cert else None


def check(cert: str, key: str, client_ca: str) -> bool:
    """Tell whether TLS is asked for. Raises: StartupError where a file will not do."""
    if cert:
        _load(cert, key, client_ca)
    return bool(cert)


def _load(cert: str, key: str, client_ca: str) -> Material:
    return Material(
        context=_context(cert, key, client_ca),
        cert=_read("TLS_CERT", cert),
        key=_read("TLS_KEY", key),
        client_ca=_read("TLS_CLIENT_CA", client_ca) if client_ca else None,
    )


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StartupError(f"{setting}={path!r} cannot be read: {error.strerror}") from None


def _context(cert: str, key: str, client_ca: str) -> ssl.SSLContext:
    _read("TLS_CERT", cert)  # the ssl module does not say which file it could not read
    _read("TLS_KEY", key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_refuse_to_ask)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise StartupError(
            f"TLS_CERT={cert!r} and TLS_KEY={key!r} cannot be used together: {_why(error)}"
        ) from None
    if client_ca:
        _demand_certificates(context, client_ca)
    return context


def _refuse_to_ask() -> str:
    raise ValueError("the key is encrypted, and nobody is there to be asked for its password")


def _demand_certificates(context: ssl.SSLContext, client_ca: str) -> None:
    _read("TLS_CLIENT_CA", client_ca)
    try:
        context.load_verify_locations(client_ca)
    except OSError as error:
        raise StartupError(f"TLS_CLIENT_CA={client_ca!r} cannot be used: {_why(error)}") from None
    context.verify_mode = ssl.CERT_REQUIRED


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)
