"""Tells systemd how this service is, where systemd asks for it (NOTIFY_SOCKET)."""

from __future__ import annotations

import contextlib
import os
import socket
import time

__all__ = ["notify", "notify_alive", "notify_reloading"]


def notify(*lines: str) -> None:
    """``READY=1``, ``STOPPING=1``, ``STATUS=…``. Nothing where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.setblocking(False)
        sock.sendto("\n".join(lines).encode(), address.replace("@", "\0", 1))


def notify_reloading() -> None:
    """``READY=1`` is to follow."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def notify_alive() -> None:
    """What is asked for by WatchdogSec, of the process that WATCHDOG_PID names, if it names one."""
    is_asked = os.environ.get("WATCHDOG_USEC", "").isdigit()
    if is_asked and os.environ.get("WATCHDOG_PID") in (None, "", str(os.getpid())):
        notify("WATCHDOG=1")
