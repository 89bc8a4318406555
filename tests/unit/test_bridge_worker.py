"""An end is opened and closed in order, and what was closed tells nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.worker import EndWorker


class End:
    """Opens and says goodbye when it is let."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.openings: list[asyncio.Future[None]] = []
        self.goodbyes: list[asyncio.Future[None]] = []
        self.keeps_on = False
        self.worker = EndWorker(self.close, self.up, lambda failed: self.log.append(str(failed)))

    async def open(self) -> None:
        self.log.append("opening")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.openings.append(future)
        try:
            await future
        except asyncio.CancelledError:
            self.log.append("given up")
            if not self.keeps_on:
                raise

    def close(self) -> Awaitable[None]:
        self.log.append("let go")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.goodbyes.append(future)
        return future

    def up(self) -> None:
        self.log.append("up")

    def taken(self) -> list[str]:
        log, self.log = self.log, []
        return log


async def turns() -> None:
    """Let everything happen that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def run(scenario: Callable[[End], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await scenario(End())

    asyncio.run(main())


def test_an_end_is_opened_and_tells_so() -> None:
    async def scenario(end: End) -> None:
        end.worker.open(end.open)
        await turns()
        assert end.taken() == ["opening"]
        end.openings[0].set_result(None)
        await end.worker.ended()
        assert end.taken() == ["up"]

    run(scenario)


def test_what_an_opening_raises_is_told_whatever_it_is() -> None:
    async def scenario(end: End) -> None:
        end.worker.open(end.open)
        await turns()
        end.openings[0].set_exception(ConnectionFailed("refused"))
        await end.worker.ended()
        assert end.taken() == ["opening", "refused"]
        end.worker.open(end.open)
        await turns()
        end.openings[1].set_exception(ValueError("amqp://u:secret@a has no port"))
        await end.worker.ended()
        (_, told) = end.taken()
        assert told.startswith("unexpected: ValueError: amqp://")
        assert "secret" not in told

    run(scenario)


def test_a_close_lets_go_at_once_and_gives_up_what_is_being_opened() -> None:
    async def scenario(end: End) -> None:
        end.worker.open(end.open)
        await turns()
        end.worker.close()
        assert end.taken() == ["opening", "let go"]
        await turns()
        assert end.taken() == ["given up"]

    run(scenario)


def test_an_opening_that_ended_in_the_turn_of_the_close_tells_nothing() -> None:
    async def scenario(end: End) -> None:
        for ending in ("set_result", "set_exception"):
            end.worker.open(end.open)
            await turns()
            answer = None if ending == "set_result" else ConnectionFailed("late")
            getattr(end.openings[-1], ending)(answer)
            end.worker.close()
            end.goodbyes[-1].set_result(None)
            await end.worker.ended()
            assert set(end.taken()) <= {"opening", "let go", "given up"}

    run(scenario)


def test_an_opening_that_cannot_be_given_up_is_closed_again() -> None:
    async def scenario(end: End) -> None:
        end.keeps_on = True
        end.worker.open(end.open)
        await turns()
        end.worker.close()
        await turns()
        end.goodbyes[0].set_result(None)
        await turns()
        assert end.taken() == ["opening", "let go", "given up", "let go"]

    run(scenario)


def test_a_close_is_never_given_up_and_an_opening_waits_for_it() -> None:
    async def scenario(end: End) -> None:
        end.worker.close()
        await turns()
        end.worker.open(end.open)
        end.worker.close()
        end.worker.open(end.open)
        await turns()
        assert end.taken() == ["let go", "let go"]
        end.goodbyes[0].set_result(None)
        await turns()
        assert end.taken() == []
        end.goodbyes[1].set_result(None)
        await turns()
        assert end.taken() == ["opening"]

    run(scenario)


def test_a_goodbye_that_fails_keeps_nobody_from_going_on() -> None:
    async def scenario(end: End) -> None:
        for error in (ConnectionFailed("gone"), RuntimeError("odd")):
            end.worker.close()
            await turns()
            end.goodbyes[-1].set_exception(error)
        end.worker.open(end.open)
        await turns()
        assert end.taken() == ["let go", "let go", "opening"]

    run(scenario)


def test_nothing_is_heard_of_what_was_closed_until_the_next_is_being_opened() -> None:
    async def scenario(end: End) -> None:
        told: list[int] = []
        tell = end.worker.heard(told.append)
        tell(1)
        end.worker.open(end.open)
        await turns()
        tell(2)  # deliveries may come before the opening has ended
        end.worker.close()
        tell(3)
        end.worker.open(end.open)
        await turns()
        tell(4)  # still the goodbye of the first
        end.goodbyes[0].set_result(None)
        await turns()
        tell(5)
        assert told == [2, 5]

    run(scenario)


def test_an_end_may_be_closed_and_opened_anew_over_what_it_tells() -> None:
    async def scenario(end: End) -> None:
        def again() -> None:
            end.log.append("up")
            if len(end.openings) == 1:
                end.worker.close()
                end.goodbyes[0].set_result(None)
                end.worker.open(end.open)

        end.worker = EndWorker(end.close, again, lambda _: None)
        end.worker.open(end.open)
        await turns()
        end.openings[0].set_result(None)
        await turns()
        end.openings[1].set_result(None)
        await end.worker.ended()
        assert end.taken() == ["opening", "up", "let go", "opening", "up"]

    run(scenario)
