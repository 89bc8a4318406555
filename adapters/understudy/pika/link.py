"""One AMQP connection without its socket: bytes come in by `feed`, bytes go out by ``write``.

Rules
* Whatever a lying peer can make this code raise is translated in `feed`, once: the link is `lost`.
  Anything else comes from a signal handler: the link is lost through nobody's fault. Nothing is
  read or written after that. A frame is never larger than what was negotiated.
* A link is not thread-safe; its owner serialises all calls. It never waits.
* A signal handler that writes between the note of what is outstanding and its bytes would change
  their order, and with it the tags of the broker: then the link is lost, through nobody's fault.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Callable
from typing import Any

from pika import exceptions, frame, spec

from understudy.failover.interruptions import is_of_signal_handler
from understudy.pika.link_channel import Ask, LinkChannel, LinkLost, Receiver

__all__ = ["INTERRUPTED", "Link"]

HANDSHAKE_FRAME = 131072  # bytes; before anything is negotiated
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
FRAME = struct.Struct(">BHI")
SETTLE = struct.Struct(">QB")
METHOD_ID = struct.Struct(">I")
END = spec.FRAME_END

INTERRUPTED = "the call that used it was interrupted"


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
        self.blocked: Any = None  # the frame that said so, until it is over
        self.is_noting = False  # something is noted as written that is about to be
        self._write = write
        self._parameters = parameters
        self._buffer = b""
        self._expected: type | None = spec.Connection.Start
        self.secrets: list[Ask] = []  # that wait for their answer

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
        ask = Ask((spec.Connection.UpdateSecretOk,))
        self.secrets.append(ask)
        self.send(0, spec.Connection.UpdateSecret(secret, reason))
        return ask

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
            if not _is_of_codec(exc) or is_of_signal_handler(exc):
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
            outstanding += len(self.secrets)
            raise LinkLost(text, cause, outstanding=outstanding)
        if kind is spec.Connection.CloseOk:
            self.is_closed = True
        elif kind in (spec.Connection.Blocked, spec.Connection.Unblocked):
            method_frame = frame.Method(0, method)
            self.blocked = method_frame if kind is spec.Connection.Blocked else None
            self.on_blocked(method_frame)
        elif kind is spec.Connection.UpdateSecretOk and self.secrets:
            self.secrets.pop(0).answer = frame.Method(0, method)
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
