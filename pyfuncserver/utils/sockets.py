"""What the kernel can do for a listening socket, and Python has no call for."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

MANY_DESCRIPTORS = 1 << 20
SO_ATTACH_FILTER = 26  # asm-generic/socket.h

# Classic BPF over the TCP header (Documentation/networking/filter.rst): drop what has SYN set.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # ldb [13]          the flags
    (0x45, 0, 1, 0x02),  # jset #SYN, 0, 1
    (0x06, 0, 0, 0),  # ret #0            drop
    (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1           keep
)


def ignore_new_connections(listener: socket.socket) -> bool:
    """Let the kernel drop attempts to connect from now on, for every process that listens.

    Connections that are being made are still made. A client that tries in vain tries again after
    a second, when the socket may be closed, and is then refused. False where this system cannot.
    """
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    program = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program))
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, described)
    except OSError as error:
        log.debug("connections made in this very moment may be lost: %s", error)
        return False
    return True


def own_sockets(port: int) -> Iterator[socket.socket]:
    """Iterate over this process's TCP sockets at a port, also those that a library keeps to itself.

    Each is a duplicate, closed when the next is asked for: what is set holds for the original.
    None where the system has no ``/proc``.
    """
    descriptors = Path("/proc/self/fd")
    for descriptor in list(descriptors.iterdir()) if descriptors.is_dir() else ():
        duplicate = _duplicate(int(descriptor.name))
        if duplicate is not None:
            with duplicate:
                if _local_port(duplicate) == port:
                    yield duplicate


def _duplicate(descriptor: int) -> socket.socket | None:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return None
        return socket.socket(fileno=os.dup(descriptor))
    except OSError:  # closed meanwhile
        return None


def _local_port(any_socket: socket.socket) -> int:
    if any_socket.family not in (socket.AF_INET, socket.AF_INET6):
        return -1
    try:
        return int(any_socket.getsockname()[1])
    except OSError:
        return -1


def is_listening(any_socket: socket.socket) -> bool:
    return bool(any_socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def has_connections(port: int) -> bool:
    """Tell whether this process has a connection that came to the port."""
    return any(_is_connected(one) for one in own_sockets(port))


def _is_connected(any_socket: socket.socket) -> bool:
    try:
        any_socket.getpeername()
    except OSError:
        return False
    return True


def stop_listening(listener: socket.socket) -> None:
    """Let nobody connect any more. Of sockets that share a port, the others go on listening."""
    try:
        listener.shutdown(socket.SHUT_RD)
    except OSError as error:  # somebody else has done it
        log.debug("the socket does not listen any more: %s", error)


def raise_descriptor_limit() -> None:
    """Let this process, and those it starts, have as many descriptors as is of use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MANY_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        log.warning("the limit of %d open files stays: %s", soft, error)
