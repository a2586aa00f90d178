"""What the kernel can do for a listening socket, and Python has no call for."""

from __future__ import annotations

import ctypes
import logging
import socket
import struct

log = logging.getLogger(__name__)

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
