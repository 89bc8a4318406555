"""Free TCP ports on 127.0.0.1 that stay free while their server is down."""

from __future__ import annotations

import random
import socket
import sys
from pathlib import Path

__all__ = ["Port", "free_port"]

# Below the range the kernel takes client ports from: a client that hammers the port of a dead
# server would otherwise connect to itself some day, and hold the port against the restart.
_LOWEST = 10_000
_random = random.SystemRandom()  # test runners seed the global generator alike in every test


class Port:
    """A port number that no other process using this module will pick while this object lives.

    The claim is a name in the abstract socket namespace: it leaves no file and ends with us.
    """

    def __init__(self, number: int | None = None) -> None:
        self._claim: socket.socket | None = None
        if number is not None:
            self.number = number
            return
        below = _first_client_port()
        for _ in range(1000):
            candidate = _random.randrange(_LOWEST, below) if below > _LOWEST + 1000 else 0
            claimed = _claim(candidate)
            if claimed is not None:
                self._claim, self.number = claimed
                return
        raise OSError("no free TCP port on 127.0.0.1")

    def release(self) -> None:
        """Give the number back. Idempotent."""
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def __del__(self) -> None:
        self.release()


def free_port() -> int:
    """A port that is free now; nobody keeps it for the caller."""
    port = Port()
    try:
        return port.number
    finally:
        port.release()


def _claim(candidate: int) -> tuple[socket.socket, int] | None:
    """Claim a number (0: let the kernel choose); None when it is taken."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", candidate))
            number = int(probe.getsockname()[1])
        if sys.platform == "linux":
            claim.bind(f"\0understudy-port-{number}")
    except OSError:
        claim.close()
        return None
    return claim, number


def _first_client_port() -> int:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    except OSError:
        return 32_768
    return int(text.split()[0])
