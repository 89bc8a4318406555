"""The kinds of facts that a bridge must know of a broker, without the facts.

Sizes are bytes. `None` as a limit means that none is known.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from understudy.wire.stomp_dialects import Dialect as ClientDialect

__all__ = ["Dialect", "Expiry", "Limits", "StompFacts", "Subscribing"]


class Expiry(enum.Enum):
    """How a time to live is said."""

    RELATIVE = "relative"
    """Milliseconds from when the broker gets the message."""
    ABSOLUTE = "absolute"
    """Milliseconds since 1970; 0 and below means never."""


@dataclass(frozen=True)
class Limits:
    """What one message may have; what is beyond is parked before the broker sees it."""

    body: int
    headers: int | None = None
    """How many."""
    header_line: int | None = None
    """One name, its value and the colon, escaped."""
    head: int | None = None
    """All header lines, or all properties, together."""
    short_string: int | None = None
    """Each property that AMQP keeps as a short string, and each header's name."""
    expiration: int | None = None
    """Milliseconds of a relative time to live."""


@dataclass(frozen=True)
class Subscribing:
    """What a bridge adds when it consumes."""

    prefetch: str
    """The header or argument that sets the window."""
    prefetch_is_bytes: bool = False
    """Whether the window counts bytes instead of messages."""
    priority: tuple[str, int] | None = None
    """Header or argument and value that let the broker's own consumers come first."""
    selector: bool = False
    """Whether the broker filters with JMS selectors."""
    durable_name: str = ""
    """The header that names a durable subscription to a topic."""
    durable_beside: Mapping[str, str] = field(default_factory=dict)
    """Headers that go with it."""
    client_id: bool = False
    """A durable subscription belongs to the client-id of CONNECT, of which one may be connected."""
    expires: str = ""
    """The header for how long, in milliseconds, an unused durable subscription stays."""


@dataclass(frozen=True)
class StompFacts:
    """What is special to a broker's STOMP."""

    client: ClientDialect
    """What clients know of it as well."""

    transport: frozenset[str]
    """Headers of a MESSAGE that belong to the delivery or are the broker's own; not forwarded."""

    reserved: frozenset[str]
    """Headers with a meaning of their own on SEND, which an application's header of that name from
    elsewhere must not have. With those of `mapping.stomp` that are properties everywhere."""

    prefixes: Mapping[str, str]
    """How the name of a queue, a topic, and an exchange with a key begins where a bridge uses it;
    of a kind that is missing the broker has none."""

    shown_prefixes: Mapping[str, str]
    """Prefixes of a MESSAGE's destination and what they stand for."""

    making_prefix: str
    """How the name of a queue begins in a SEND that makes the queue where it is missing."""

    text_by_length: bool
    """A body without content-length is text, one with it is bytes; else bodies have no kind."""

    timestamp_unit: int
    """Milliseconds of one unit of the timestamp header."""

    expiry: str
    """The header that says how long a message lives."""

    user_id: str
    """The header in which the broker tells who published a message."""

    shows_id: bool = False
    """The message-id of a MESSAGE stays over redeliveries and names it to others too."""

    stable_id: re.Pattern[str] | None = None
    """Group 1 is the part of a MESSAGE's message-id that stays over redeliveries; None: none does,
    and what the application set is elsewhere."""

    duplicate_id: str = ""
    """The header of a SEND with an id: the broker drops what comes to the same address with one
    that it has seen, and gives the receipt; empty: it has none."""

    takes_timestamp: bool = True
    """A SEND's timestamp is the message's."""

    group_shown_as: str = ""
    """The header of a MESSAGE that has what was JMSXGroupID on SEND, where that is another one."""

    hides_group: bool = False
    """No header has it: the bridge must send it twice."""

    reply_shown: str = ""
    """What stands before the name of a queue in the reply-to of a MESSAGE."""

    reply_sent: str = ""
    """And in that of a SEND."""

    temporary: str = ""
    """How a SUBSCRIBE names a queue that goes with the connection, where others can send to it; by
    which prefix (``prefixes``, temp-queue) then the session and how many it has made tell."""

    sent_beside: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """The header and value that a SEND to a queue, or to a topic, needs besides its name."""

    subscribed_beside: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """The same of a SUBSCRIBE."""

    shown_empty: bool = False
    """Messages of the kinds that STOMP does not have are shown like an empty text."""

    own_ids: re.Pattern[str] = field(default=re.compile(r"(?!)"))
    """The message-id of what came over STOMP, where that can be told."""

    java_text: bool = False
    """Text that came from Java is shown as Java writes it, see `mapping.java_text`."""

    percent_encodes: bool = False
    """Whether a ``/`` in a name is sent as ``%2F``, and names are shown percent-encoded."""

    shown_defaults: bool = False
    """Priority, expiry and timestamp are in every MESSAGE, whether the sender gave them or not."""


@dataclass(frozen=True)
class Dialect:
    """One way to talk to one kind of broker; ``stomp`` is None where that is AMQP."""

    name: str
    limits: Limits
    subscribing: Subscribing
    expiry: Expiry
    max_priority: int
    stomp: StompFacts | None = None

    confirms_routing: bool = True
    """A confirm or receipt means that the message is in a queue, and not just that the broker saw
    it. Where False a route must be checked by other means, or the other protocol used."""

    confirms_or_tells: bool = True
    """A message that is not taken is answered. Where False only a time-out tells."""

    confirms_when_idle: bool = False
    """A queue confirms what it was sent when nothing more waits for it: of a window that is sent in
    one go nothing is confirmed, and the source stands still, until the end."""

    counts_returns: bool = False
    """What is given back, or in flight when a connection ends, may count as a failed delivery, and
    the message is gone or in a dead letter queue after some of them: keep windows small first."""

    is_patient: bool = False
    """It waits for an acknowledgement for ever, and counts what is given back without telling how
    often: what a target does not take is given back once in a row at most."""

    priority_default: int | None = None
    """What a message without a priority has; None where it then simply has none."""

    queue_wildcards: bool = False
    """Whether one subscription can read all queues that match a pattern."""

    any_word_wildcard: str = "#"
    """Any number of words in a subscription, where this is not only understood at the end."""

    any_word_at_end: str = ""
    """The same where it is."""

    private_replies: tuple[str, ...] = ()
    """How the address of a reply (as AMQP would name it) begins that only this broker serves."""

    unspeakable: re.Pattern[str] = field(default=re.compile(r"(?!)"))
    """Names that cannot be sent to."""

    def __repr__(self) -> str:
        return f"<Dialect {self.name}>"

    @property
    def is_amqp(self) -> bool:
        return self.stomp is None

    @property
    def client(self) -> ClientDialect | None:
        """What clients of its STOMP know of it."""
        return self.stomp.client if self.stomp else None

    @property
    def confirms_are_cumulative(self) -> bool:
        """One receipt stands for everything sent before it on the connection."""
        return self.stomp is not None and self.stomp.client.receipts_are_cumulative
