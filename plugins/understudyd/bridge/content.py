"""A message as a bridge holds it: what its end received, as it was received.

Rules
* Nothing here decodes a body or changes it. `mapping` translates one form into the other; between
  two ends of AMQP only the bytes of the properties change (`wire.properties`).
* Where a message came from, its delivery tag and the like, is kept by the ledger, not here.
"""

from __future__ import annotations

from typing import TypeAlias

from understudyd.bridge.wire.bodies import join_body

__all__ = [
    "AmqpContent",
    "Content",
    "Dropped",
    "Expired",
    "Hidden",
    "StompContent",
    "Untranslatable",
]


class Untranslatable(Exception):
    """A message cannot be said in the target's protocol or passes its limits; it is to be parked.

    ``reason`` is one line for whoever finds it there; it tells names and sizes, no values.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Hidden(Untranslatable):
    """A broker has more of the message than it shows: whoever settles it on what is shown loses
    the rest."""


class Expired(Exception):
    """A message's time to live was over before it could be sent; it is settled and counted."""


class Dropped(Exception):
    """A transformer wants nothing of a message; it is settled and counted."""


class AmqpContent:
    """The properties and the body of one AMQP message.

    ``properties`` are the bytes after the body's size in a content header frame: the flags and the
    fields that are set. The body is kept in the form it came in: joined, or as the body frames off
    the wire (``frames``, one after the other, heads and ends included), which another end of AMQP
    writes as they are. `body` joins them when first asked.
    """

    __slots__ = ("_body", "frames", "properties")

    def __init__(
        self, properties: bytes, body: bytes | None = None, frames: bytes | None = None
    ) -> None:
        if (body is None) == (frames is None):
            raise ValueError("a body is given either joined or as frames")
        self.properties = properties
        self._body = body
        self.frames = frames  # None when the body came joined

    @property
    def body(self) -> bytes:
        """The body in one piece."""
        if self._body is None:
            assert self.frames is not None
            self._body = join_body(self.frames)
        return self._body

    def __repr__(self) -> str:
        size = len(self.frames or b"") if self._body is None else len(self._body)
        return f"<AmqpContent {len(self.properties)} bytes of properties, body of about {size}>"


class StompContent:
    """The headers and the body of one STOMP message, a MESSAGE or a SEND.

    The headers are unescaped, and of repeated ones the first, as `understudy.wire.stomp` reads
    them; those of the transport (subscription, ack ...) are among them in what an end received.
    """

    __slots__ = ("body", "headers")

    def __init__(self, headers: dict[str, str], body: bytes) -> None:
        self.headers = headers
        self.body = body

    @property
    def has_length(self) -> bool:
        """Whether it has a content-length: to ActiveMQ and Artemis bytes, and text when not."""
        return "content-length" in self.headers

    def __repr__(self) -> str:
        return f"<StompContent {len(self.headers)} headers, body of {len(self.body)} bytes>"


Content: TypeAlias = AmqpContent | StompContent
