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
IP_MINTTL, IPV6_MINHOPCOUNT = 21, 73  # linux/in.h, linux/in6.h
NEAREST = 255
"""Hops that a packet has left which comes from this wire; most systems begin with 64."""

# Classic BPF over the TCP header (Documentation/networking/filter.rst): drop what has SYN set.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # ldb [13]          the flags
    (0x45, 0, 1, 0x02),  # jset #SYN, 0, 1
    (0x06, 0, 0, 0),  # ret #0            drop
    (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1           keep
)


def ignore_new_connections(listener: socket.socket) -> bool:
    """Let the kernel drop attempts to connect from now on, for every process that listens.

    Connections that are being made are still made, but :func:`admit` has to be called for them. A
    client that tries in vain tries again after a second, when the socket may be closed, and is then
    refused. False where this system cannot.
    """
    return _filter_attempts(listener) or _take_from(listener, NEAREST)


def admit(connection: socket.socket) -> None:
    """Let a connection be heard that a socket has accepted which :func:`ignore_new_connections`."""
    _take_from(connection, 0)


def _filter_attempts(listener: socket.socket) -> bool:
    """Attach a filter, which newer kernels let only root do."""
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    program = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program))
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, described)
    except OSError as error:
        log.debug("the kernel takes no filter for a listening socket: %s", error)
        return False
    return True


def _take_from(any_socket: socket.socket, hops: int) -> bool:
    """Have packets dropped that have fewer hops left; anybody may, and it is inherited.

    But not that which ends a handshake: Linux looks at its hops no more (tcp_ipv4.c, tcp_v4_rcv).
    """
    is_ipv6 = any_socket.family == socket.AF_INET6
    try:
        # An IPv6 socket may have connections of IPv4, too.
        any_socket.setsockopt(socket.IPPROTO_IP, IP_MINTTL, hops)
        if is_ipv6:
            any_socket.setsockopt(socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT, hops)
    except OSError as error:
        log.debug("the kernel does not look at hops: %s", error)
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
