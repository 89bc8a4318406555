"""What is put into a queue of the source's broker, one message after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from understudyd.bridge.ends import deposit as module
from understudyd.bridge.ends.deposit import Deposit
from understudyd.bridge.ends.port import ConnectionFailed, TargetHooks

PARCEL = (b"a", b"b", b"c", 1)


class Target:
    """Confirms at once, unless it is silent; says goodbye when it is let."""

    frame_max = 0
    dialect = None

    def __init__(self, hooks: TargetHooks) -> None:
        self._hooks = hooks
        self.opened = self.sent = 0
        self.is_silent = False
        self.may_go = asyncio.Event()
        self.is_leaving = asyncio.Event()

    async def open(self) -> None:
        self.opened += 1

    def send(self, pieces: list[bytes]) -> None:
        self.sent += 1
        if not self.is_silent:
            asyncio.get_running_loop().call_soon(self._hooks.on_confirms, [(1, 0, True)])

    async def close(self) -> None:
        self.is_leaving.set()
        await self.may_go.wait()


def run(scenario: Callable[[Deposit, Target], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        made: list[Target] = []

        def make(hooks: TargetHooks) -> Any:
            made.append(Target(hooks))
            return made[0]

        deposit = Deposit(make)
        await scenario(deposit, made[0])
        made[0].may_go.set()
        await deposit.close()

    asyncio.run(main())


def test_one_that_is_given_up_while_the_connection_is_closed_spoils_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "IDLE_TIME", 0.0)

    async def scenario(deposit: Deposit, target: Target) -> None:
        await deposit.put(PARCEL)
        await target.is_leaving.wait()
        given_up = asyncio.ensure_future(deposit.put(PARCEL))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait({given_up})
        target.may_go.set()
        await deposit.put(PARCEL)
        assert (target.opened, target.sent) == (2, 2)

    run(scenario)


def test_whoever_comes_meanwhile_waits() -> None:
    async def scenario(deposit: Deposit, target: Target) -> None:
        target.may_go.set()
        target.is_silent = True
        first = asyncio.ensure_future(deposit.put(PARCEL))
        second = asyncio.ensure_future(deposit.put(PARCEL))
        await asyncio.sleep(0.01)
        assert target.sent == 1
        target.is_silent = False
        first.cancel()
        await second
        assert (target.opened, target.sent) == (2, 2)

    run(scenario)


def test_one_that_is_not_confirmed_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.01)

    async def scenario(deposit: Deposit, target: Target) -> None:
        target.may_go.set()
        target.is_silent = True
        with pytest.raises(ConnectionFailed, match="no confirm within"):
            await deposit.put(PARCEL)

    run(scenario)
