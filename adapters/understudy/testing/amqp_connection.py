"""One client's connection to a ``ScriptedPeer``: its thread, its channels, its answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from understudy.testing.amqp_handshake import CLOSE_OK, OPEN_OK, Login, shake_hands
from understudy.testing.amqp_wire import CONTENT_HEADER, Over, Wire, serialization
from understudy.testing.frames import (
    BASIC_ACK,
    BASIC_CONSUME,
    BASIC_DELIVER,
    BASIC_NACK,
    BASIC_PUBLISH,
    BASIC_RETURN,
    CHANNEL_CLOSE,
    CONFIRM_SELECT,
    CONNECTION_CLOSE,
    HEADER,
    IDS,
    METHOD,
    QUEUE_DECLARE,
    Frame,
    MethodId,
)

if TYPE_CHECKING:
    from understudy.testing.amqp_peer import ScriptedPeer

__all__ = ["Answer", "PeerConnection", "PeerMessage"]

Answer = str | tuple[str, int]  # an action, or an action and its reply code

CHANNEL_CLOSE_OK: MethodId = (20, 41)
BLOCKED: MethodId = (10, 60)
UNBLOCKED: MethodId = (10, 61)
BASIC_CANCEL: MethodId = (60, 30)
SILENT = frozenset({BASIC_ACK, BASIC_NACK, (60, 90), (60, 100)})  # methods without an answer

# method: format of its arguments, which of them is "no wait" (None = never), answer, its arguments
SIMPLE: dict[MethodId, tuple[str, int | None, MethodId, bytes]] = {
    (20, 10): ("", None, (20, 11), b"\0\0\0\0"),  # channel.open
    (20, 20): ("", None, (20, 21), b"\1"),  # channel.flow
    (40, 10): ("Bssbbbbb", 7, (40, 11), b""),  # exchange.declare
    (40, 20): ("Bsbb", 3, (40, 21), b""),  # exchange.delete
    (40, 30): ("Bsssb", 4, (40, 31), b""),  # exchange.bind
    (40, 40): ("Bsssb", 4, (40, 51), b""),  # exchange.unbind
    (50, 20): ("Bsssb", 4, (50, 21), b""),  # queue.bind
    (50, 30): ("Bsb", 2, (50, 31), b"\0\0\0\0"),  # queue.purge
    (50, 40): ("Bsbbb", 4, (50, 41), b"\0\0\0\0"),  # queue.delete
    (50, 50): ("", None, (50, 51), b""),  # queue.unbind
    (60, 10): ("", None, (60, 11), b""),  # basic.qos
    (60, 70): ("", None, (60, 72), b"\0"),  # basic.get: empty
    (60, 110): ("", None, (60, 111), b""),  # basic.recover
    CONFIRM_SELECT: ("b", 0, (85, 11), b""),
    (90, 10): ("", None, (90, 11), b""),  # tx.select
    (90, 20): ("", None, (90, 21), b""),  # tx.commit
    (90, 30): ("", None, (90, 31), b""),  # tx.rollback
}


@dataclass(frozen=True)
class PeerMessage:
    """One published message, as it came."""

    body: bytes
    properties: bytes  # encoded: flags and values
    exchange: str
    routing_key: str
    mandatory: bool
    channel: int
    delivery_tag: int  # 0 without publisher confirms

    def decode_properties(self) -> dict[str, Any]:
        """The properties by name, headers under ``application_headers``, as py-amqp names them."""
        content = serialization().GenericContent()
        content._load_properties(60, self.properties, 0)
        properties: dict[str, Any] = content.properties
        return properties


@dataclass
class Channel:
    """What the peer knows of one open channel."""

    confirms: bool = False
    is_closing: bool = False  # we closed it: what still comes is ignored
    published: int = 0
    delivered: int = 0
    arguments: list[Any] = field(default_factory=list)  # of the publish whose content is coming
    properties: bytes = b""
    to_come: int = 0
    body: bytearray = field(default_factory=bytearray)


class PeerConnection:
    """One accepted connection. Its methods may be called by ``on_publish`` and by any thread."""

    def __init__(self, peer: ScriptedPeer, sock: socket.socket) -> None:
        self.login = Login()
        self.is_ready = False  # the handshake is done
        self.methods: list[tuple[int, MethodId]] = []  # (channel, method) received after it
        self.consumers: dict[str, int] = {}  # consumer tag: channel
        self.wire = Wire(sock)
        self._peer = peer
        self._channels: dict[int, Channel] = {}
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="ScriptedPeer", daemon=True)

    def __repr__(self) -> str:
        return f"<PeerConnection ready={self.is_ready}, {len(self.methods)} methods received>"

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of the thread."""
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def send_raw(self, data: bytes) -> None:
        """Send any bytes."""
        self.wire.send_raw(data)

    def reset(self) -> None:
        """Cut the connection with RST."""
        self.wire.end("rst")

    def fin(self) -> None:
        """Close the socket without a word."""
        self.wire.end("fin")

    def ack(self, channel: int, delivery_tag: int, *, multiple: bool = False) -> None:
        """Confirm a message, with ``multiple`` all before it too."""
        self._method(channel, BASIC_ACK, "Lb", delivery_tag, multiple)

    def nack(self, channel: int, delivery_tag: int, *, multiple: bool = False) -> None:
        """Refuse a message."""
        self._method(channel, BASIC_NACK, "Lbb", delivery_tag, multiple, False)

    def return_message(self, message: PeerMessage, code: int = 312, text: str = "NO_ROUTE") -> None:
        """Give a message back; the confirm is a call of its own."""
        arguments = serialization().dumps(
            "Bsss", (code, text, message.exchange, message.routing_key)
        )
        self.wire.send_content(
            message.channel, BASIC_RETURN, arguments, message.properties, message.body
        )

    def deliver(self, body: bytes, properties: bytes = b"\0\0", consumer_tag: str = "") -> int:
        """Deliver to a consumer, the first one if none is named; returns the delivery tag."""
        tag = consumer_tag or next(iter(self.consumers))
        number = self.consumers[tag]
        channel = self._channels[number]
        channel.delivered += 1
        arguments = serialization().dumps("sLbss", (tag, channel.delivered, False, "", ""))
        self.wire.send_content(number, BASIC_DELIVER, arguments, properties, body)
        return channel.delivered

    def close_channel(self, number: int, code: int, cause: MethodId = BASIC_PUBLISH) -> None:
        """Close a channel with a reply code; what the client still sends on it is ignored."""
        self._channels[number].is_closing = True
        self._method(number, CHANNEL_CLOSE, "BsBB", code, "scripted channel error", *cause)

    def close_connection(self, code: int, cause: MethodId = (0, 0)) -> None:
        """Close the connection with a reply code."""
        self._is_closing = True
        self._method(0, CONNECTION_CLOSE, "BsBB", code, "scripted connection error", *cause)

    def tell_blocked(self, reason: str | None) -> None:
        """Send connection.blocked, with None connection.unblocked."""
        if reason is None:
            self._method(0, UNBLOCKED, "")
        else:
            self._method(0, BLOCKED, "s", reason)

    def _method(self, channel: int, method: MethodId, arguments: str, *values: object) -> None:
        self.wire.send_method(channel, method, serialization().dumps(arguments, values))

    def _run(self) -> None:
        try:
            self._serve()
        except Over:
            pass
        except Exception as exc:  # a script's mistake: told by close(), as this thread cannot
            self._peer.note_error(exc)
        finally:
            self.is_ready = False
            self.wire.close()
            self._peer.forget(self)

    def _serve(self) -> None:
        peer, wire = self._peer, self.wire
        wire.drip = peer.drip if peer.handshake == "slow_drip" else 0.0
        self.login = shake_hands(
            wire,
            peer.handshake,
            frame_max=peer.frame_max,
            heartbeat=peer.heartbeat,
            channel_max=peer.channel_max,
        )
        wire.frame_max = self.login.frame_max or wire.frame_max
        wire.heartbeat = self.login.heartbeat
        self._method(0, OPEN_OK, "s", "")
        wire.drip = 0.0
        peer.opened(self)
        while True:
            frame = wire.read_frame()
            if frame.kind == METHOD:
                class_id, method_id = IDS.unpack_from(frame.payload)
                method = (class_id, method_id)
                self.methods.append((frame.channel, method))
                self._on_method(frame.channel, method, frame.payload[IDS.size :])
            elif not self._is_closing:
                self._on_content(frame)

    def _on_method(self, number: int, method: MethodId, arguments: bytes) -> None:
        if method in (CONNECTION_CLOSE, CLOSE_OK):
            if method == CONNECTION_CLOSE:
                self.wire.send_method(0, CLOSE_OK)
            raise Over
        channel = self._channels.setdefault(number, Channel())
        if method in (CHANNEL_CLOSE, CHANNEL_CLOSE_OK):
            del self._channels[number]
            if method == CHANNEL_CLOSE:
                self.wire.send_method(number, CHANNEL_CLOSE_OK)
        elif channel.is_closing or self._is_closing or method in SILENT:
            return
        elif method == BASIC_PUBLISH:
            channel.arguments, _ = serialization().loads("Bssbb", arguments, 0)
        elif self._peer.on_method(self, number, method):
            return
        elif method in SIMPLE:
            self._answer_simply(number, method, arguments)
        else:
            self._answer_by_name(number, method, arguments)

    def _answer_simply(self, number: int, method: MethodId, arguments: bytes) -> None:
        layout, no_wait, answer, values = SIMPLE[method]
        given, _ = serialization().loads(layout, arguments, 0)
        if method == CONFIRM_SELECT:
            self._channels[number].confirms = True
        if no_wait is None or not given[no_wait]:
            self.wire.send_method(number, answer, values)

    def _answer_by_name(self, number: int, method: MethodId, arguments: bytes) -> None:
        """Methods whose answer repeats the name of a queue or a consumer, or makes one up."""
        loads = serialization().loads
        made_up = f"amq.gen-{len(self.methods)}"
        if method == QUEUE_DECLARE:
            given, _ = loads("Bsbbbbb", arguments, 0)
            if not given[6]:
                self._method(number, (50, 11), "sll", given[1] or made_up, 0, 0)
        elif method == BASIC_CONSUME:
            given, _ = loads("Bssbbbb", arguments, 0)
            tag = given[2] or made_up
            self.consumers[tag] = number
            if not given[6]:
                self._method(number, (60, 21), "s", tag)
        elif method == BASIC_CANCEL:
            given, _ = loads("sb", arguments, 0)
            self.consumers.pop(given[0], None)
            if not given[1]:
                self._method(number, (60, 31), "s", given[0])
        else:
            self.close_connection(540, method)

    def _on_content(self, frame: Frame) -> None:
        channel = self._channels.setdefault(frame.channel, Channel())
        if channel.is_closing:
            return
        if frame.kind == HEADER:
            _, _, channel.to_come = CONTENT_HEADER.unpack_from(frame.payload)
            channel.properties = frame.payload[CONTENT_HEADER.size :]
            channel.body = bytearray()
        else:
            channel.body += frame.payload
        if len(channel.body) >= channel.to_come:
            self._published(frame.channel, channel)

    def _published(self, number: int, channel: Channel) -> None:
        while self._peer.is_holding:  # a blocked broker does not read on, but its heart beats
            self.wire.beat()
            self._peer.wait_unblocked(0.01)
            self.wire.pause(0)
        channel.published += channel.confirms
        message = PeerMessage(
            body=bytes(channel.body),
            properties=channel.properties,
            exchange=channel.arguments[1],
            routing_key=channel.arguments[2],
            mandatory=channel.arguments[3],
            channel=number,
            delivery_tag=channel.published if channel.confirms else 0,
        )
        self._obey(self._peer.published(self, message), message)

    def _obey(self, answer: Answer, message: PeerMessage) -> None:
        action, code = answer if isinstance(answer, tuple) else (answer, 0)
        actions: dict[str, Callable[[], None]] = {
            "ack": lambda: self._confirm(message),
            "ack_multiple": lambda: self._confirm(message, multiple=True),
            "nack": lambda: self._confirm(message, good=False),
            "return": lambda: self._return_and_ack(message, code or 312),
            "ignore": lambda: None,
            "close_channel": lambda: self.close_channel(message.channel, code or 404),
            "close_connection": lambda: self.close_connection(code or 320),
            "reset": self.reset,
            "fin": self.fin,
        }
        if action not in actions:
            raise ValueError(f"on_publish answered {action!r}; known: {', '.join(actions)}")
        actions[action]()

    def _confirm(self, message: PeerMessage, *, good: bool = True, multiple: bool = False) -> None:
        if message.delivery_tag:
            confirm = self.ack if good else self.nack
            confirm(message.channel, message.delivery_tag, multiple=multiple)

    def _return_and_ack(self, message: PeerMessage, code: int) -> None:
        self.return_message(message, code)
        self._confirm(message)
