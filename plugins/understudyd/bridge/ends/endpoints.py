"""Where an end connects: the members of its URI, one pass over them for each attempt."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from random import Random
from typing import TypeVar

from understudy import discovery, parse
from understudy.core.endpoint import Endpoint
from understudy.core.order import connect_list
from understudy.errors import ConfigurationError
from understudyd.bridge.ends.connection import SCHEMES, Connection, Hooks
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.ends.stomp_connection import StompConnection, StompHooks
from understudyd.bridge.lists import STOMP_SCHEMES, members_of, priority_of
from understudyd.bridge.wire.tables import Table

__all__ = ["FRAME_MAX", "Dialer", "StompDialer"]

FRAME_MAX = 131072  # bytes; RabbitMQ's own
PATIENCE = 2.0  # s that those who announce members have before each pass

C = TypeVar("C")
M = TypeVar("M", bound="_Members")


class _Members:
    """The brokers of one URI, of which one is in use."""

    def __init__(self, uri: str, protocol: str, schemes: Collection[str], rng: Random) -> None:
        """Raises ConfigurationError for a URI that is none of this protocol."""
        self._uri = parsed = parse(uri)
        self._schemes = schemes
        self._endpoints = members_of(parsed)
        self._learned: tuple[Endpoint, ...] = ()
        self._has_agents = bool(discovery.agents_of(parsed))
        self._priority = priority_of(parsed)
        self._options = parsed.options
        self._rng = rng
        self._last: Endpoint | None = None  # that was connected to
        self._has_failed = False
        self._leader: _Members | None = None
        self._purpose = ""
        for endpoint in self._endpoints:
            if endpoint.scheme not in schemes:
                valid = ", ".join(sorted(schemes))
                raise ConfigurationError(f"{endpoint} is no {protocol} address; valid are {valid}")

    def __str__(self) -> str:
        return ", ".join(endpoint.redacted for endpoint in self._endpoints)

    @property
    def current(self) -> Endpoint | None:
        """The member that was connected to last."""
        return self._last

    @property
    def is_away(self) -> bool:
        """Whether it is connected to another member than one to be preferred (priorityBackup)."""
        return bool(self._priority) and self._last not in (None, *self._priority)

    @property
    def has_home(self) -> bool:
        """Whether there are members to be preferred."""
        return bool(self._priority) and self._leader is None

    def come_home(self) -> None:
        """Begin the next pass with the preferred members."""
        self._has_failed = False

    def fail(self) -> None:
        """The member that was connected to comes last in the next pass; without that, first."""
        self._has_failed = True

    async def is_home_open(self) -> bool:
        """Whether a preferred member lets us in now."""
        for endpoint in self._priority:
            with contextlib.suppress(ConnectionFailed):
                await self._try(endpoint, self._options.connect_timeout / 1000)
                return True
        return False

    async def _try(self, endpoint: Endpoint, timeout: float) -> None:
        """Connect and end again; raises ConnectionFailed."""
        raise NotImplementedError

    @property
    def is_one(self) -> bool:
        """Whether there is one member alone."""
        return len(self._endpoints) == 1 and not self._has_agents

    def beside(self: M, purpose: str = "") -> M:
        """The same for further connections to the very broker that this one is connected to;
        ``purpose`` is told beside the name of ours, where the protocol has one."""
        follower = copy.copy(self)
        follower._leader, follower._purpose = self, purpose
        return follower

    def _order(self) -> tuple[Endpoint, ...]:
        if self._leader is not None:
            last = self._leader._last
            return self._endpoints if last is None else (last,)
        options = self._options
        failed, current = (self._last, None) if self._has_failed else (None, self._last)
        return connect_list(
            self._endpoints,
            self._learned,
            failed,
            options.randomize,
            self._rng,
            self._priority,
            current,
        )

    async def _look(self) -> str:
        """Ask who announces further members; what is wrong, where that is all."""
        if not self._has_agents or self._leader is not None:
            return ""
        ask = partial(discovery.look, self._uri, schemes=self._schemes, patience=PATIENCE)
        told = await asyncio.get_running_loop().run_in_executor(None, ask)
        found = [endpoint for each in told for endpoint in each.endpoints]
        if found:  # else those known before are as good as any
            self._learned = members_of(self._uri, found)
        return "; ".join(each.error for each in told if each.error)

    async def _first(self, open_one: Callable[[Endpoint, float], Awaitable[C]]) -> C:
        """The first member that answers; raises ConnectionFailed with all attempts.

        ``open_one`` gets the member and how many seconds it has.
        """
        attempts = []
        trouble = await self._look()
        for endpoint in self._order():
            try:
                connection = await open_one(endpoint, self._options.connect_timeout / 1000)
            except ConnectionFailed as failed:
                attempts.append(_told(endpoint, str(failed)))
                continue
            self._last, self._has_failed = endpoint, False
            return connection
        if not attempts:
            raise ConnectionFailed(f"no broker is known: {trouble or self._uri}")
        # In one order, whatever was tried first: the same trouble reads the same each time.
        raise ConnectionFailed("; ".join(sorted(attempts)))


def _told(endpoint: Endpoint, cause: str) -> str:
    """Who gave no connection, once, and why."""
    return cause if cause.startswith(f"{endpoint}: ") else f"{endpoint}: {cause}"


class Dialer(_Members):
    """Opens connections of AMQP to one logical broker."""

    def __init__(self, uri: str, about: Table, rng: Random) -> None:
        """Raises ConfigurationError for a URI that is none of AMQP."""
        super().__init__(uri, "AMQP", SCHEMES, rng)
        self._about = about

    async def dial(self, hooks: Hooks, frame_max: int = FRAME_MAX) -> Connection:
        """The first member that answers; raises ConnectionFailed with all attempts.

        ``frame_max`` (bytes) is the most that we agree to.
        """
        return await self._first(
            lambda endpoint, timeout: Connection.open(
                endpoint, hooks, about=self._described(), timeout=timeout, frame_max=frame_max
            )
        )

    def _described(self) -> Table:
        name = self._about.get("connection_name")
        if not (self._purpose and isinstance(name, str)):
            return self._about
        return {**self._about, "connection_name": f"{name}.{self._purpose}"}

    async def _try(self, endpoint: Endpoint, timeout: float) -> None:
        connection = await Connection.open(
            endpoint, Hooks(), about=self._about, timeout=timeout, frame_max=FRAME_MAX
        )
        await connection.close()


class StompDialer(_Members):
    """Opens connections of STOMP to one logical broker."""

    def __init__(self, uri: str, rng: Random) -> None:
        """Raises ConfigurationError for a URI that is none of STOMP."""
        super().__init__(uri, "STOMP", STOMP_SCHEMES, rng)

    async def dial(self, hooks: StompHooks, client_id: str = "") -> StompConnection:
        """The first member that answers; raises ConnectionFailed with all attempts.

        ``client_id`` is who we are to a broker that keeps durable subscriptions by that.
        """
        return await self._first(
            lambda endpoint, timeout: StompConnection.open(
                endpoint, hooks, client_id=client_id, timeout=timeout
            )
        )

    async def _try(self, endpoint: Endpoint, timeout: float) -> None:
        connection = await StompConnection.open(endpoint, StompHooks(), timeout=timeout)
        await connection.close()
