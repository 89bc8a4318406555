"""One client's connection to the API: bytes in, requests out, answers in, bytes out.

Rules
* Until a request's head is whole, a connection costs its buffer and nothing else: a slow client is
  cheap. Heads and bodies are bounded; what is larger, or is no HTTP/1.1, is refused and closed.
* A connection that is not asked anything for `PATIENCE` seconds is closed. When there are more than
  the crowd may have, the one that has asked nothing for longest goes first: however many slow
  clients there are, whoever asks at once is answered at once.
* Who does not read its answers is asked for nothing more until it has.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeAlias, cast

import h11

from understudyd.api.routes import Asked, Reply

__all__ = ["Connection", "Crowd"]

PATIENCE = 30.0  # s without a whole request; HAProxy and Kubernetes ask every few seconds
LARGEST_HEAD = 8192  # bytes
LARGEST_BODY = 4096  # bytes
END_OF_HEAD = re.compile(rb"\n\r?\n")
CLOSE = ("connection", "close")
TEXT = "text/plain; charset=utf-8"

Ask: TypeAlias = Callable[[Asked, Callable[[Reply], None]], None]
"""Gets each request, and where its answer goes, at once or later."""


class Crowd:
    """All connections, by when they last asked something: who has been quiet for longest first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.evicted = 0
        self._members: OrderedDict[Connection, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._members)

    def enter(self, member: Connection, now: float) -> None:
        """Also for one that has asked something: it goes to the end of the queue."""
        self._members[member] = now
        self._members.move_to_end(member)
        self.make_room(0)

    def leave(self, member: Connection) -> None:
        self._members.pop(member, None)

    def make_room(self, count: int) -> None:
        """For so many more."""
        while self._members and len(self._members) > self.limit - count:
            self._evict()

    def sweep(self, now: float) -> None:
        while self._members and now - next(iter(self._members.values())) > PATIENCE:
            self._evict()

    def clear(self) -> None:
        while self._members:
            self._members.popitem()[0].abort()

    def _evict(self) -> None:
        member, _ = self._members.popitem(last=False)
        self.evicted += 1
        member.abort()


class Connection(asyncio.Protocol):
    def __init__(self, peer: str, ask: Ask, crowd: Crowd, clock: Callable[[], float]) -> None:
        self.opening: asyncio.Task[None] | None = None  # while there is no transport yet
        self._peer = peer
        self._ask = ask
        self._crowd = crowd
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._http: h11.Connection | None = None
        self._request: h11.Request | None = None
        self._body = b""
        self._is_full = False  # of answers that the client has yet to read

    def abort(self) -> None:
        """Close without a word, also in the middle of a TLS handshake."""
        if self._transport is not None:
            self._transport.abort()
        elif self.opening is not None:
            self.opening.cancel()

    # --- asyncio.Protocol -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.leave(self)

    def data_received(self, data: bytes) -> None:
        if self._http is None:
            self._buffer += data
            if not END_OF_HEAD.search(self._buffer) and len(self._buffer) <= LARGEST_HEAD:
                return
            self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST_HEAD)
            data, self._buffer = bytes(self._buffer), bytearray()
        self._http.receive_data(data)
        self._go_on(self._http)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if self._http is not None and self._http.our_state is h11.IDLE:
            self._read_on(self._http)

    # --------------------------------------------------------------------------------------------

    def _go_on(self, http: h11.Connection) -> None:
        try:
            while self._transport and not self._transport.is_closing() and not self._is_full:
                event = http.next_event()
                if isinstance(event, h11.Request):
                    self._request, self._body = event, b""
                    if http.they_are_waiting_for_100_continue:
                        self._send(h11.InformationalResponse(status_code=100, headers=[]))
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    if len(self._body) > LARGEST_BODY:
                        self._refuse(413, "the body is too large")
                elif isinstance(event, h11.EndOfMessage):
                    self._asked(http)
                else:
                    return
        except h11.RemoteProtocolError as exc:
            self._refuse(exc.error_status_hint, str(exc))

    def _asked(self, http: h11.Connection) -> None:
        request, transport = self._request, self._transport
        assert request is not None
        assert transport is not None
        self._crowd.enter(self, self._clock())
        headers = dict(request.headers)
        asked = Asked(
            method=request.method.decode("ascii"),
            target=request.target.decode("ascii"),
            peer=self._peer,
            authorization=headers.get(b"authorization", b"").decode("latin-1"),
            body=bytes(self._body),
        )
        transport.pause_reading()  # what comes before the answer stays in the system's buffer
        self._ask(asked, self._answer)

    def _answer(self, reply: Reply) -> None:
        http, transport = self._http, self._transport
        if http is None or transport is None or transport.is_closing():
            return
        self._send_reply(http, reply)
        if http.our_state is h11.MUST_CLOSE:
            transport.close()
            return
        http.start_next_cycle()
        if not self._is_full:
            self._read_on(http)

    def _read_on(self, http: h11.Connection) -> None:
        assert self._transport is not None
        self._transport.resume_reading()
        if http.trailing_data[0]:
            asyncio.get_running_loop().call_soon(self._go_on, http)

    def _refuse(self, code: int, reason: str) -> None:
        """Answer what is no request of ours, and close."""
        http, transport = self._http, self._transport
        if http is None or transport is None:
            return
        if http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send_reply(http, Reply(code, f"{reason}\n".encode(), TEXT, (CLOSE,)))
        transport.close()

    def _send_reply(self, http: h11.Connection, reply: Reply) -> None:
        method = self._request.method if self._request else b""
        length = 0 if method == b"OPTIONS" else len(reply.body)
        headers = [
            ("content-type", reply.kind),
            ("content-length", str(length)),
            ("cache-control", "no-store"),
            *reply.headers,
        ]
        events: list[h11.Event] = [_response(reply.code, headers)]
        if method not in (b"HEAD", b"OPTIONS"):
            events.append(h11.Data(data=reply.body))
        self._send(*events, h11.EndOfMessage())

    def _send(self, *events: h11.Event) -> None:
        assert self._http is not None
        assert self._transport is not None
        self._transport.write(b"".join(self._http.send(event) or b"" for event in events))


def _response(code: int, headers: list[tuple[str, str]]) -> h11.Response:
    return h11.Response(status_code=code, headers=headers, reason=HTTPStatus(code).phrase.encode())
