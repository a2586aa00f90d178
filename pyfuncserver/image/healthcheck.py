"""The image's HEALTHCHECK: ``python -m pyfuncserver.image.healthcheck`` asks whether it is ready.

It runs every half minute for as long as the container lives, and so imports next to nothing.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection

PORT_VARIABLES = ("CARAML_HTTP_PORT", "PREDICTIVE_UNIT_HTTP_SERVICE_PORT")
"""The setting's names, the first one that is set wins (config.py, seldon_names.py)."""
DEFAULT_PORT = 8080
PATH = "/v2/health/ready"
TIMEOUT_S = 4.0


def main(environ: Mapping[str, str]) -> int:
    """Give 0 where predictions would be answered, else 1 and a line that says why not."""
    port = next((environ[name] for name in PORT_VARIABLES if environ.get(name)), str(DEFAULT_PORT))
    try:
        problem = _problem(int(port), environ)
    except (OSError, ValueError, HTTPException) as error:
        problem = str(error) or repr(error)
    if problem:
        sys.stdout.write(f"{PATH} on port {port}: {problem}\n")
    return 1 if problem else 0


def _problem(port: int, environ: Mapping[str, str]) -> str:
    if environ.get("TLS_CLIENT_CA"):
        # Who has no certificate is not answered; that somebody listens is all there is to see.
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S):
            return ""
    connection = _connection(port, is_encrypted=bool(environ.get("TLS_CERT")))
    try:
        connection.request("GET", PATH)
        status = connection.getresponse().status
    finally:
        connection.close()
    return "" if status == 200 else f"answered {status}"


def _connection(port: int, is_encrypted: bool) -> HTTPConnection:
    if not is_encrypted:
        return HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    # The name in the certificate is not this address, and whom it asks is not in question.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_S, context=context)


if __name__ == "__main__":
    sys.exit(main(os.environ))
