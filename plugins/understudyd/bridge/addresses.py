"""Destinations as each broker calls them, and back (`names` has the bridge's own way).

Rules
* A queue of RabbitMQ is reached through its default exchange, over STOMP as ``/amq/queue/NAME``,
  which declares nothing. A topic is a routing key at the topic exchange, ``amq.topic`` unless the
  configuration names another; over STOMP that is always ``amq.topic``.
* Only RabbitMQ has exchanges: towards others they need a ``rename``.
* What a name cannot be in the other broker makes a message `Untranslatable`; in a configuration it
  is a ConfigurationError.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from understudy.errors import ConfigurationError
from understudyd.bridge.content import Untranslatable
from understudyd.bridge.dialects import RABBITMQ_AMQP, Dialect, StompFacts
from understudyd.bridge.names import ANY, EXCHANGE, ONE, QUEUE, TOPIC, Destination, Pattern
from understudyd.bridge.settings import Reading

__all__ = [
    "TOPIC_EXCHANGE",
    "Subscription",
    "from_amqp",
    "from_stomp",
    "send_headers",
    "subscribe_headers",
    "subscription",
    "to_amqp",
    "to_stomp",
]

PLAIN = Reading(after_others=False)
TOPIC_EXCHANGE = "amq.topic"  # what RabbitMQ's STOMP plugin takes for /topic/

_MAX_NAME = RABBITMQ_AMQP.limits.short_string or 0


@dataclass(frozen=True)
class Subscription:
    """What to subscribe to, or the key of a binding, for one pattern."""

    name: str
    is_exact: bool
    """Whether exactly what the pattern matches will come; else the bridge filters."""


def to_amqp(destination: Destination, topic_exchange: str = TOPIC_EXCHANGE) -> tuple[str, str]:
    """Exchange and routing key to publish to; raises Untranslatable."""
    for name in (destination.name, destination.exchange):
        if len(name.encode("utf-8", "surrogateescape")) > _MAX_NAME:
            raise Untranslatable(f"a name of more than {_MAX_NAME} bytes does not fit into AMQP")
    exchange = {QUEUE: "", TOPIC: topic_exchange}.get(destination.kind, destination.exchange)
    return exchange, destination.name


def from_amqp(exchange: str, routing_key: str, topic_exchange: str = TOPIC_EXCHANGE) -> Destination:
    """What a delivery was published to."""
    if not exchange:
        return Destination(QUEUE, routing_key)
    if exchange == topic_exchange:
        return Destination(TOPIC, routing_key)
    return Destination(EXCHANGE, routing_key, exchange)


def to_stomp(destination: Destination, dialect: Dialect) -> str:
    """The destination header of a SEND; raises Untranslatable."""
    facts = _facts(dialect)
    prefix = facts.prefixes.get(destination.kind)
    if prefix is None:
        raise Untranslatable(
            f"{dialect.name} has no exchanges: a rename must say which queue or topic "
            f"{destination} becomes"
        )
    if any(map(dialect.unspeakable.search, (destination.name, destination.exchange))):
        raise Untranslatable(f"{dialect.name} cannot have a {destination.kind} of this name")
    if not facts.percent_encodes:
        return prefix + destination.name
    exchange, key = to_amqp(destination)
    where = f"{_escaped(exchange)}/" if destination.kind == EXCHANGE else ""
    return f"{prefix}{where}{_escaped(key)}"


def send_headers(
    destination: Destination, dialect: Dialect, *, makes: bool = False
) -> dict[str, str]:
    """The headers of a SEND that say where it goes; ``makes``: to a queue that it makes where it is
    missing. Raises Untranslatable."""
    facts = _facts(dialect)
    where = to_stomp(destination, dialect)
    if makes:
        where = facts.making_prefix + where.removeprefix(facts.prefixes[destination.kind])
    beside = facts.sent_beside.get(destination.kind)
    return {"destination": where, **(dict([beside]) if beside else {})}


def from_stomp(header: str, kind: str, dialect: Dialect) -> Destination:
    """What the destination header of a MESSAGE names; ``kind`` is that of the subscription, which
    tells what a name without a prefix is. Raises Untranslatable for what is no destination."""
    facts = _facts(dialect)
    for prefix, shown in facts.shown_prefixes.items():
        if header.startswith(prefix):
            return _named(header.removeprefix(prefix), shown, facts)
    if facts.shown_prefixes or not header:
        raise Untranslatable(f"{dialect.name} gives no queue or topic as its destination")
    return Destination(kind, header)


def subscription(pattern: Pattern, dialect: Dialect) -> Subscription:
    """What to subscribe to on this broker, over AMQP the queue or the key of the binding, so that
    all that the pattern matches comes. Raises ConfigurationError."""
    if pattern.kind == QUEUE and not pattern.is_exact and not dialect.queue_wildcards:
        raise ConfigurationError(
            f"{pattern.text!r}: {dialect.name} has no wildcards for queues; name each queue"
        )
    is_key = not (pattern.kind == QUEUE and pattern.is_exact)
    name, is_exact = _widened(pattern, dialect) if is_key else (".".join(pattern.words), True)
    if dialect.stomp is None:
        return Subscription(name, is_exact)
    prefix = dialect.stomp.prefixes.get(pattern.kind)
    if prefix is None:
        raise ConfigurationError(
            f"{pattern.text!r}: {dialect.name} has no exchanges; name a queue:// or a topic://"
        )
    if any(
        dialect.unspeakable.search(word)
        for word, is_wild in zip(pattern.words, pattern.wild, strict=True)
        if not is_wild
    ) or dialect.unspeakable.search(pattern.exchange):
        raise ConfigurationError(f"{pattern.text!r}: {dialect.name} cannot have such a name")
    if dialect.stomp.percent_encodes:
        where = f"{_escaped(pattern.exchange)}/" if pattern.exchange else ""
        name = where + _escaped(name)
    return Subscription(prefix + name, is_exact)


def subscribe_headers(
    pattern: Pattern,
    dialect: Dialect,
    *,
    window: int,
    durable: str = "",
    reading: Reading = PLAIN,
    keeping: str = "",
) -> dict[str, str]:
    """The headers of a SUBSCRIBE but for id, ack and receipt; raises ConfigurationError.

    ``window`` is in messages, or in bytes where the dialect counts these. ``durable`` names the
    subscription to a topic that stays while nobody is connected (``subscribing.client_id``: the
    CONNECT needs a client-id too). ``keeping`` is a selector that stands for the one of ``reading``
    and also keeps from us what is not forwarded; used of queues, where the broker has selectors. A
    subscription to a topic begins anew, empty, when its selector is another one.
    """
    facts, how = _facts(dialect), dialect.subscribing
    headers = {
        "destination": subscription(pattern, dialect).name,
        how.prefetch: str(window),
    }
    if beside := facts.subscribed_beside.get(pattern.kind):
        headers[beside[0]] = beside[1]
    if durable and pattern.kind != QUEUE:
        headers |= {how.durable_name: durable, **how.durable_beside, **_expiry(reading, dialect)}
    if reading.selector and not how.selector:
        raise ConfigurationError(
            f"selector = {reading.selector!r}: {dialect.name} has no selectors; leave it out"
        )
    selector = keeping if keeping and pattern.kind == QUEUE else reading.selector
    if how.selector and selector:
        headers["selector"] = selector
    if pattern.kind == QUEUE:
        headers |= _priority(reading, dialect)
    return headers


def _expiry(reading: Reading, dialect: Dialect) -> dict[str, str]:
    if reading.durable_expires is None:
        return {}
    if not dialect.subscribing.expires:
        raise ConfigurationError(
            f"durable_expires: {dialect.name} has no time after which it removes one durable "
            "subscription; leave it out, and see `understudy network forget`"
        )
    return {dialect.subscribing.expires: str(max(1, round(reading.durable_expires * 1000)))}


def _priority(reading: Reading, dialect: Dialect) -> dict[str, str]:
    usual = dialect.subscribing.priority
    if usual is None:
        if reading.after_others and reading.priority is not None:
            raise ConfigurationError(
                f"consumer_priority_base: {dialect.name} has no priorities of consumers over "
                "STOMP; leave it out"
            )
        return {}
    name, priority = usual
    given = priority if reading.priority is None else reading.priority
    return {name: str(given)} if reading.after_others else {}


def _widened(pattern: Pattern, dialect: Dialect) -> tuple[str, bool]:
    """The pattern in the broker's wildcards, and whether it is no wider than it was."""
    special = {"*", dialect.any_word_wildcard, dialect.any_word_at_end}
    words: list[str] = []
    is_exact = True
    for place, (word, is_wild) in enumerate(zip(pattern.words, pattern.wild, strict=True), 1):
        if is_wild and word == ANY and not dialect.any_word_wildcard:
            is_last = place == len(pattern.words)
            return ".".join([*words, dialect.any_word_at_end]), is_exact and is_last
        if is_wild:
            words.append({ONE: "*", ANY: dialect.any_word_wildcard}[word])
        else:
            # A word that reads as a wildcard there cannot be said; any one word is the nearest.
            words.append("*" if word in special else word)
            is_exact = is_exact and word not in special
    return ".".join(words), is_exact


def _named(name: str, kind: str, facts: StompFacts) -> Destination:
    if not facts.percent_encodes:
        return Destination(kind, name)
    if kind == EXCHANGE:
        exchange, _, key = name.partition("/")
        return from_amqp(_unescaped(exchange), _unescaped(key))
    return Destination(kind, _unescaped(name))


def _facts(dialect: Dialect) -> StompFacts:
    if dialect.stomp is None:
        raise ValueError(f"{dialect.name} has no destination headers")
    return dialect.stomp


def _escaped(name: str) -> str:
    return name.replace("/", "%2F")


def _unescaped(name: str) -> str:
    return unquote(name, errors="surrogateescape")
