"""Tells systemd how this service is, where systemd asks for it (NOTIFY_SOCKET)."""

from __future__ import annotations

import contextlib
import os
import socket

__all__ = ["notify"]


def notify(*lines: str) -> None:
    """``READY=1``, ``RELOADING=1``, ``STOPPING=1``, ``STATUS=…``. Nothing where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.setblocking(False)
        sock.sendto("\n".join(lines).encode(), address.replace("@", "\0", 1))
