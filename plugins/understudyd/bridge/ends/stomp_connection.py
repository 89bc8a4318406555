"""One STOMP 1.2 connection over asyncio.

Rules, beside those of `stream`
* What one read brought is one list of frames; heart-beats are not among them.
* ``open()`` returns after CONNECTED of a broker whose dialect is known, or raises
  `ConnectionFailed`.
* A broker ends a session by an ERROR, or goes on after it; here that is the end of it either way,
  told with a code of AMQP (`dialects.of_error`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import unquote

from understudy.core.endpoint import Endpoint
from understudy.wire.stomp import FrameParser, ProtocolError, RawFrame, encode
from understudy.wire.stomp_login import (
    BEATS,
    DEFAULT_PORTS,
    TLS_SCHEMES,
    LoginAnswer,
    LoginRefused,
    OtherProtocol,
    agree_on_beats,
)
from understudyd.bridge.dialects import Dialect, of_error, of_stomp
from understudyd.bridge.ends.port import ConnectionFailed
from understudyd.bridge.ends.stream import Stream
from understudyd.bridge.wire.amqp import Closed

__all__ = ["StompConnection", "StompHooks"]

HEARTBEAT_MS = 10_000
GOODBYE_TIMEOUT = 1.0  # s that the broker gets to answer DISCONNECT
VERSION = "1.2"
GOODBYE = "goodbye"  # the receipt of DISCONNECT


@dataclass(frozen=True)
class StompHooks:
    """What a connection tells; all in the loop's thread, none may raise. Nobody need listen."""

    on_frames: Callable[[list[RawFrame]], None] = lambda _: None
    on_lost: Callable[[str, Closed | None], None] = lambda *_: None
    on_congested: Callable[[bool], None] = lambda _: None
    on_error: Callable[[RawFrame], bool] = lambda _: False
    """An ERROR; True: it is dealt with, and the connection goes on."""


class StompConnection(Stream):
    """Made by ``open()``."""

    BEAT = b"\n"

    def __init__(self, endpoint: Endpoint, connect: bytes, hooks: StompHooks) -> None:
        super().__init__(endpoint, hooks.on_lost, hooks.on_congested)
        self._connect = connect
        self._hooks = hooks
        self._login: LoginAnswer | None = LoginAnswer(VERSION)
        self._calls: dict[str, asyncio.Future[None]] = {}  # by receipt
        self._asked = count(1)
        self._parser = FrameParser(VERSION, takes_nul=True)
        self.dialect: Dialect
        self.session = ""
        """What the broker calls this connection."""

    @classmethod
    async def open(
        cls, endpoint: Endpoint, hooks: StompHooks, *, client_id: str = "", timeout: float
    ) -> StompConnection:
        """Connect and log in within ``timeout`` seconds; raises ConnectionFailed."""
        heartbeat = endpoint.options.heartbeat
        beats = HEARTBEAT_MS if heartbeat is None else heartbeat
        asked = (beats, beats // BEATS)
        try:
            connection = cls(endpoint, _connect(endpoint, asked, client_id), hooks)
        except ValueError as error:
            raise ConnectionFailed(f"{endpoint}: {error}") from error
        await connection._dial(
            is_secure=endpoint.scheme in TLS_SCHEMES,
            port=DEFAULT_PORTS[endpoint.scheme],
            timeout=timeout,
        )
        try:
            connection._start(asked)
        except BaseException:
            connection.drop()
            raise
        return connection

    def _start(self, beats: tuple[int, int]) -> None:
        headers = self._opened.result().headers
        server = headers.get("server", "")
        dialect = of_stomp(server)
        if dialect is None:
            raise ConnectionFailed(
                f"{self.endpoint}: a bridge does not know what an acknowledgement means to "
                f"{server[:60]!r}; it knows ActiveMQ, Artemis and RabbitMQ"
            )
        try:
            send, receive = agree_on_beats(beats, headers.get("heart-beat", "0,0"))
        except ProtocolError as error:
            raise ConnectionFailed(f"{self.endpoint}: {error}") from error
        self.dialect = dialect
        self.session = headers.get("session", "")
        self._start_beating(send / 2, 2 * BEATS * receive)

    async def call(self, command: str, headers: dict[str, str]) -> None:
        """Send a frame without a body and wait for its receipt.

        Raises ConnectionFailed when none will come.
        """
        if self._is_over:
            raise self.failure
        receipt = f"{command.lower()}-{next(self._asked)}"
        future = self._calls[receipt] = self._loop.create_future()
        self.write(encode(command, {**headers, "receipt": receipt}))
        try:
            await future
        finally:
            self._calls.pop(receipt, None)

    async def close(self) -> None:
        """End in order, or at once when the broker does not answer; returns when it is gone."""
        goodbye = encode("DISCONNECT", {"receipt": GOODBYE})
        await self._say_goodbye(goodbye, GOODBYE_TIMEOUT)

    def _begin(self) -> bytes:
        return self._connect

    def _feed(self, data: memoryview) -> None:
        try:
            if self._login is None:
                frames = self._parser.feed(bytes(data))
            else:
                frames = self._log_in(self._login, bytes(data))
        except (ProtocolError, LoginRefused, OtherProtocol) as error:
            self._lose(_in_words(error))
            return
        if self._is_over:
            if any(frame.headers.get("receipt-id") == GOODBYE for frame in frames):
                self._is_gone()
        elif frames:
            self._dispatch(frames)

    def _log_in(self, login: LoginAnswer, data: bytes) -> list[RawFrame]:
        """Nothing else comes before we have asked for it."""
        if (answer := login.feed(data)) is not None:
            self._login = None
            if not self._opened.done():
                self._opened.set_result(answer)
        return []

    def _dispatch(self, frames: list[RawFrame]) -> None:
        """Answers go to who asked; the rest is told in one piece, up to an ERROR."""
        rest = []
        failure = None
        for frame in frames:
            command = frame.command
            if command == "ERROR":
                if self._hooks.on_error(frame):
                    continue
                failure = frame
                break
            if command == "MESSAGE" or (command == "RECEIPT" and not self._is_answer(frame)):
                rest.append(frame)
        if rest:
            self._hooks.on_frames(rest)
        if failure is not None:
            closed = of_error(failure)
            self._lose(str(closed), closed)

    def _is_answer(self, receipt: RawFrame) -> bool:
        future = self._calls.pop(receipt.headers.get("receipt-id", ""), None)
        if future is not None and not future.done():
            future.set_result(None)
        return future is not None

    def _unanswered(self) -> Iterable[asyncio.Future[Any]]:
        return self._calls.values()


def _connect(endpoint: Endpoint, beats: tuple[int, int], client_id: str) -> bytes:
    """The first frame; raises ValueError for what it cannot hold."""
    vhost = unquote(endpoint.path.removeprefix("/"))
    headers: dict[str, object] = {
        "accept-version": VERSION,
        "host": vhost if vhost.strip("/") else "/",  # RabbitMQ's vhost
        "login": endpoint.username,
        "passcode": endpoint.password,
        "heart-beat": f"{beats[0]},{beats[1]}" if any(beats) else None,
        "client-id": client_id or None,
    }
    return encode("STOMP", headers)


def _in_words(error: Exception) -> str:
    if isinstance(error, LoginRefused):
        return f"the broker refused the login: {error}"
    if isinstance(error, OtherProtocol):
        hint = str(error).format(place="this", tls="stomp+ssl:")
        return f"the server does not speak STOMP but {hint}"
    return f"the server does not speak STOMP as we do: {error}"
