"""Ready connections to endpoints other than the current one: backups, and the way home.

Rules
* `backup=true` keeps ``backupPoolSize`` of them, in the order in which endpoints would be tried,
  and refills periodically: ActiveMQ refills only on events, and so never again after a moment in
  which all other brokers were down.
* `priorityBackup=true` also dials priority endpoints while the current one is not among them.
  When a spare to one of them has lived for `SETTLE_TIME`, it is time to move home: a broker that
  flaps is not moved to.
* Its timers are its own, and so is the thread that dials, so that looking for a priority endpoint
  never slows a later reconnect, nor anybody who needs a connection to the current one.
* With ``reconnect=false`` there is nothing to hold a spare for.
* Not thread-safe: the supervisor calls it under its lock, and never blocks in it.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Generic, TypeVar

from understudy.core.endpoint import Endpoint
from understudy.core.machine import Machine
from understudy.core.options import Options
from understudy.failover.dialer import Dialer

__all__ = ["SparePool"]

C = TypeVar("C")

REFILL_PERIOD = 1.0  # s between two looks at the pool; what fails waits twice as long each time
QUIET_TIME = 0.3  # s after a spare was taken in which what was in doubt is resent undisturbed
SETTLE_TIME = 2.0  # s that a priority endpoint's spare must have lived before we move to it


class SparePool(Generic[C]):
    def __init__(self, options: Options, dialer: Dialer[C]) -> None:
        self._options = options
        self._dialer = dialer
        self._held: dict[Endpoint, tuple[C, float]] = {}
        self._retry_at: dict[Endpoint, float] = {}
        self._failures: dict[Endpoint, int] = {}
        self._quiet_until = 0.0

    @property
    def are_asked_for(self) -> bool:
        options = self._options
        return options.reconnect and (options.backup or options.priority_backup)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(self._held)

    def take(self, endpoint: Endpoint, now: float) -> C | None:
        """The spare to this endpoint, if there is one and it lives."""
        connection, _ = self._held.pop(endpoint, (None, 0.0))
        if connection is not None:
            self._quiet_until = now + QUIET_TIME
        if connection is not None and not self._dialer.is_alive(connection):
            self._dialer.sever(connection)
            return None
        return connection

    def add(self, endpoint: Endpoint, connection: C, now: float) -> bool:
        """Keep a new spare; False if there is one already."""
        if endpoint in self._held:
            return False
        self._held[endpoint] = (connection, now)
        self._failures.pop(endpoint, None)
        self._retry_at.pop(endpoint, None)
        return True

    def failed(self, endpoint: Endpoint, now: float) -> None:
        failures = self._failures[endpoint] = self._failures.get(endpoint, 0) + 1
        longest = max(self._options.max_reconnect_delay / 1000, REFILL_PERIOD)
        self._retry_at[endpoint] = now + min(REFILL_PERIOD * 2 ** min(failures - 1, 16), longest)

    def forget(self, connection: C) -> bool:
        """Drop a spare that broke; whether it was one."""
        for endpoint, (held, _) in list(self._held.items()):
            if held is connection:
                del self._held[endpoint]
                return True
        return False

    def keep(self, known: Container[Endpoint]) -> list[C]:
        """Forget all other endpoints; the spares to them, to be discarded."""
        gone = [endpoint for endpoint in self._held if endpoint not in known]
        for memory in (self._failures, self._retry_at):
            for endpoint in [one for one in memory if one not in known]:
                del memory[endpoint]
        return [self._held.pop(endpoint)[0] for endpoint in gone]

    def clear(self) -> list[C]:
        held = [connection for connection, _ in self._held.values()]
        self._held.clear()
        return held

    def wanted(self, machine: Machine, now: float) -> Endpoint | None:
        """The endpoint to dial a spare to now, if any."""
        for endpoint, (connection, _) in list(self._held.items()):
            if not self._dialer.is_alive(connection):
                self._dialer.sever(connection)
                del self._held[endpoint]
        for endpoint in self._targets(machine):
            if endpoint not in self._held and now >= self._not_before(endpoint):
                return endpoint
        return None

    def settled(self, machine: Machine, now: float) -> Endpoint | None:
        """The priority endpoint to move to now, if any."""
        for endpoint in self._homes(machine):
            held = self._held.get(endpoint)
            if held is not None and now - held[1] >= SETTLE_TIME:
                return endpoint
        return None

    def due(self, machine: Machine) -> float | None:
        """When to look again; None when there is nothing to look after."""
        moments = [
            self._not_before(endpoint)
            for endpoint in self._targets(machine)
            if endpoint not in self._held
        ]
        moments += [
            self._held[home][1] + SETTLE_TIME for home in self._homes(machine) if home in self._held
        ]
        return min(moments, default=None)

    def _not_before(self, endpoint: Endpoint) -> float:
        return max(self._retry_at.get(endpoint, 0.0), self._quiet_until)

    def _homes(self, machine: Machine) -> tuple[Endpoint, ...]:
        """The priority endpoints worth moving to: none while we are on one of them."""
        if machine.current is None or not self.are_asked_for:
            return ()
        if machine.current in machine.priority:
            return ()
        return machine.priority

    def _targets(self, machine: Machine) -> list[Endpoint]:
        """The endpoints that should have a spare, best first."""
        if machine.current is None or not self.are_asked_for:
            return []
        homes = list(self._homes(machine))
        if not self._options.backup:
            return homes
        others = [e for e in machine.endpoints if e != machine.current and e not in homes]
        live_first = sorted(others, key=lambda e: (e not in self._held, self._failures.get(e, 0)))
        ready_homes = sum(home in self._held for home in homes)
        return homes + live_first[: max(self._options.backup_pool_size - ready_homes, 0)]
