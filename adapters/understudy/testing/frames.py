"""AMQP 0-9-1 frames, as much as fault tests need: pure, no socket.

A frame is ``type(1) channel(2) size(4) payload(size) 0xCE``. A method's payload begins with its
class and method id; methods that carry content are followed, on the same channel, by one header
frame and as many body frames as the header's body size asks for.

``FrameScanner`` finds in a byte stream where methods begin and end, without keeping the stream. It
may be fed in pieces of any size. Positions are absolute: the first byte ever fed has position 0.
"Begins" is the position of the frame's first byte; it is told as soon as the ids are known, which
takes 11 bytes. "Ends" is the position behind the method's last byte, content included.

A stream that is not AMQP, or that breaks the framing, makes the scanner ``is_lost``: it then finds
nothing more, because a guess would aim a cut at the wrong byte.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = [
    "BASIC_ACK",
    "BASIC_CONSUME",
    "BASIC_DELIVER",
    "BASIC_NACK",
    "BASIC_PUBLISH",
    "BASIC_RETURN",
    "CHANNEL_CLOSE",
    "CHANNEL_OPEN",
    "CONFIRM_SELECT",
    "CONNECTION_CLOSE",
    "CONNECTION_OPEN",
    "CONNECTION_START",
    "CONNECTION_TUNE",
    "QUEUE_DECLARE",
    "Frame",
    "FrameScanner",
    "Mark",
    "MethodId",
    "encode_frame",
    "take_frames",
]

MethodId = tuple[int, int]

CONNECTION_START: MethodId = (10, 10)
CONNECTION_TUNE: MethodId = (10, 30)
CONNECTION_OPEN: MethodId = (10, 40)
CONNECTION_CLOSE: MethodId = (10, 50)
CHANNEL_OPEN: MethodId = (20, 10)
CHANNEL_CLOSE: MethodId = (20, 40)
QUEUE_DECLARE: MethodId = (50, 10)
BASIC_CONSUME: MethodId = (60, 20)
BASIC_PUBLISH: MethodId = (60, 40)
BASIC_RETURN: MethodId = (60, 50)
BASIC_DELIVER: MethodId = (60, 60)
BASIC_GET_OK: MethodId = (60, 71)
BASIC_ACK: MethodId = (60, 80)
BASIC_NACK: MethodId = (60, 120)
CONFIRM_SELECT: MethodId = (85, 10)

WITH_CONTENT = frozenset({BASIC_PUBLISH, BASIC_RETURN, BASIC_DELIVER, BASIC_GET_OK})

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
PREFIX = struct.Struct(">BHI")
IDS = struct.Struct(">HH")
BODY_SIZE = struct.Struct(">Q")

# Bytes from a frame's first one on that must be seen before it can be judged.
NEEDED = {METHOD: PREFIX.size + 4, HEADER: PREFIX.size + 12, BODY: PREFIX.size, HEARTBEAT: 7}
SMALLEST_PAYLOAD = {METHOD: 4, HEADER: 12, BODY: 0, HEARTBEAT: 0}

PROTOCOL_HEADER = b"AMQP"
PROTOCOL_HEADER_SIZE = 8


class Frame(NamedTuple):
    """One whole frame."""

    kind: int
    channel: int
    payload: bytes


class Mark(NamedTuple):
    """A place in the stream: a method begins there, or has ended there with its content."""

    begins: bool
    method: MethodId
    channel: int
    position: int


def encode_frame(kind: int, channel: int, payload: bytes) -> bytes:
    """The bytes of one frame."""
    return PREFIX.pack(kind, channel, len(payload)) + payload + bytes([FRAME_END])


def take_frames(buffer: bytearray) -> list[Frame]:
    """Take all whole frames off the front of ``buffer``; an incomplete one stays in it."""
    frames = []
    while len(buffer) >= PREFIX.size:
        kind, channel, size = PREFIX.unpack_from(buffer)
        end = PREFIX.size + size
        if len(buffer) <= end:
            break
        if buffer[end] != FRAME_END:
            raise ValueError(f"frame ends with {buffer[end]:#04x}, not {FRAME_END:#04x}")
        frames.append(Frame(kind, channel, bytes(buffer[PREFIX.size : end])))
        del buffer[: end + 1]
    return frames


class FrameScanner:
    """Finds methods in one direction of an AMQP connection; feed it every byte, in order."""

    def __init__(self) -> None:
        self.position = 0  # of the next byte to be fed
        self.is_lost = False
        self._partial = b""  # the beginning of a frame that cannot be judged yet
        self._left = 0  # bytes of the current frame still to come, its end byte included
        self._ending: tuple[MethodId, int] | None = None  # what ends with the current frame
        self._content: dict[int, tuple[MethodId, int]] = {}  # channel: method, body bytes to come

    def __repr__(self) -> str:
        state = "lost" if self.is_lost else f"{self._left} bytes left of a frame"
        return f"<FrameScanner at {self.position}, {state}>"

    @property
    def undecided(self) -> int:
        """How many of the bytes fed last belong to a method frame not identified yet."""
        is_method = self._partial[:1] == bytes([METHOD])
        return len(self._partial) if is_method and not self.is_lost else 0

    def feed(self, data: bytes) -> list[Mark]:
        """Scan ``data``; returns the marks it made known, in the order of the stream."""
        base = self.position - len(self._partial)
        self.position += len(data)
        if self.is_lost:
            return []
        if self._partial:
            data = self._partial + data
            self._partial = b""
        marks: list[Mark] = []
        at, size = 0, len(data)
        while at < size and not self.is_lost:
            if self._left:
                at = self._skip(data, at, base, marks)
                continue
            taken = self._begin(data, at, base, marks)
            if not taken:
                self._partial = data[at:]
                break
            at += taken
        return marks

    def _skip(self, data: bytes, at: int, base: int, marks: list[Mark]) -> int:
        end = min(at + self._left, len(data))
        self._left -= end - at
        if self._left == 0:
            self.is_lost = data[end - 1] != FRAME_END
            if self._ending is not None and not self.is_lost:
                marks.append(Mark(False, *self._ending, base + end))
            self._ending = None
        return end

    def _begin(self, data: bytes, at: int, base: int, marks: list[Mark]) -> int:
        """Judge the frame at ``at``; returns how many bytes that used, 0 = more are needed."""
        kind = data[at]
        needed = NEEDED.get(kind)
        if needed is None:
            return self._protocol_header(data[at : at + PROTOCOL_HEADER_SIZE])
        if len(data) - at < needed:
            return 0
        _, channel, size = PREFIX.unpack_from(data, at)
        if size < SMALLEST_PAYLOAD[kind]:
            self.is_lost = True
            return needed
        if kind == METHOD:
            class_id, method_id = IDS.unpack_from(data, at + PREFIX.size)
            self._method((class_id, method_id), channel, base + at, marks)
        elif kind == HEADER:
            (body_size,) = BODY_SIZE.unpack_from(data, at + PREFIX.size + 4)
            self._count_content(channel, body_size, header=True)
        elif kind == BODY:
            self._count_content(channel, size, header=False)
        self._left = PREFIX.size + size + 1 - needed
        return needed

    def _method(self, method: MethodId, channel: int, position: int, marks: list[Mark]) -> None:
        marks.append(Mark(True, method, channel, position))
        self._content.pop(channel, None)  # a method amid content gives that content up
        if method in WITH_CONTENT:
            self._content[channel] = (method, 0)
        else:
            self._ending = (method, channel)

    def _count_content(self, channel: int, size: int, *, header: bool) -> None:
        method, to_come = self._content.get(channel, (None, 0))
        if method is None:
            return
        to_come = size if header else to_come - size
        self._content[channel] = (method, to_come)
        if to_come <= 0:
            del self._content[channel]
            self._ending = (method, channel)

    def _protocol_header(self, start: bytes) -> int:
        """``AMQP`` and four version bytes; a client begins with it, a server may refuse with it."""
        if not start.startswith(PROTOCOL_HEADER[: len(start)]):
            self.is_lost = True
        if self.is_lost or len(start) < PROTOCOL_HEADER_SIZE:
            return len(start) if self.is_lost else 0
        return PROTOCOL_HEADER_SIZE
