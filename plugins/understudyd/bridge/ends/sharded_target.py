"""A target of several connections to one broker, which share the messages by their groups.

Rules
* The first connection finds the broker, the others go to the same one.
* The loss of one is the loss of the target: all is sent again, and every group keeps its order.
* It reads nothing while one of them does not, so that its messages do not pile up here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from understudyd.bridge.dialects import Dialect
from understudyd.bridge.ends.port import ConnectionFailed, TargetEnd, TargetHooks
from understudyd.bridge.sharding import Sharding
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.reader import Confirm

__all__ = ["ShardedTarget"]


class ShardedTarget:
    """Where messages are sent."""

    def __init__(
        self,
        count: int,
        make: Callable[[int, TargetHooks], TargetEnd],
        names: Sequence[str],
        hooks: TargetHooks,
    ) -> None:
        """``make`` makes one connection, by its place; ``names`` are the headers for a group."""
        self._names = names
        self._hooks = hooks
        self._ends = [make(place, self._hooks_of(place)) for place in range(count)]
        self._sharding = Sharding(count, names)
        self._blocked: dict[int, str] = {}
        self._congested: set[int] = set()
        self._is_open = False
        self._failure: ConnectionFailed | None = None  # while the others were opened
        self._goodbye: Awaitable[None] | None = None

    @property
    def frame_max(self) -> int:
        """Bytes of the largest frame that all of them take."""
        return min(end.frame_max for end in self._ends)

    @property
    def dialect(self) -> Dialect | None:
        return self._ends[0].dialect

    async def open(self) -> None:
        """Connect all; raises ConnectionFailed."""
        if self._goodbye is not None:
            await self._goodbye
        self._sharding = Sharding(len(self._ends), self._names)
        self._blocked, self._congested = {}, set()
        self._failure = self._goodbye = None
        try:
            for end in self._ends:
                await end.open()
            if self._failure is not None:
                raise self._failure
        except BaseException:
            await self._close_all()
            raise
        self._is_open = True

    def send(self, pieces: list[bytes]) -> None:
        """Write messages, in the order of each group."""
        if not self._is_open:
            return
        for end, part in zip(self._ends, self._sharding.split(pieces), strict=True):
            if part and self._is_open:
                end.send(part)

    def close(self) -> Awaitable[None]:
        """End in order; what was not confirmed is in doubt."""
        self._is_open = False
        return self._close_all()

    def _close_all(self) -> Awaitable[None]:
        goodbyes = [end.close() for end in self._ends]

        async def said() -> None:
            await asyncio.gather(*goodbyes, return_exceptions=True)

        return said()

    def _hooks_of(self, place: int) -> TargetHooks:
        return TargetHooks(
            partial(self._confirmed, place),
            lambda message: self._hooks.on_returned(message) if self._is_open else None,
            partial(self._is_blocked, place),
            partial(self._is_congested, place),
            self._lost,
        )

    def _confirmed(self, place: int, confirms: list[Confirm]) -> None:
        if self._is_open and (told := self._sharding.confirmed(place, confirms)):
            self._hooks.on_confirms(told)

    def _is_blocked(self, place: int, reason: str | None) -> None:
        before = bool(self._blocked)
        if reason is None:
            self._blocked.pop(place, None)
        else:
            self._blocked[place] = reason
        if self._is_open and before is not bool(self._blocked):
            self._hooks.on_blocked(reason)

    def _is_congested(self, place: int, is_congested: bool) -> None:
        before = bool(self._congested)
        (self._congested.add if is_congested else self._congested.discard)(place)
        if self._is_open and before is not bool(self._congested):
            self._hooks.on_congested(is_congested)

    def _lost(self, reason: str, closed: Closed | None) -> None:
        if self._is_open:
            self._is_open = False
            self._goodbye = asyncio.ensure_future(self._close_all())
            self._hooks.on_lost(reason, closed)
        else:
            self._failure = ConnectionFailed(reason, closed)
