"""A message on its way out: the frames of a basic.publish, for whichever link carries it.

Rules
* Everything that an application's mistake can break is encoded here, before a byte is written: a
  value that AMQP can't carry is the caller's error, and no reason to fail over.
* The application's properties object is never changed.
"""

from __future__ import annotations

import struct
from typing import Any

from pika import spec
from pika.data import encode_short_string
from pika.delivery_mode import DeliveryMode

from understudy.failover.message_ids import ID_HEADER, OVERHEAD, RESEND_HEADER, new_message_id

__all__ = ["OutMessage", "id_of"]

FRAME = struct.Struct(">BHI")
HEADER = struct.Struct(">HxxQ")
PUBLISH = struct.pack(">IH", spec.Basic.Publish.INDEX, 0)
END = bytes([spec.FRAME_END])
AROUND: int = spec.FRAME_HEADER_SIZE + spec.FRAME_END_SIZE
PERSISTENT: int = DeliveryMode.Persistent.value


def id_of(properties: Any) -> str | None:
    """The id under which a message with these properties was sent."""
    given = properties.message_id
    return given if given is not None else (properties.headers or {}).get(ID_HEADER)


class OutMessage:
    __slots__ = (
        "_content",
        "_method",
        "body",
        "exchange",
        "mandatory",
        "message_id",
        "properties",
        "routing_key",
    )

    def __init__(
        self, exchange: str, routing_key: str, body: Any, properties: Any, mandatory: bool
    ) -> None:
        """Raises what pika's codec raises for a value that AMQP can't carry."""
        self.exchange = exchange
        self.routing_key = routing_key
        self.mandatory = mandatory
        self.body: bytes = body if isinstance(body, bytes) else _as_bytes(body)
        ours = spec.BasicProperties()
        if properties is not None:
            ours.__dict__.update(properties.__dict__)
        if ours.delivery_mode is None:
            ours.delivery_mode = PERSISTENT
        given = ours.message_id
        if given is None:
            headers = dict(ours.headers) if ours.headers else {}
            headers.pop(RESEND_HEADER, None)  # a copy of a delivery is another message
            given = headers.get(ID_HEADER)
            if not isinstance(given, str):
                given = headers[ID_HEADER] = new_message_id()
            ours.headers = headers
        elif ours.headers and RESEND_HEADER in ours.headers:
            ours.headers = {k: v for k, v in ours.headers.items() if k != RESEND_HEADER}
        self.message_id = str(given)
        self.properties = ours
        pieces = [PUBLISH]
        encode_short_string(pieces, exchange)
        encode_short_string(pieces, routing_key)
        pieces.append(b"\1" if mandatory else b"\0")
        self._method = b"".join(pieces)
        self._encode_content()

    def _encode_content(self) -> None:
        self._content = HEADER.pack(spec.Basic.INDEX, len(self.body)) + b"".join(
            self.properties.encode()
        )

    def __repr__(self) -> str:
        return f"<OutMessage {self.message_id} to {self.exchange!r} {self.routing_key!r}>"

    def copy(self) -> OutMessage:
        """The same message, with the same id, for another broker."""
        return OutMessage(
            self.exchange, self.routing_key, self.body, self.properties, self.mandatory
        )

    @property
    def size(self) -> int:
        """Bytes that this message counts for in an outbox."""
        return len(self.body) + OVERHEAD

    @property
    def header_size(self) -> int:
        """Bytes of the one frame that can't be split."""
        return len(self._content) + AROUND

    def mark_resend(self) -> None:
        """From now on every copy says that an earlier one may exist."""
        headers = self.properties.headers or {}
        if RESEND_HEADER not in headers:
            self.properties.headers = {**headers, RESEND_HEADER: True}
            self._encode_content()

    def frames(self, channel: int, frame_max: int) -> bytes:
        """The bytes for a link with these numbers."""
        method, content, body = self._method, self._content, self.body
        pack = FRAME.pack
        pieces = [pack(1, channel, len(method)), method, END]
        pieces += (pack(2, channel, len(content)), content, END)
        largest = frame_max - AROUND
        if len(body) <= largest:
            if body:
                pieces += (pack(3, channel, len(body)), body, END)
        else:
            for start in range(0, len(body), largest):
                part = body[start : start + largest]
                pieces += (pack(3, channel, len(part)), part, END)
        return b"".join(pieces)


def _as_bytes(body: Any) -> bytes:
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, bytearray | memoryview):
        return bytes(body)
    raise TypeError(f"a message body must be bytes or str, not {type(body).__name__}")
