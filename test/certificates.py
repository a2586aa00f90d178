"""Certificates for tests, made by the command ``openssl``."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates; its own is ``cert``."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._own = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        self.cert = self._own.cert
        subject = ["-subj", f"/CN={name}", "-days", "2"]
        _openssl("req", "-x509", *_new_key(self._own), *subject, "-out", str(self.cert))

    def issue(self, name: str) -> Pair:
        """Make a certificate for this host."""
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n", encoding="utf-8")
        _openssl("req", *_new_key(pair), "-subj", f"/CN={name}", "-out", str(request))
        _openssl(
            *("x509", "-req", "-in", str(request), "-days", "2", "-out", str(pair.cert)),
            *("-CA", str(self._own.cert), "-CAkey", str(self._own.key), "-CAcreateserial"),
            *("-extfile", str(extensions)),
        )
        return pair

    def client_context(self, pair: Pair | None = None) -> ssl.SSLContext:
        """Make what a client needs that trusts this authority, and shows a certificate itself."""
        context = ssl.create_default_context(cafile=str(self.cert))
        if pair is not None:
            context.load_cert_chain(pair.cert, pair.key)
        return context


def _new_key(pair: Pair) -> list[str]:
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    return [*curve, "-keyout", str(pair.key)]


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
