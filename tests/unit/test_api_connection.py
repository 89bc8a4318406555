"""One client's connection to the API, over a transport that a test makes slow."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from understudyd.api.connection import Connection, Crowd
from understudyd.api.routes import Reply

HIGH = 64 * 1024  # bytes
ANSWER = Reply(200, b"x" * 20_000, "text/plain", ())
REQUEST = b"GET /status HTTP/1.1\r\nhost: h\r\n\r\n"


class Deaf:
    """A transport to a client that reads nothing until it is told to."""

    def __init__(self) -> None:
        self.connection = Connection("1.2.3.4", lambda _, reply: reply(ANSWER), Crowd(9), float)
        self.buffered = self.sent = 0
        self.is_reading = True
        self.connection.connection_made(cast(Any, self))

    def write(self, data: bytes) -> None:
        self.buffered += len(data)
        self.sent += data.count(b"HTTP/1.1 200")
        if self.buffered > HIGH:
            self.connection.pause_writing()

    def read(self) -> None:
        self.buffered = 0
        self.connection.resume_writing()

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def is_closing(self) -> bool:
        return False


async def _ask(count: int) -> None:
    client = Deaf()
    client.connection.data_received(REQUEST * count)
    rounds = 0
    while client.sent < count:
        for _ in range(count):
            await asyncio.sleep(0)
        assert client.buffered < 2 * HIGH
        assert client.is_reading is (client.buffered <= HIGH)
        client.read()
        rounds += 1
        assert rounds < count
    assert client.sent == count


def test_who_does_not_read_gets_no_more_than_fits() -> None:
    asyncio.run(_ask(200))
