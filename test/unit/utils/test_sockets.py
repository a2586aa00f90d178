from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pyfuncserver.utils import sockets

LIMITED = """
import resource
from pyfuncserver.utils import sockets
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
sockets.raise_descriptor_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard"), [(100, 500), (500, 500)])
def test_the_descriptor_limit_is_raised_as_far_as_it_may_be(soft: int, hard: int) -> None:
    command = [sys.executable, "-c", LIMITED.format(soft=soft, hard=hard)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == [str(hard), str(hard)]


UNPRIVILEGED = """
import os, socket, sys
from pyfuncserver.utils import sockets
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
listener = socket.socket(fileno=int(sys.argv[1]))
print(sockets.ignore_new_connections(listener))
"""


@contextlib.contextmanager
def _listening(address: str) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if address == "::1" else socket.AF_INET
    with socket.create_server(
        ("" if family == socket.AF_INET else "::", 0),
        family=family,
        dualstack_ipv6=family == socket.AF_INET6,
    ) as listener:
        os.set_inheritable(listener.fileno(), True)
        yield listener


def _ignore(listener: socket.socket, as_root: bool) -> bool:
    if as_root:
        return sockets.ignore_new_connections(listener)
    command = [sys.executable, "-c", UNPRIVILEGED, str(listener.fileno())]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=30, close_fds=False
    )
    return done.stdout.strip() == "True"


@pytest.mark.parametrize("as_root", [True, False])
@pytest.mark.parametrize(
    ("bound", "address"), [("", "127.0.0.1"), ("::1", "::1"), ("::1", "127.0.0.1")]
)
def test_new_connections_are_ignored_and_others_are_not(
    bound: str, address: str, as_root: bool
) -> None:
    with _listening(bound) as listener:
        target = (address, listener.getsockname()[1])
        with socket.create_connection(target, 30) as first:
            assert _ignore(listener, as_root)
            with pytest.raises(TimeoutError):
                socket.create_connection(target, 0.3)
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(30)
                first.sendall(b"heard")
                assert accepted.recv(5) == b"heard"


def test_a_connection_of_that_moment_is_heard_when_it_is_admitted() -> None:
    with _listening("") as listener, socket.socket() as client:
        assert sockets._take_from(listener, sockets.NEAREST)
        # It gets through its handshake as if that had begun before.
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, sockets.NEAREST)
        client.settimeout(30)
        client.connect(("127.0.0.1", listener.getsockname()[1]))
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 64)
        accepted, _ = listener.accept()
        with accepted:
            client.sendall(b"heard")
            accepted.settimeout(0.3)
            with pytest.raises(TimeoutError):
                accepted.recv(5)
            sockets.admit(accepted)
            accepted.settimeout(30)
            assert accepted.recv(5) == b"heard"
