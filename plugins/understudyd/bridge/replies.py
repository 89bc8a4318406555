"""Replies to requests that went over a bridge: who waits for one, and where. No I/O, no clock.

A requester may want the reply at an address that its own broker alone serves: RabbitMQ's direct
reply-to and queues of one connection, ActiveMQ's temporary queues. A responder beyond the bridge is
told another address then, which the bridge reads, and what comes there goes to the requester.

    requester ──reply-to R──> bridge ──reply-to A──> responder
    requester <──to R──────── bridge <──to A──────── responder

Rules
* One address for each reply-to and link, named after both: a bridge that begins anew gives out the
  same where the broker keeps it.
* It is read for `ttl` seconds after the last request with it. A reply that comes later has nobody
  who takes it: the address is gone.
* A reply-to that is an ordinary queue is left as it is, unless all are wanted.
* Nobody fills the memory: of `MOST` requesters the one goes that has not asked for longest.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from understudyd.bridge.addresses import from_stomp
from understudyd.bridge.dialects import RABBITMQ_AMQP, Dialect
from understudyd.bridge.names import QUEUE, Destination
from understudyd.bridge.routes import Decision, Options, Routes, Verdict

__all__ = [
    "DIRECT",
    "HAS_REPLY",
    "MOST",
    "PREFIX",
    "NoReplies",
    "ReplyBook",
    "ReplyRoutes",
    "Requester",
    "asked_in",
    "reply_place",
]

PREFIX: Final = "understudy.reply."  # of our queues; to the next bridge these are private as well
MOST: Final = 10_000  # requesters; each has a queue at the target
HAS_REPLY: Final = 0x02  # in the first byte of the flags of AMQP's properties
_PRIVATE = tuple(each.encode() for each in (*RABBITMQ_AMQP.private_replies, PREFIX))
_length = struct.Struct(">I").unpack_from
DIRECT: Final = "amq.rabbitmq.reply-to."


@dataclass
class Requester:
    """Somebody who waits for replies, as far as a bridge can tell."""

    reply_to: str
    """As the message has it, without what its broker puts in front of a queue's name."""
    destination: Destination
    """The same at the requester's broker."""
    name: str
    """Of the queue that is read for it at the responder's broker."""
    used_at: float
    dialect: str = ""
    """What is spoken to its broker."""
    broker: object = None
    """Where it asked last."""
    address: str = ""
    """What a responder is told; empty: nothing that it could use at the moment."""
    is_gone: bool = False
    """Its broker is not in use any more, and no other may be sent what is for it."""


class ReplyBook:
    """The requesters of one link."""

    def __init__(self, bridge: str, link: str, ttl: float, *, is_all: bool = False) -> None:
        """``link`` tells the links of one bridge apart; ``ttl`` in seconds. With ``is_all`` those
        who wait at ordinary queues are requesters too."""
        self.ttl = ttl
        self.is_all = is_all
        self.requests = 0
        """Requests that went on with an address of ours."""
        self.unserved = 0
        """Requests that went on as they were, since no address could be made in time."""
        self.lost = 0
        """Replies for requesters that were gone."""
        self._bridge = bridge
        self._salt = f"{link}\n{ttl:g}\n"
        self._by_reply: dict[str, Requester] = {}  # the one that asked last stands last
        self._by_name: dict[str, Requester] = {}
        self._earlier: dict[str, Requester] = {}  # by name

    def __len__(self) -> int:
        return len(self._by_reply)

    def __iter__(self) -> Iterator[Requester]:
        return iter(list(self._by_reply.values()))

    def __repr__(self) -> str:
        return f"<ReplyBook {len(self)} requesters, {self.requests} requests>"

    def enter(self, reply_to: str, dialect: Dialect, now: float) -> Requester:
        """The requester of this reply-to, known or new."""
        known = self._by_reply.get(reply_to)
        if known is not None:
            return known
        text = (self._salt + reply_to).encode("utf-8", "surrogateescape")
        name = f"{PREFIX}{self._bridge}.{hashlib.sha256(text).hexdigest()[:32]}"
        made = Requester(reply_to, _destination(reply_to, dialect), name, now, dialect.name)
        self._by_reply[reply_to] = self._by_name[name] = made
        return made

    def is_served(self, reply_to: str) -> bool:
        known = self._by_reply.get(reply_to)
        return known is not None and known.address != ""

    def use(self, reply_to: str, now: float, broker: object = None) -> None:
        """A request goes on, which came from this broker."""
        known = self._by_reply.pop(reply_to, None)
        if known is None or not known.address:
            self.unserved += 1
        else:
            self.requests += 1
            known.used_at, known.broker, known.is_gone = now, broker, False
        if known is not None:
            self._by_reply[reply_to] = known

    def used_at(self, reply_to: str) -> float:
        """When the last request with it went on; 0 where it is not known."""
        known = self._by_reply.get(reply_to)
        return 0.0 if known is None else known.used_at

    def overdue(self, now: float) -> list[Requester]:
        """Those who have not asked for long, and are known no more."""
        excess = len(self) - MOST
        gone = [
            one for place, one in enumerate(self) if place < excess or now - one.used_at > self.ttl
        ]
        for one in gone:
            self.forget(one.name)
        for one in list(self._earlier.values()):
            if now - one.used_at > self.ttl:
                del self._earlier[one.name]
        return gone

    def turn(self) -> None:
        """Who is known so far gets replies as before, and is new when asking again."""
        known = {**self._earlier, **self._by_name}
        self._earlier = dict(list(known.items())[-MOST:])
        self._by_reply, self._by_name = {}, {}

    def turn_back(self, broker: object = None) -> None:
        """Everybody needs an address, for replies that go to this broker by now.

        Who asked at another one may be connected to the same cluster; but over a direct reply-to of
        a node that it does not know RabbitMQ ends the connection (541, seen).
        """
        self._by_name = {**self._earlier, **self._by_name}
        self._by_reply = {one.reply_to: one for one in self._by_name.values()}
        self._earlier = {}
        for one in self:
            one.address = ""
            is_other = broker not in (None, one.broker)
            one.is_gone = one.is_gone or (is_other and one.reply_to.startswith(DIRECT))

    def forget(self, name: str) -> None:
        """The queue of this name is gone, and so is who waits there."""
        one = self._by_name.pop(name, None)
        if one is not None:
            del self._by_reply[one.reply_to]

    def by_name(self, name: str) -> Requester | None:
        """Whom the replies in this queue are for."""
        return self._by_name.get(name) or self._earlier.get(name)

    def address(self, reply_to: str) -> str:
        """What a responder is told instead; the same where that is no requester's."""
        known = self._by_reply.get(reply_to)
        return known.address if known is not None and known.address else reply_to

    def patch(self, raw: bytes) -> bytes:
        """The properties of a request over AMQP, with the reply-to that the responder is told; the
        same object where its reply-to is left as it is."""
        if (place := reply_place(raw, is_all=self.is_all)) is None:
            return raw
        at, end = place
        address = self.address(raw[at:end].decode("utf-8", "surrogateescape")).encode()
        return b"%b%c%b%b" % (raw[: at - 1], len(address), address, raw[end:])

    def miss(self, reply_to: str, count: int = 1) -> Requester | None:
        """So many replies had nobody who takes them; who that was, where it is known still."""
        self.lost += count
        gone = self._by_reply.get(reply_to)
        if gone is not None:
            self.forget(gone.name)
        return gone


class ReplyRoutes(Routes):
    """From the addresses that responders were told to those who wait."""

    def __init__(self, book: ReplyBook, here: str, there: str) -> None:
        super().__init__(Options(), here, there)
        self.dialect = ""
        """What is spoken to the requesters' broker; empty: it is not known yet."""
        self._book = book

    def permits(self, destination: Destination) -> bool:
        """Not to a broker of another kind: what is private to one may be any queue there."""
        known = self._book.by_name(destination.name)
        return known is not None and not known.is_gone and self.dialect in ("", known.dialect)

    def target(self, destination: Destination) -> Destination:
        known = self._book.by_name(destination.name)
        return destination if known is None else known.destination

    def decide(self, destination: Destination, path: str | None) -> Decision:
        """A reply goes back to where its request came from, so its path says nothing."""
        if self.permits(destination):
            return Decision(Verdict.FORWARD, self.target(destination), "")
        return Decision(Verdict.DROP, None, "nobody waits for it")


class NoReplies:
    """Of a link that leaves every reply-to as it is."""

    book: ReplyBook | None = None

    @property
    def is_holding(self) -> bool:
        """Whether something waits for an address, so that nothing more may be read meanwhile: what
        a source tells of itself is true of what it delivered last."""
        return False

    def admit(
        self, deliveries: list[Any], dialect: Dialect | None, then: Callable[[list[Any]], None]
    ) -> None:
        """Call ``then`` with what came, in order, when every reply-to has its address."""
        then(deliveries)

    def let_go(self) -> None:
        """What came is void: the source was closed or lost."""

    def follow(self) -> None:
        """An end was opened, perhaps at another broker of its list."""

    def pause(self, reason: str) -> None:
        """The link rests."""

    def resume(self) -> None:
        """The link goes on."""

    def stop(self) -> None:
        """The link ends; `ended` waits for it."""

    async def ended(self) -> None:
        """Wait until nothing is open."""

    def look(self) -> dict[str, Any]:
        """Counts for a `status.Glance`."""
        return {}


def asked_in(
    deliveries: Sequence[Any], dialect: Dialect, *, is_all: bool = False
) -> tuple[list[str], int]:
    """The reply-tos in a batch that the source's broker alone serves, or all; and how many messages
    have another."""
    if dialect.stomp is None:
        some = [each[3] for each in deliveries if each[3][0] & HAS_REPLY]
        places = [(raw, reply_place(raw, is_all=is_all)) for raw in some]
        found = [raw[slice(*at)].decode("utf-8", "surrogateescape") for raw, at in places if at]
        return found, len(some) - len(found)
    private, shown = (*dialect.private_replies, PREFIX), dialect.stomp.reply_shown
    told = [
        content.headers["reply-to"].removeprefix(shown)
        for _, content in deliveries
        if content.headers.get("reply-to")
    ]
    found = told if is_all else [one for one in told if one.startswith(private)]
    return found, len(told) - len(found)


def reply_place(raw: bytes, *, is_all: bool = False) -> tuple[int, int] | None:
    """Where the text of a reply-to begins and ends in properties that have one; None where that is
    an ordinary queue, and not all are wanted, or it cannot be read. Nothing behind it is looked at.
    """
    flags, at = raw[0], 2
    try:
        if flags & 0x80:  # content_type
            at += 1 + raw[at]
        if flags & 0x40:  # content_encoding
            at += 1 + raw[at]
        if flags & 0x20:  # headers
            at += 4 + _length(raw, at)[0]
        if flags & 0x10:  # delivery_mode
            at += 1
        if flags & 0x08:  # priority
            at += 1
        if flags & 0x04:  # correlation_id
            at += 1 + raw[at]
        end = at + 1 + raw[at]
    except (IndexError, struct.error):
        return None
    if end > len(raw) or end == at + 1:
        return None
    return (at + 1, end) if is_all or raw.startswith(_PRIVATE, at + 1) else None


def _destination(reply_to: str, dialect: Dialect) -> Destination:
    if dialect.stomp is not None and reply_to.startswith("/"):
        return from_stomp(reply_to, QUEUE, dialect)
    return Destination(QUEUE, reply_to)
