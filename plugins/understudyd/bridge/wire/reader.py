"""What a broker sends, taken apart: bytes in, events out; the hot path of a bridge.

Rules
* One call takes what one read brought and gives its deliveries as one list, its confirms as
  another; a list ends where something else came between, so that the order of a stream is kept.
* A delivery is a plain tuple of raw bytes: nothing of its properties and body is looked at, and its
  body frames stay as they came, so that they can be sent on as they are.
* Fed whole, byte by byte or in any pieces, the stream gives the same deliveries and events.
* Any bytes give events, wait for more, or raise `WireError`, after which the reader is of no more
  use. Memory in use is one frame and the body under way, which is bounded by ``max_body``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.methods import (
    ARGUMENTS,
    CHANNEL,
    CLASS_BASIC,
    FRAME_BODY,
    FRAME_END,
    FRAME_HEADER,
    FRAME_HEARTBEAT,
    FRAME_METHOD,
    OVERHEAD,
    PREFIX,
    Method,
    decode_arguments,
)

__all__ = [
    "FIRST_FRAME_MAX",
    "MAX_BODY",
    "Arrived",
    "Confirm",
    "Confirms",
    "Deliveries",
    "Delivery",
    "Event",
    "FrameReader",
    "Returned",
    "Told",
]

FIRST_FRAME_MAX = 131072  # bytes of a frame before the two sides have agreed; RabbitMQ's own
MAX_BODY = 512 << 20  # bytes; RabbitMQ can be told to take as many, and no more

Delivery: TypeAlias = "tuple[int, int, bytes, bytes, int, bytes]"
"""Tag, redelivered (0 or 1), route (exchange and routing key as two short strings), properties,
size of the body, body as raw frames."""

Confirm: TypeAlias = "tuple[int, int, bool]"
"""Tag, multiple (bit 0), and whether it is an ack."""


class Deliveries(NamedTuple):
    """What came in one piece, in order."""

    items: list[Delivery]


class Confirms(NamedTuple):
    """What the broker says of publishes, in order."""

    items: list[Confirm]


class _ReturnHead(NamedTuple):
    code: int
    text: str
    exchange: str
    routing_key: str


@dataclass(frozen=True)
class Returned:
    """A mandatory publish that no queue took; its confirm follows."""

    code: int
    text: str
    exchange: str
    routing_key: str
    properties: bytes
    size: int
    frames: bytes


@dataclass(frozen=True)
class Told:
    """Any other method."""

    method: int
    channel: int
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Arrived:
    """A heartbeat."""


Event: TypeAlias = "Deliveries | Confirms | Returned | Told | Arrived"

_unpack_prefix = PREFIX.unpack_from
_unpack_ids = struct.Struct(">I").unpack_from
_unpack_confirm = struct.Struct(">QB").unpack_from
_unpack_header = struct.Struct(">HHQ").unpack_from
# A whole delivery in three looks: each frame with what must be known of its payload.
_unpack_deliver = struct.Struct(">BHIIB").unpack_from  # prefix, method, length of the consumer tag
_unpack_content = struct.Struct(">BBHIHHQ").unpack_from  # the end before it, prefix, header
_unpack_body = struct.Struct(">BBHI").unpack_from  # the end before it, prefix
_LEAST_DELIVERY = 12 + 11 + 1 + 22 + 1  # bytes up to the end of a header without fields
_SMALLEST = {FRAME_METHOD: 4, FRAME_HEADER: 14, FRAME_BODY: 0, FRAME_HEARTBEAT: 0}
_GREETING = b"AMQP"
_DELIVER = Method.BASIC_DELIVER


class FrameReader:
    """Takes in what was received, gives out what it says."""

    def __init__(self, *, max_body: int = MAX_BODY) -> None:
        self.frame_max = FIRST_FRAME_MAX
        self._max_body = max_body
        self._rest: list[bytes] = []  # the beginning of a frame, in pieces
        self._has = 0  # bytes of it
        self._needed = OVERHEAD  # bytes that make that frame whole
        self._events: list[Event] = []
        self._deliveries: list[Delivery] | None = None  # the list that is still open
        self._confirms: list[Confirm] | None = None
        # the content under way: its method, and what came of it
        self._method: tuple[int, int, bytes] | _ReturnHead | None = None
        self._properties: bytes | None = None
        self._size = 0
        self._left = 0
        self._parts: list[bytes] = []

    def feed(self, data: bytes | memoryview) -> list[Event]:
        """What ``data`` completes, in order; raises WireError. It is copied, and once only."""
        if self._has + len(data) < self._needed:
            self._has += len(data)
            self._rest.append(bytes(data))
            return []
        taken = b"".join((*self._rest, data))
        self._events = []
        self._deliveries = self._confirms = None
        at = self._take_frames(taken)
        self._has = len(taken) - at
        self._rest = [taken[at:]] if self._has else []
        return self._events

    def _take_frames(self, data: bytes) -> int:
        """Take all whole frames; returns where the first begins that is not."""
        at, size, biggest = 0, len(data), self.frame_max - OVERHEAD
        while size - at >= OVERHEAD:
            kind, channel, length = _unpack_prefix(data, at)
            end = at + 7 + length
            if length > biggest:
                raise self._unlikely(data, at)
            if end >= size:
                break
            if data[end] != FRAME_END:
                raise WireError("a frame without its end")
            if kind == FRAME_BODY and channel == CHANNEL:
                self._take_body(data, at, end, length)
            elif kind == FRAME_HEADER and channel == CHANNEL and length >= 14:
                self._take_header(data, at, end)
            elif kind == FRAME_METHOD and length >= 4:
                whole = self._take_deliveries(data, at) if channel == CHANNEL else at
                if whole > at:
                    at = whole
                    continue
                self._take_method(data, at, end, channel)
                biggest = self.frame_max - OVERHEAD
            elif kind == FRAME_HEARTBEAT and not length and not channel:
                self._tell(Arrived())
            else:
                raise self._unlikely(data, at)
            at = end + 1
        self._needed = OVERHEAD if size - at < OVERHEAD else end - at + 1
        return at

    def _take_deliveries(self, data: bytes, at: int) -> int:
        """Take the deliveries that are here whole, with one body frame each; the fast way.

        Returns where the first begins that is not like that; it goes the general way.
        """
        if self._method is not None:
            return at
        last, biggest, largest = len(data), self.frame_max - OVERHEAD, self._max_body
        items: list[Delivery] = []
        while last - at >= _LEAST_DELIVERY:
            kind, channel, length, method, tag_size = _unpack_deliver(data, at)
            tag_at, end = at + 12 + tag_size, at + 7 + length
            if method != _DELIVER or kind != 1 or channel != 1 or length > biggest:
                break
            if tag_at + 11 > end or end + 22 > last:
                break
            stop, kind, channel, length, class_id, _, size = _unpack_content(data, end)
            head_end = end + 8 + length
            if stop != FRAME_END or kind != 2 or channel != 1 or class_id != CLASS_BASIC:
                break
            if not 14 <= length <= biggest or not 0 < size <= largest or head_end + 8 > last:
                break
            stop, kind, channel, length = _unpack_body(data, head_end)
            after = head_end + 9 + length
            if stop != FRAME_END or kind != 3 or channel != 1 or length != size:
                break
            if length > biggest or after > last or data[after - 1] != FRAME_END:
                break
            tag, redelivered = _unpack_confirm(data, tag_at)
            route = data[tag_at + 9 : end]
            body = data[head_end + 1 : after]
            items.append((tag, redelivered, route, data[end + 20 : head_end], size, body))
            at = after
        if items:
            self._open_deliveries().extend(items)
        return at

    def _take_method(self, data: bytes, at: int, end: int, channel: int) -> None:
        (method,) = _unpack_ids(data, at + 7)
        if channel == CHANNEL and self._method is not None:
            raise WireError("a method amid the content of another")
        if method == Method.BASIC_DELIVER and channel == CHANNEL:
            tag_at = at + 12 + data[at + 11] if end > at + 11 else end
            if tag_at + 11 > end:
                raise WireError("a delivery ends within its arguments")
            self._method = (*_unpack_confirm(data, tag_at), data[tag_at + 9 : end])
        elif method in (Method.BASIC_ACK, Method.BASIC_NACK) and channel == CHANNEL:
            if end - at != 20:
                raise WireError("a confirm of a wrong size")
            tag, bits = _unpack_confirm(data, at + 11)
            if self._confirms is None:
                self._confirms = []
                self._tell(Confirms(self._confirms), keep_confirms=True)
            self._confirms.append((tag, bits & 1, method == Method.BASIC_ACK))
        elif method not in ARGUMENTS:
            raise WireError(f"the method {method >> 16}.{method & 0xFFFF} was not expected")
        else:
            self._take_other(method, channel, data[at + 7 : end])

    def _take_other(self, method: int, channel: int, payload: bytes) -> None:
        if channel not in (0, CHANNEL):
            raise WireError(f"a method on the channel {channel}, which is not open")
        arguments = tuple(decode_arguments(method, payload))
        if method == Method.BASIC_RETURN:
            if channel != CHANNEL:
                raise WireError("a return on the channel 0")
            self._method = _ReturnHead(*arguments)
        else:
            self._tell(Told(method, channel, arguments))

    def _take_header(self, data: bytes, at: int, end: int) -> None:
        if self._method is None or self._properties is not None:
            raise WireError("a content header that belongs to no method")
        class_id, _, size = _unpack_header(data, at + 7)
        if class_id != CLASS_BASIC:
            raise WireError(f"a content header of the class {class_id}")
        if size > self._max_body:
            raise WireError(f"a body of {size} bytes; the limit is {self._max_body}")
        self._properties = data[at + 19 : end]
        self._size = self._left = size
        if not size:
            self._complete(b"")

    def _take_body(self, data: bytes, at: int, end: int, length: int) -> None:
        if self._properties is None or length > self._left:
            raise WireError("more body than its header says")
        if length == self._size:
            self._complete(data[at : end + 1])
        elif length:
            self._left -= length
            self._parts.append(data[at : end + 1])
            if not self._left:
                self._complete(b"".join(self._parts))
                self._parts = []

    def _complete(self, frames: bytes) -> None:
        method, properties = self._method, self._properties
        assert method is not None
        assert properties is not None
        self._method = self._properties = None
        if isinstance(method, _ReturnHead):
            self._tell(Returned(*method, properties, self._size, frames))
        else:
            self._open_deliveries().append((*method, properties, self._size, frames))

    def _open_deliveries(self) -> list[Delivery]:
        if self._deliveries is None:
            self._deliveries = []
            self._tell(Deliveries(self._deliveries), keep_deliveries=True)
        return self._deliveries

    def _tell(
        self, event: Event, *, keep_deliveries: bool = False, keep_confirms: bool = False
    ) -> None:
        self._events.append(event)
        if not keep_deliveries:
            self._deliveries = None
        if not keep_confirms:
            self._confirms = None

    def _unlikely(self, data: bytes, at: int) -> WireError:
        """What to say of bytes that are no frame that could come now."""
        if data[at : at + 4] == _GREETING:
            version = ".".join(str(part) for part in data[at + 4 : at + 8])
            return WireError(f"the peer refuses AMQP 0-9-1 and offers {version}")
        kind, channel, length = _unpack_prefix(data, at)
        if kind not in _SMALLEST:
            return WireError(f"the peer does not speak AMQP: it began with {data[at : at + 8]!r}")
        if length > self.frame_max - OVERHEAD:
            return WireError(f"a frame of {length} bytes; at most {self.frame_max} were agreed")
        return WireError(f"a frame of type {kind} and {length} bytes on channel {channel}")
