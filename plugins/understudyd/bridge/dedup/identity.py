"""By what a message is known again when its source delivers it again. No I/O.

Rules
* An id that the broker or the application gave stands for one message, for good. ActiveMQ's
  message-id stays over redeliveries, of Artemis' what follows the comma; either is one message of
  one destination only, since a broker may copy it to several. RabbitMQ has what the application
  set: its message_id, and to be safe all that it came with.
* Without an id it is what the message holds: equal ones are counted, see `memory`.
* RabbitMQ says of each delivery whether it was delivered before, so that the others are not looked
  for. ActiveMQ and Artemis do not say so of all; their ids need no such word.
* What a broker adds to a redelivery (`COUNTS`) is not part of the message.
* A source that keeps each message in a place of its own (`HasPlaces`) needs no more than that for
  those without an id: equal ones are told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from understudyd.bridge.content import StompContent
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.wire.bodies import join_body
from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.properties import get, remove_header

__all__ = ["HasPlaces", "Identify", "Known", "hop_id", "identify_by"]

SIZE = 16  # bytes of a key; two of 10 ** 12 are equal by chance once in 10 ** 14 times
COUNTS: Final = ("x-delivery-count", "x-acquired-count")  # of quorum queues


class Known(NamedTuple):
    """One delivery."""

    key: bytes
    has_id: bool
    """Else the key is that of what it holds."""
    may_repeat: bool
    """Whether the source may have delivered it before."""


Identify = Callable[[Any], Known]


@runtime_checkable
class HasPlaces(Protocol):
    """A source that keeps each message in a place that has held no other, nor will."""

    def place(self, tag: int) -> tuple[bytes, bool]:
        """Where that is for a delivery that is not acknowledged, and whether it may have been
        delivered from there before."""


def identify_by(dialect: Dialect, places: HasPlaces | None = None) -> Identify:
    """How deliveries of that source are known again."""
    usual = _usual(dialect)
    if places is None:
        return usual

    def identify(delivery: Any) -> Known:
        known = usual(delivery)
        if known.has_id:
            return known
        place, may_repeat = places.place(delivery[0])
        return Known(_key(place), True, may_repeat)

    return identify


def _usual(dialect: Dialect) -> Identify:
    if dialect.is_amqp:
        return _of_amqp
    assert dialect.stomp is not None
    return _Stomp(dialect)


def hop_id(link: str, delivery: Any, dialect: Dialect) -> str:
    """The id of a message on its way through one link; empty where its source gave it none.

    Another link makes another one of it, so that a message may come back to where it was.
    """
    if dialect.is_amqp:
        own = _message_id(delivery[3])
    else:
        own, _ = _stomp_id(delivery[1].headers, dialect)
    return f"{link}:{own}" if own else ""


def _of_amqp(delivery: Any) -> Known:
    _, redelivered, route, raw, _, frames = delivery
    own = _message_id(raw)
    for name in COUNTS:
        if name.encode() in raw:
            raw = _without(raw, name)
    return Known(_key(own.encode(), route, raw, join_body(frames)), bool(own), bool(redelivered))


def _message_id(raw: bytes) -> str:
    try:
        own = get(raw, "message_id")
    except WireError:
        return ""
    return own if isinstance(own, str) else ""


def _without(raw: bytes, header: str) -> bytes:
    try:
        return remove_header(raw, header)
    except WireError:
        return raw


class _Stomp:
    def __init__(self, dialect: Dialect) -> None:
        assert dialect.stomp is not None
        self._dialect = dialect
        self._left_out = dialect.stomp.transport | set(COUNTS)

    def __call__(self, delivery: Any) -> Known:
        content: StompContent = delivery[1]
        headers = content.headers
        own, is_brokers = _stomp_id(headers, self._dialect)
        where = headers.get("destination", "").encode()
        if is_brokers:
            arrived = headers.get("timestamp", "").encode()
            return Known(_key(own.encode(), where, arrived), True, True)
        said = [f"{name}\n{headers[name]}" for name in sorted(headers.keys() - self._left_out)]
        key = _key(own.encode(), where, "\n\n".join(said).encode(), content.body)
        return Known(key, bool(own), headers.get("redelivered") == "true")


def _stomp_id(headers: Mapping[str, str], dialect: Dialect) -> tuple[str, bool]:
    """The id of a MESSAGE, and whether the broker gave it."""
    assert dialect.stomp is not None
    if dialect.stomp.stable_id is None:
        return headers.get("amqp-message-id", ""), False
    found = dialect.stomp.stable_id.fullmatch(headers.get("message-id", ""))
    return (found[1], True) if found else ("", False)


def _key(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=SIZE)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
