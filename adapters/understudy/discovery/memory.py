"""An agent without a source: what it finds is said by who holds it. For tests, yours too."""

from __future__ import annotations

import threading

from understudy.core.endpoint import Endpoint
from understudy.discovery.agent import Reports
from understudy.failover import forking

__all__ = ["MemoryAgent"]


class MemoryAgent:
    """Keeps the promises of `DiscoveryAgent` and `ListensOnConnection`. Thread-safe."""

    def __init__(self, *addresses: str) -> None:
        self.starts = 0
        self.connections: list[tuple[Endpoint, object]] = []  # that it was handed
        self._addresses = addresses
        self._reports: Reports | None = None
        self._lock = threading.Lock()
        forking.register(self)

    @property
    def is_started(self) -> bool:
        return self._reports is not None

    def start(self, reports: Reports) -> None:
        with self._lock:
            self.starts += 1
            self._reports = reports
        reports.found(self._addresses)

    def stop(self) -> None:
        with self._lock:
            self._reports = None

    def connected(self, endpoint: Endpoint, connection: object) -> None:
        self.connections.append((endpoint, connection))

    def announce(
        self, *addresses: str, rebalance: bool = False, move_to: str | None = None
    ) -> None:
        """From now on these are the brokers."""
        with self._lock:
            self._addresses, reports = addresses, self._reports
        if reports is not None:
            reports.found(addresses, rebalance=rebalance, move_to=move_to)

    def fail(self, cause: str) -> None:
        """The source cannot be asked at the moment."""
        with self._lock:
            reports = self._reports
        if reports is not None:
            reports.failed(cause)

    def hold(self) -> None:
        self._lock.acquire()

    def let_go(self) -> None:
        self._lock.release()

    def abandon(self) -> None:
        self._lock = threading.Lock()
        self._reports = None
