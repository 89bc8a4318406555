"""One AMQP connection with one channel, seen from the client, without any I/O.

Rules
* ``begin()`` gives the first bytes to send; from then on ``feed()`` is told what came, and
  ``take()`` gives what has to be answered. The handshake is `_STEPS`, in that order; when it is
  done the event `Opened` comes, once.
* Whatever ends the session comes as one `Closed`, with code and text as the broker gave them, and
  is answered. A closed channel ends the session too: what was in flight on it is void either way.
* What breaks the protocol, and what nobody asked for, raises `WireError`; then the socket is to be
  closed.
* The password is in the bytes to send and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.methods import CHANNEL, Method, encode_method
from understudyd.bridge.wire.reader import (
    FIRST_FRAME_MAX,
    MAX_BODY,
    Arrived,
    Event,
    FrameReader,
    Told,
)
from understudyd.bridge.wire.tables import Table, Value

__all__ = ["Closed", "Login", "Opened", "Session", "SessionEvent"]

PROTOCOL_HEADER: Final = b"AMQP\0\0\x09\x01"
FRAME_MIN: Final = 4096  # the specification's; less cannot be agreed on
ADDED: Final = 1 << 20  # bytes that a broker may add to the headers of a message it once took
SUCCESS: Final = 200

CAPABILITIES: Final[Table] = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}


@dataclass(frozen=True)
class Login:
    """Who we are, and where to."""

    user: str = "guest"
    password: str = field(default="guest", repr=False)
    vhost: str = "/"
    mechanism: str = "PLAIN"
    """PLAIN, or EXTERNAL: the client certificate tells who we are."""

    def response(self) -> bytes:
        """What the mechanism sends."""
        if self.mechanism == "EXTERNAL":
            return b""
        return f"\0{self.user}\0{self.password}".encode()


@dataclass(frozen=True)
class Opened:
    """Connection and channel are open."""

    frame_max: int  # bytes
    heartbeat: int  # s; 0: none
    server: Table
    """What the broker says of itself."""


@dataclass(frozen=True)
class Closed:
    """The session is over."""

    level: str
    """What was closed: connection or channel."""
    code: int
    text: str
    method: tuple[int, int] = (0, 0)
    """Class and id of the method that the broker did not like; zeros: none."""

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


SessionEvent: TypeAlias = "Event | Opened | Closed"

_STEPS: Final = (
    Method.CONNECTION_START,
    Method.CONNECTION_TUNE,
    Method.CONNECTION_OPEN_OK,
    Method.CHANNEL_OPEN_OK,
)
#: what a broker may say at any time once the session is open, beside the answers to what we asked
_ANY_TIME: Final = frozenset(
    {Method.CONNECTION_BLOCKED, Method.CONNECTION_UNBLOCKED, Method.BASIC_CANCEL}
)
_ANSWERS: Final = frozenset(
    {
        Method.QUEUE_DECLARE_OK,
        Method.QUEUE_BIND_OK,
        Method.QUEUE_DELETE_OK,
        Method.BASIC_QOS_OK,
        Method.BASIC_CONSUME_OK,
        Method.BASIC_CANCEL_OK,
        Method.CONFIRM_SELECT_OK,
    }
)


class Session:
    """The client's side of one connection."""

    def __init__(
        self,
        login: Login,
        *,
        heartbeat: int = 10,
        frame_max: int = 131072,
        max_body: int = MAX_BODY,
        about: Mapping[str, Value] | None = None,
    ) -> None:
        """``heartbeat`` (s) and ``frame_max`` (bytes) are the most that we agree to; ``about`` is
        told to the broker as our properties."""
        self._login = login
        self._heartbeat = heartbeat
        self._frame_max = frame_max
        self._about: Table = {**(about or {}), "capabilities": {**CAPABILITIES}}
        self._reader = FrameReader(max_body=max_body)
        self._step = 0
        self._server: Table = {}
        self._out: list[bytes] = []
        self.is_closed = False

    @property
    def is_open(self) -> bool:
        """Between `Opened` and `Closed`."""
        return self._step == len(_STEPS) and not self.is_closed

    def begin(self) -> bytes:
        """What a client sends first."""
        return PROTOCOL_HEADER

    def feed(self, data: bytes | memoryview) -> list[SessionEvent]:
        """What ``data`` means, in order; raises WireError. Nothing comes after `Closed`."""
        if self.is_closed:
            return []
        events: list[SessionEvent] = []
        for event in self._reader.feed(data):
            if isinstance(event, Told):
                events += self._hear(event)
            elif self.is_open or isinstance(event, Arrived):
                events.append(event)
            else:
                raise WireError("the broker delivers before anything is open")
            if self.is_closed:
                break
        return events

    def take(self) -> bytes:
        """What has to be sent in answer; may be empty."""
        out, self._out = self._out, []
        return b"".join(out)

    def close(self, text: str = "the bridge is done") -> bytes:
        """What to send to end the session in order; `Closed` comes when the broker agrees."""
        return encode_method(Method.CONNECTION_CLOSE, SUCCESS, text, 0, 0, channel=0)

    def _hear(self, told: Told) -> list[SessionEvent]:
        method = told.method
        if method in (Method.CONNECTION_CLOSE, Method.CHANNEL_CLOSE):
            return [self._close(told)]
        if method == Method.CONNECTION_CLOSE_OK:
            self.is_closed = True
            return [Closed("connection", SUCCESS, "closed by us")]
        if self.is_open:
            if method in _ANY_TIME or method in _ANSWERS:
                return [told]
        elif method == _STEPS[self._step]:
            self._step += 1
            return self._climb(method, told.arguments)
        raise WireError(f"the broker says {method >> 16}.{method & 0xFFFF} where it should not")

    def _climb(self, method: int, arguments: tuple[Any, ...]) -> list[SessionEvent]:
        """Answer one step of the handshake."""
        if method == Method.CONNECTION_START:
            self._start(*arguments[2:4])
        elif method == Method.CONNECTION_TUNE:
            self._tune(*arguments[1:])
        elif method == Method.CONNECTION_OPEN_OK:
            self._say(Method.CHANNEL_OPEN, "", channel=CHANNEL)
        else:
            return [Opened(self._frame_max, self._heartbeat, self._server)]
        return []

    def _start(self, server: Table, mechanisms: bytes) -> None:
        self._server = server
        offered = mechanisms.decode("ascii", "replace").split()
        wanted = self._login.mechanism
        if wanted not in offered:
            raise WireError(f"the broker does not offer {wanted}, only {', '.join(offered)}")
        response = self._login.response()
        self._say(Method.CONNECTION_START_OK, self._about, wanted, response, "en_US")

    def _tune(self, frame_max: int, heartbeat: int) -> None:
        """The smaller of both wishes; 0 is no wish."""
        self._frame_max = min(self._frame_max, frame_max or self._frame_max)
        if self._frame_max < FRAME_MIN:
            raise WireError(f"frames of {frame_max} bytes; AMQP needs {FRAME_MIN}")
        if self._heartbeat:
            self._heartbeat = min(self._heartbeat, heartbeat or self._heartbeat)
        # RabbitMQ cuts bodies to what was agreed, and sends headers in one frame however large: it
        # takes them 8 bytes too long, and adds x-death and its kin without a look at their size.
        self._reader.frame_max = max(self._frame_max, FIRST_FRAME_MAX) + ADDED
        self._say(Method.CONNECTION_TUNE_OK, CHANNEL, self._frame_max, self._heartbeat)
        self._say(Method.CONNECTION_OPEN, self._login.vhost, "", 0)

    def _close(self, told: Told) -> Closed:
        code, text, class_id, method_id = told.arguments
        self.is_closed = True
        if told.method == Method.CONNECTION_CLOSE:
            self._say(Method.CONNECTION_CLOSE_OK)
            return Closed("connection", code, text, (class_id, method_id))
        self._say(Method.CHANNEL_CLOSE_OK, channel=told.channel)
        self._out.append(self.close())
        return Closed("channel", code, text, (class_id, method_id))

    def _say(self, method: int, *arguments: Any, channel: int = 0) -> None:
        self._out.append(encode_method(method, *arguments, channel=channel))
