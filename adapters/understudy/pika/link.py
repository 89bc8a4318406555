"""One AMQP connection without its socket: bytes come in by `feed`, bytes go out by ``write``.

Rules
* Whatever a lying peer can make this code raise is translated in `feed`, once: the link is `lost`.
  Anything else comes from a signal handler: the link is lost through nobody's fault. Nothing is
  read or written after that. A frame is never larger than what was negotiated, a message never
  larger than `LARGEST_MESSAGE`.
* Requests may be written one behind the other: the answers of a channel come in their order.
* A link is not thread-safe; its owner serialises all calls. It never waits.
* ``lost.is_verdict``: the broker itself closed the connection, with an error that what we sent may
  be the reason of. Not so: forced (320), out of resources (506).
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Callable
from typing import Any, Protocol

from pika import exceptions, frame, spec

from understudy.pika.properties import decoded_properties

__all__ = ["Ask", "Content", "Link", "LinkChannel", "LinkLost", "Receiver", "Sent"]

LARGEST_MESSAGE = 2**29  # bytes; what RabbitMQ can be set to at most
HANDSHAKE_FRAME = 131072  # bytes; before anything is negotiated
NOT_A_VERDICT = (200, 320, 506)
ACK, NACK = spec.Basic.Ack.INDEX, spec.Basic.Nack.INDEX
CODEC_ERRORS = (  # of pika's codec and of ours
    exceptions.AMQPError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
CONTENT = (spec.Basic.Deliver, spec.Basic.GetOk, spec.Basic.Return)
FRAME = struct.Struct(">BHI")
SETTLE = struct.Struct(">QB")
METHOD_ID = struct.Struct(">I")
HEADER = struct.Struct(">HHQ")
END = spec.FRAME_END

INTERRUPTED = "the call that used it was interrupted"
Content = tuple[Any, Any, bytes]  # method, properties, body


class LinkLost(Exception):
    """The link is over; ``cause`` is pika's error where the broker said why."""

    def __init__(
        self, reason: str, cause: Exception | None = None, *, outstanding: int = 0
    ) -> None:
        super().__init__(reason)
        self.cause = cause
        self.outstanding = outstanding  # messages and requests that had no answer by then

    @property
    def is_verdict(self) -> bool:
        cause = self.cause
        return isinstance(cause, exceptions.ConnectionClosedByBroker) and (
            cause.reply_code not in NOT_A_VERDICT
        )

    def convicts(self, own: int = 1) -> bool:
        """Whether the broker meant the caller, who had ``own`` of them outstanding."""
        return self.is_verdict and self.outstanding <= own


class Receiver(Protocol):
    """Who is told what comes on a channel. Runs inside `Link.feed`: it must not wait."""

    def delivered(self, method: Any, properties: Any, body: bytes) -> None: ...
    def returned(self, method: Any, properties: Any, body: bytes) -> None: ...
    def cancelled(self, method_frame: Any) -> None:
        """The broker has cancelled a consumer."""

    def settled(self, tag: int, multiple: bool, ok: bool) -> None:
        """The broker has confirmed or refused messages."""

    def closed(self, reason: Exception) -> None:
        """The broker has closed the channel."""


class Ask:
    """A request, and its answer once it is there."""

    __slots__ = ("answer", "content", "failed", "replies")

    def __init__(self, replies: tuple[type, ...]) -> None:
        self.replies = replies
        self.answer: Any = None  # pika's frame.Method
        self.content: Content | None = None  # of a basic.get
        self.failed: Exception | None = None  # the channel was closed instead

    @classmethod
    def over(cls) -> Ask:
        """One that needs no answer."""
        ask = cls(())
        ask.answer = ask
        return ask

    def is_over(self) -> bool:
        return self.answer is not None or self.failed is not None


class Sent:
    """A message that waits for its confirm."""

    __slots__ = ("failed", "is_over", "message_id", "ok", "returned")

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self.is_over = False
        self.ok = False
        self.returned: Content | None = None
        self.failed: Exception | None = None

    def is_settled(self) -> bool:
        return self.is_over


class LinkChannel:
    def __init__(self, link: Link, number: int, receiver: Receiver) -> None:
        self.link = link
        self.number = number
        self.opening = Ask.over()
        self.is_open = True  # until closed by either side
        self.reason: Exception | None = None  # of the broker, for closing it
        self.closed_over = 0  # the INDEX of the method that the broker names as its reason
        self.is_confirming = False
        self.next_tag = 1  # of the next message, in confirm mode
        self.unsettled: dict[int, Sent] = {}
        self.keeps_more: Callable[[], bool] = lambda: False  # messages that are not in `unsettled`
        self._receiver = receiver
        self._asked: list[Ask] = []
        self._closing: Ask | None = None
        self._method: Any = None  # of the content that is coming in
        self._properties: Any = None
        self._missing = 0
        self._fragments: list[bytes] = []

    @property
    def is_asked(self) -> bool:
        """Whether a request waits for its answer."""
        return bool(self._asked)

    @property
    def outstanding(self) -> int:
        """Messages and requests without an answer; the mode belongs to its first message."""
        asked = sum(spec.Confirm.SelectOk not in ask.replies for ask in self._asked)
        return asked + len(self.unsettled) + self.keeps_more()

    def ask(self, method: Any, *replies: type) -> Ask:
        """Write a request; raises the caller's encoding errors and writes nothing then."""
        data = frame.Method(self.number, method).marshal()
        ask = Ask(replies)
        try:
            self._asked.append(ask)
            self.link.write(data)
        except BaseException:
            self.link.interrupted()
            raise
        return ask

    def send(self, method: Any) -> None:
        """Write a method that has no answer."""
        self.link.send(self.number, method)

    def select_confirms(self) -> Ask:
        ask = self.ask(spec.Confirm.Select(), spec.Confirm.SelectOk)
        self.is_confirming = True
        return ask

    def publish(self, message: Any) -> Sent:
        """Write a message; in confirm mode what is returned tells when it is settled."""
        frames = message.frames(self.number, self.link.frame_max)
        sent = Sent(message.message_id)
        try:
            if self.is_confirming:
                self.unsettled[self.next_tag] = sent
                self.next_tag += 1
            self.link.write(frames)
        except BaseException:
            self.link.interrupted()
            raise
        return sent

    def close(self, code: int, text: str) -> Ask:
        """Ask the broker to close it; nothing that still comes is passed on."""
        if self._closing is None:
            self.is_open = False
            self.link.send(self.number, spec.Channel.Close(code, text, 0, 0))
            self._closing = Ask((spec.Channel.CloseOk,))
        return self._closing

    # --- what comes in --------------------------------------------------------------------------

    def settle(self, tag: int, multiple: bool, ok: bool) -> None:
        unsettled = self.unsettled
        if multiple:
            tags = [t for t in unsettled if t <= tag or tag == 0]
        else:
            tags = [tag] if tag in unsettled else []
        for one in tags:
            sent = unsettled.pop(one)
            sent.ok = ok
            sent.is_over = True
        if self._closing is None:
            self._receiver.settled(tag, multiple, ok)

    def on_method(self, method: Any) -> None:
        kind = type(method)
        if kind in CONTENT:
            self._method = method
            return
        if kind is spec.Channel.Close:
            self._closed_by_broker(method)
        elif kind is spec.Channel.CloseOk:
            if self._closing is None:
                raise exceptions.UnexpectedFrameError(method)
            self._closing.answer = frame.Method(self.number, method)
            self.link.forget(self)
        elif self._closing is not None:
            return
        elif kind is spec.Basic.Cancel:
            self._receiver.cancelled(frame.Method(self.number, method))
        elif kind is spec.Channel.Flow:
            self.send(spec.Channel.FlowOk(method.active))
        else:
            self._answered(method)

    def _answered(self, method: Any, content: Content | None = None) -> None:
        if not self._asked or type(method) not in self._asked[0].replies:
            raise exceptions.UnexpectedFrameError(method)
        ask = self._asked.pop(0)
        ask.content = content
        ask.answer = frame.Method(self.number, method)

    def _closed_by_broker(self, method: Any) -> None:
        self.send(spec.Channel.CloseOk())
        if self._closing is not None:
            return  # ours is on its way; its answer ends it
        self.is_open = False
        self.reason = exceptions.ChannelClosedByBroker(method.reply_code, method.reply_text)
        self.closed_over = method.class_id << 16 | method.method_id
        self.link.forget(self)
        for ask in self._asked:
            ask.failed = self.reason
        for sent in self.unsettled.values():
            sent.failed = self.reason
            sent.is_over = True
        self.unsettled.clear()
        self._receiver.closed(self.reason)

    def on_header(self, payload: bytes) -> None:
        if self._method is None or self._properties is not None:
            raise exceptions.InvalidFrameError("a content header without its method")
        _, _, self._missing = HEADER.unpack_from(payload)
        if self._missing > LARGEST_MESSAGE:
            raise exceptions.BodyTooLongError(self._missing, LARGEST_MESSAGE)
        self._properties = decoded_properties(payload[12:])
        if not self._missing:
            self._complete(b"")

    def on_body(self, payload: bytes) -> None:
        if self._properties is None:
            raise exceptions.InvalidFrameError("a content body without its header")
        self._missing -= len(payload)
        if self._missing < 0:
            raise exceptions.InvalidFrameError("a content body that is longer than announced")
        if self._missing:
            self._fragments.append(payload)
        elif self._fragments:
            self._fragments.append(payload)
            body, self._fragments = b"".join(self._fragments), []
            self._complete(body)
        else:
            self._complete(payload)

    def _complete(self, body: bytes) -> None:
        method, properties = self._method, self._properties
        self._method = self._properties = None
        if self._closing is not None:
            return
        kind = type(method)
        if kind is spec.Basic.Deliver:
            self._receiver.delivered(method, properties, body)
        elif kind is spec.Basic.GetOk:
            self._answered(method, (method, properties, body))
        else:
            self._receiver.returned(method, properties, body)


class Link:
    def __init__(self, write: Callable[[bytes], None], parameters: Any, heartbeat: int) -> None:
        """``parameters`` are pika's; ``heartbeat`` in seconds, 0 = off."""
        self.lost: LinkLost | None = None
        self.is_open = False
        self.is_closed = False  # as we asked
        self.channels: dict[int, LinkChannel] = {}
        self.server_properties: dict[str, Any] = {}
        self.capabilities: dict[str, bool] = {}
        self.frame_max = HANDSHAKE_FRAME
        self.channel_max = 65535
        self.agreed_heartbeat = heartbeat
        self.on_blocked: Callable[[Any], None] = lambda method_frame: None  # and unblocked
        self._write = write
        self._parameters = parameters
        self._buffer = b""
        self._expected: type | None = spec.Connection.Start
        self._secret: Ask | None = None

    def write(self, data: bytes) -> None:
        if self.lost is None:
            self._write(data)

    def send(self, channel: int, method: Any) -> None:
        self.write(frame.Method(channel, method).marshal())

    def interrupted(self) -> None:
        """A signal handler raised: what was noted and what was written may not be the same."""
        self.lost = self.lost or LinkLost(INTERRUPTED)

    def send_heartbeat(self) -> None:
        self.write(frame.Heartbeat().marshal())

    def start(self) -> None:
        """Begin the handshake; `is_open` or `lost` tell how it went."""
        self.write(frame.ProtocolHeader().marshal())

    def open_channel(self, number: int, receiver: Receiver) -> LinkChannel:
        """Write channel.open; what follows may be written at once."""
        channel = self.channels[number] = LinkChannel(self, number, receiver)
        channel.opening = channel.ask(spec.Channel.Open(), spec.Channel.OpenOk)
        return channel

    def free_number(self, taken: Any = ()) -> int:
        """The highest channel number that nobody has."""
        for number in range(self.channel_max, 0, -1):
            if number not in self.channels and number not in taken:
                return number
        raise exceptions.NoFreeChannels

    def update_secret(self, secret: str, reason: str) -> Ask:
        self._secret = Ask((spec.Connection.UpdateSecretOk,))
        self.send(0, spec.Connection.UpdateSecret(secret, reason))
        return self._secret

    def say_goodbye(self, code: int, text: str) -> None:
        """Ask the broker to close the connection; `is_closed` tells when it has answered."""
        self.send(0, spec.Connection.Close(code, text, 0, 0))

    def forget(self, channel: LinkChannel) -> None:
        self.channels.pop(channel.number, None)

    # --- what comes in --------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take in what was read. Never raises for what the peer does: see `lost`."""
        if self.lost is not None:
            return
        try:
            self._parse(self._buffer + data if self._buffer else data)
        except LinkLost as lost:
            self.lost = lost
        except Exception as exc:
            if not _is_of_codec(exc):
                self.interrupted()
                raise
            self.lost = LinkLost(f"the broker broke the protocol: {type(exc).__name__}: {exc}", exc)

    def _parse(self, data: bytes) -> None:
        position, length = 0, len(data)
        while length - position >= 8:
            kind, number, size = FRAME.unpack_from(data, position)
            if size > self.frame_max:
                if data[position : position + 4] == b"AMQP":
                    raise LinkLost("the broker speaks another version of AMQP")
                raise exceptions.InvalidFrameError(f"a frame of {size} bytes")
            start, end = position + 7, position + 7 + size
            if end >= length:
                break
            if data[end] != END:
                raise exceptions.InvalidFrameError("a frame without its end")
            position = end + 1
            self._on_frame(kind, number, data[start:end])
            if self.lost is not None:
                return
        self._buffer = data[position:] if position else data

    def _on_frame(self, kind: int, number: int, payload: bytes) -> None:
        if kind == spec.FRAME_HEARTBEAT:
            return
        if number == 0:
            if kind != spec.FRAME_METHOD:
                raise exceptions.InvalidFrameError("content on channel 0")
            self._on_connection_method(_decoded(METHOD_ID.unpack_from(payload)[0], payload))
            return
        channel = self.channels.get(number)
        if channel is None:
            raise exceptions.InvalidFrameError(f"a frame on channel {number}, which is not open")
        if kind == spec.FRAME_METHOD:
            method_id = METHOD_ID.unpack_from(payload)[0]
            if method_id in (ACK, NACK):
                tag, bits = SETTLE.unpack_from(payload, 4)
                channel.settle(tag, bool(bits & 1), method_id == ACK)
            else:
                channel.on_method(_decoded(method_id, payload))
        elif kind == spec.FRAME_HEADER:
            channel.on_header(payload)
        elif kind == spec.FRAME_BODY:
            channel.on_body(payload)
        else:
            raise exceptions.InvalidFrameError(f"a frame of the unknown type {kind}")

    def _on_connection_method(self, method: Any) -> None:
        kind = type(method)
        if kind is spec.Connection.Close:
            self.send(0, spec.Connection.CloseOk())
            cause = exceptions.ConnectionClosedByBroker(method.reply_code, method.reply_text)
            text = f"the broker closed the connection: {method.reply_code} {method.reply_text}"
            outstanding = sum(channel.outstanding for channel in self.channels.values())
            raise LinkLost(text, cause, outstanding=outstanding)
        if kind is spec.Connection.CloseOk:
            self.is_closed = True
        elif kind in (spec.Connection.Blocked, spec.Connection.Unblocked):
            self.on_blocked(frame.Method(0, method))
        elif kind is spec.Connection.UpdateSecretOk and self._secret is not None:
            self._secret.answer = frame.Method(0, method)
        elif kind is self._expected:
            self._handshake(method)
        else:
            raise exceptions.UnexpectedFrameError(method)

    def _handshake(self, method: Any) -> None:
        parameters = self._parameters
        if isinstance(method, spec.Connection.Start):
            if (method.version_major, method.version_minor) != spec.PROTOCOL_VERSION[:2]:
                raise LinkLost("the broker speaks another version of AMQP")
            self.server_properties = dict(method.server_properties or {})
            self.capabilities = dict(self.server_properties.get("capabilities") or {})
            mechanism, response = parameters.credentials.response_for(method)
            if not mechanism:
                raise LinkLost(f"the broker takes none of our logins, only {method.mechanisms!r}")
            properties = client_properties(parameters.client_properties)
            self._expected = spec.Connection.Tune
            locale = parameters.locale
            self.send(0, spec.Connection.StartOk(properties, mechanism, response, locale))
        elif isinstance(method, spec.Connection.Tune):
            self.channel_max = _smaller(parameters.channel_max, method.channel_max) or 65535
            self.frame_max = _smaller(parameters.frame_max, method.frame_max) or HANDSHAKE_FRAME
            tuned = method.channel_max and self.channel_max, self.frame_max, self.agreed_heartbeat
            self._expected = spec.Connection.OpenOk
            self.send(0, spec.Connection.TuneOk(*tuned))
            self.send(0, spec.Connection.Open(parameters.virtual_host, insist=True))
        else:
            self._expected = None
            self.is_open = True


def _decoded(method_id: int, payload: bytes) -> Any:
    return spec.methods[method_id]().decode(payload, 4)


def _is_of_codec(exc: BaseException) -> bool:
    is_bad_time = isinstance(exc, OSError) and exc.errno == errno.EOVERFLOW
    return is_bad_time or isinstance(exc, CODEC_ERRORS)


def _smaller(ours: int | None, theirs: int) -> int:
    """Of two limits, where 0 and None mean none."""
    return min((limit for limit in (ours, theirs) if limit), default=0)


def client_properties(given: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "product": "Understudy, with pika",
        "platform": f"Python {platform.python_version()}",
        "capabilities": {
            "authentication_failure_close": True,
            "basic.nack": True,
            "connection.blocked": True,
            "consumer_cancel_notify": True,
            "exchange_exchange_bindings": True,
            "publisher_confirms": True,
        },
        **(given or {}),
    }
