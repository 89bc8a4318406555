"""The wire format of STOMP 1.1 and 1.2, without any I/O: bytes in, frames out, and back.

Rules
* Bodies are bytes and stay what they are. A body ends at its content-length, whatever it holds;
  without one at the first NUL.
* Header names and values are escaped and unescaped, except in CONNECT and CONNECTED (STOMP 1.2,
  "Value Encoding"). Of repeated headers the first counts. An escape that STOMP does not know is
  left as it is: ActiveMQ sends header names raw, and a peer must not lose a connection over a
  message that would only come again.
* Header bytes that are no UTF-8 survive: they become lone surrogates, and these bytes again.
* Everything that arrives is bounded: a frame that is, or says it is, larger than the limits ends
  the connection (`ProtocolError`). Memory in use is what has arrived of one frame.
* Each byte is looked at twice at most, however small the pieces are in which it comes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

__all__ = [
    "HEARTBEAT",
    "MAX_BODY",
    "MAX_HEAD",
    "FrameParser",
    "ProtocolError",
    "RawFrame",
    "encode",
    "encode_head",
]

MAX_BODY = 128 << 20  # bytes; what RabbitMQ takes at most, and ActiveMQ takes 100 MiB
MAX_HEAD = 1 << 20  # bytes of a command and its headers; ActiveMQ takes 1000 of 10 KiB each

HEARTBEAT = "HEARTBEAT"  # the command of what is no frame: line ends between frames

_UNESCAPED = frozenset({"CONNECT", "STOMP", "CONNECTED"})
_ESCAPED = re.compile(r"\\[\\rnc]")
_ESCAPED_11 = re.compile(r"\\[\\nc]")
_COLON = r"\c"
_UNESCAPES = {r"\\": "\\", r"\r": "\r", r"\n": "\n", r"\c": ":"}
_LENGTH = re.compile(r"[0-9]{1,18}")
_LINE_ENDS = b"\r\n"
#: with nothing else, as they come to a sender that waits for them
_RECEIPTS = re.compile(rb"\n*(?:RECEIPT\nreceipt-id:[\w-]{1,99}\n\n\0\n*)+")
_RECEIPT_ID = re.compile(rb"\nreceipt-id:([\w-]+)\n")
_TOO_LONG = "a body is longer than its content-length"


class ProtocolError(Exception):
    """The peer does not speak STOMP, or sends more than anybody should."""


class RawFrame:
    """A frame as it was on the wire; the body is bytes."""

    __slots__ = ("body", "command", "head_size", "headers")

    def __init__(
        self, command: str, headers: dict[str, str], body: bytes, head_size: int = 0
    ) -> None:
        self.command = command
        self.headers = headers
        self.body = body
        self.head_size = head_size  # bytes of the command and the headers as they came

    @property
    def size(self) -> int:
        """Bytes on the wire, about."""
        return self.head_size + len(self.body)

    def __repr__(self) -> str:
        return f"<{self.command} {len(self.headers)} headers, {len(self.body)} bytes>"


_BEAT = RawFrame(HEARTBEAT, {}, b"")


def encode(
    command: str,
    headers: Mapping[str, object],
    body: bytes = b"",
    *,
    version: str = "1.2",
) -> bytes:
    """A frame's bytes. A header of None is left out, one that is a tuple is repeated.

    Raises ValueError for a body with a NUL and no content-length, UnicodeEncodeError for text that
    cannot be sent.
    """
    pairs = [
        (name, str(value))
        for name, given in headers.items()
        for value in (given if isinstance(given, tuple) else (given,))
        if value is not None
    ]
    if b"\0" in body and headers.get("content-length") is None:
        raise ValueError("a body that holds NUL needs a content-length header")
    return b"%b\n%b\0" % (encode_head(command, pairs, version=version), body)


def encode_head(command: str, pairs: Collection[tuple[str, str]], *, version: str = "1.2") -> bytes:
    """The command and these headers, each line with its end: a frame up to the empty line.

    Raises ValueError for what no header can hold, UnicodeEncodeError for text that cannot be sent.
    """
    text = "\n".join([command, *map(":".join, pairs), ""])
    if text.count("\n") != len(pairs) + 1 or "\\" in text or "\r" in text:
        text = "\n".join([command, *_escaped(command, pairs, version), ""])
    elif text.count(":") != len(pairs) and command not in _UNESCAPED:
        lines = [
            f"{name}:{value}" if ":" not in value and ":" not in name else _with_colons(name, value)
            for name, value in pairs
        ]
        text = "\n".join([command, *lines, ""])
    head = text.encode("utf-8", "surrogateescape")
    if b"\0" in head:
        raise ValueError("a header may not hold NUL")
    return head


def _with_colons(name: str, value: str) -> str:
    """A header line in which nothing else has to be escaped."""
    return f"{name.replace(':', _COLON)}:{value.replace(':', _COLON)}"


def _escaped(command: str, pairs: Iterable[tuple[str, str]], version: str) -> Iterator[str]:
    """The header lines where something in them has to be escaped."""
    is_escaped, is_12 = command not in _UNESCAPED, version != "1.1"
    for name, value in pairs:
        if is_escaped:
            yield f"{_escape(name, is_12=is_12)}:{_escape(value, is_12=is_12)}"
        elif "\n" in name or "\n" in value:
            raise ValueError(f"the header {name} of {command} may not hold a line end")
        else:
            yield f"{name}:{value}"


def _escape(text: str, *, is_12: bool) -> str:
    if "\\" in text:
        text = text.replace("\\", r"\\")
    if "\n" in text:
        text = text.replace("\n", r"\n")
    if is_12 and "\r" in text:
        text = text.replace("\r", r"\r")
    return text.replace(":", _COLON)


def _unescape(found: re.Match[str]) -> str:
    return _UNESCAPES[found[0]]


def _uncolon(text: str) -> str:
    return text.replace(_COLON, ":")


class FrameParser:
    """Takes in what was received, gives out the frames that are complete."""

    def __init__(
        self,
        version: str = "1.2",
        *,
        max_head: int = MAX_HEAD,
        max_body: int = MAX_BODY,
        takes_nul: bool = False,
    ) -> None:
        """``takes_nul``: a NUL among the headers belongs to one. STOMP cannot say it, but RabbitMQ
        sends that of an AMQP producer as it is; whoever ends over it never gets past it."""
        self.version = version
        self.takes_nul = takes_nul
        self.max_head = max_head
        self.max_body = max_body
        self._buffer = bytearray()
        self._at = 0  # where in the buffer begins what is still to be read
        self._searched = 0  # before this place is no end of it
        self._head: RawFrame | None = None  # the frame whose body is read
        self._length: int | None = None  # of that body, where it was said

    @property
    def is_between_frames(self) -> bool:
        """Whether nothing of a further frame has arrived."""
        return not self._buffer and self._head is None

    def feed(self, data: bytes) -> list[RawFrame]:
        """The frames that ``data`` completes, in order; raises ProtocolError.

        Line ends alone between two frames are one frame of the command `HEARTBEAT`.
        """
        frames: list[RawFrame] = []
        if self.is_between_frames:
            if not data.strip(_LINE_ENDS):
                return [_BEAT] if data else []
            if _RECEIPTS.fullmatch(data):
                ids = _RECEIPT_ID.findall(data)
                return [RawFrame("RECEIPT", {"receipt-id": each.decode()}, b"") for each in ids]
            data = data[self._read_whole(data, frames) :]
        while data:
            self._buffer += data
            frame = self._read_frame()
            if frame is None:
                break
            frames.append(frame)
            rest = bytes(self._buffer[self._at :])
            self._buffer.clear()
            self._at = self._searched = 0
            data = rest[self._read_whole(rest, frames) :]
        if self._at:
            del self._buffer[: self._at]
            self._searched = max(self._searched - self._at, 0)
            self._at = 0
        return frames

    def _read_whole(self, data: bytes, frames: list[RawFrame]) -> int:
        """Read the frames that are there as a whole, in the common form; how many bytes that is.

        What ends its lines with CR LF, and what is not complete, is left for `_read_frame`.
        """
        at, size = 0, len(data)
        find, max_head = data.find, self.max_head
        while True:
            while at < size and data[at] in _LINE_ENDS:
                at += 1
            end = find(b"\n\n", at)
            if end < 0 or end - at > max_head:
                return at
            head = data[at:end]
            if b"\r" in head:
                return at
            command, headers = self._parse_head(head)
            length = self._said_length(headers)
            begin = end + 2
            end = find(b"\0", begin) if length is None else begin + length
            if not begin <= end < size or (length is None and end - begin > self.max_body):
                return at
            if data[end]:
                raise ProtocolError(_TOO_LONG)
            frames.append(RawFrame(command, headers, data[begin:end], len(head)))
            at = end + 1

    def _read_frame(self) -> RawFrame | None:
        """The next frame out of the buffer; None when more must come."""
        if self._head is None and not self._read_head():
            return None
        return self._read_body()

    def _read_head(self) -> bool:
        """Read a command and its headers; False when more must come."""
        buffer, at = self._buffer, self._at
        size = len(buffer)
        while at < size and buffer[at] in _LINE_ENDS:
            at += 1
        self._at = at
        begin = max(at, self._searched - 2)  # the end may have been cut
        end = buffer.find(b"\n\n", begin)
        body_at = end + 2
        if self.version != "1.1":
            other = buffer.find(b"\n\r\n", begin, size if end < 0 else end)
            if other >= 0:
                end, body_at = other, other + 3
        if (size if end < 0 else end) - at > self.max_head:
            raise ProtocolError(f"a frame has more than {self.max_head} bytes of headers")
        if end < 0:
            self._searched = size
            return False
        head = bytes(buffer[at:end])
        command, headers = self._parse_head(head)
        self._length = self._said_length(headers)
        self._head = RawFrame(command, headers, b"", len(head))
        self._at = self._searched = body_at
        return True

    def _parse_head(self, head: bytes) -> tuple[str, dict[str, str]]:
        if b"\0" in head and not self.takes_nul:
            raise ProtocolError("a frame ends within its headers")
        text = head.decode("utf-8", "surrogateescape")
        command, *lines = text.split("\n")
        if "\r" in text and self.version != "1.1":
            command = command.removesuffix("\r")
            lines = [line.removesuffix("\r") for line in lines]
        pairs = [line.split(":", 1) for line in lines]
        if "\\" in text and command not in _UNESCAPED:
            unescape = self._unescaping(text)
            for place, line in enumerate(lines):
                if "\\" in line:
                    pairs[place] = [unescape(part) for part in pairs[place]]
        try:
            headers = dict(pairs)
        except ValueError:
            raise ProtocolError("a header line without a colon") from None
        if len(headers) < len(pairs):
            headers = dict(reversed(pairs))
        return command, headers

    def _unescaping(self, text: str) -> Callable[[str], str]:
        """What restores the parts of a text with escapes."""
        if "\\\\" not in text and "\\n" not in text and "\\r" not in text:
            return _uncolon
        escaped = _ESCAPED_11 if self.version == "1.1" else _ESCAPED
        return lambda part: escaped.sub(_unescape, part)

    def _said_length(self, headers: dict[str, str]) -> int | None:
        text = headers.get("content-length")
        if text is None:
            return None
        if not (len(text) < 19 and text.isdecimal() and text.isascii()) and not _LENGTH.fullmatch(
            text.strip()
        ):
            raise ProtocolError("a content-length that is no number")
        length = int(text)
        if length > self.max_body:
            raise ProtocolError(f"a body of {length} bytes; the limit is {self.max_body}")
        return length

    def _read_body(self) -> RawFrame | None:
        """The frame whose head was read; None when more must come."""
        assert self._head is not None
        buffer, at = self._buffer, self._at
        if self._length is None:
            end = buffer.find(0, self._searched)
            if (len(buffer) if end < 0 else end) - at > self.max_body:
                raise ProtocolError(f"a body of more than {self.max_body} bytes")
            if end < 0:
                self._searched = len(buffer)
                return None
        else:
            end = at + self._length
            if len(buffer) <= end:
                return None
            if buffer[end]:
                raise ProtocolError(_TOO_LONG)
        frame, self._head = self._head, None
        self._at = self._searched = end + 1
        with memoryview(buffer) as view:  # a slice of the buffer would be one copy more
            frame.body = bytes(view[at:end])
        return frame
