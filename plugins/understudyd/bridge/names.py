"""Destinations as bridges name them, whatever the broker, and what each broker calls them.

    queue://orders.eu            a queue
    topic://prices.nyse          a topic; on RabbitMQ the routing key on the topic exchange
    exchange://X/key             another exchange of RabbitMQ, and a routing key

Rules
* Names are words between dots. In a pattern ``*`` is exactly one word and ``>`` any number of
  them, none too: ``A.>`` also matches ``A``, as in ActiveMQ and as ``A.#`` in RabbitMQ.
* A wildcard stands alone between its dots. The characters themselves are written percent-encoded,
  as are ``,`` and ``?``: ActiveMQ takes those for a list of names and for options, which a bridge
  refuses. So are control characters, a blank at either end, and ``#`` alone between its dots, which
  are hardly meant. The name of an exchange has no wildcard; a ``/`` in it is written ``%2F``.
* What only one kind of broker can say is widened in a subscription (``is_exact`` is False then),
  and the bridge filters what came too much.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote, unquote

from understudy.errors import ConfigurationError

__all__ = ["EXCHANGE", "QUEUE", "TOPIC", "Destination", "Pattern", "is_system"]

QUEUE, TOPIC, EXCHANGE = "queue", "topic", "exchange"

ONE = "*"  # one word
ANY = ">"  # any number of words
MANY = "#"  # what RabbitMQ calls that

_FORM = re.compile(r"(queue|topic|exchange)://(.*)", re.DOTALL)
_VALID = (
    "queue://NAME, topic://NAME or exchange://EXCHANGE/KEY, words parted by dots, with * for one "
    "word and > for any number of words"
)
_UNSAFE = re.compile(r"[%,?*>#\x00-\x20\x7f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CAPTURE = {ONE: r"([^.]*)\.", ANY: r"((?:[^.]*\.)*)"}

#: What brokers, their plugins and bridges make for themselves; nobody means these by ``>``.
#: RabbitMQ keeps ``amq.`` for queues and exchanges, not for routing keys.
_OURS = r"understudy\.|ActiveMQ\.(Advisory|Agent|DLQ|Monitor|Scheduler|Statistics)(\.|$)"
_OURS += r"|activemq\.(management|notifications)(\.|$)|\$sys\.|\$\.artemis\.|ID:"
_AMQP = r"|amq\.|federation: |stomp-subscription-|mqtt-subscription-"
_SYSTEM = {
    QUEUE: re.compile(_OURS + _AMQP),
    TOPIC: re.compile(_OURS),
    EXCHANGE: re.compile(_OURS + _AMQP),
}


@dataclass(frozen=True)
class Destination:
    """One queue or topic, or a routing key at an exchange; ``name`` as the broker has it."""

    kind: str
    name: str
    exchange: str = ""

    def __str__(self) -> str:
        """As a configuration would say it."""
        where = f"{_UNSAFE.sub(_quoted, self.exchange).replace('/', '%2F')}/"
        return f"{self.kind}://{where if self.exchange else ''}{_UNSAFE.sub(_quoted, self.name)}"

    @property
    def is_system(self) -> bool:
        """Whether it belongs to a broker or a bridge itself; never bridged unless asked."""
        return is_system(self.kind, self.exchange or self.name)


@dataclass(frozen=True)
class Pattern:
    """What a configuration says of destinations: one, or with wildcards many."""

    kind: str
    words: tuple[str, ...]
    """Literal words, decoded; `ONE` and `ANY` where ``wild`` says so."""
    wild: tuple[bool, ...]
    exchange: str = ""
    text: str = ""
    """As it was given."""

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Raises ConfigurationError, telling what is valid."""
        found = _FORM.fullmatch(text)
        if not found:
            raise ConfigurationError(f"{text!r} is no destination: write {_VALID}")
        kind, rest = found.groups()
        _check_characters(text, rest)
        exchange = ""
        if kind == EXCHANGE:
            exchange, _, rest = rest.partition("/")
            _check_exchange(text, exchange)
        if not rest:
            raise ConfigurationError(f"{text!r} names nothing: write {_VALID}")
        _check_name(text, rest)
        words = rest.split(".")
        wild = tuple(word in (ONE, ANY) for word in words)
        for word, is_wild in zip(words, wild, strict=True):
            if not is_wild and (ONE in word or ANY in word):
                raise ConfigurationError(
                    f"{text!r}: a wildcard stands alone between dots, as in queue://orders.*; "
                    "write %2A or %3E for the character itself"
                )
        if MANY in words:
            raise ConfigurationError(
                f"{text!r}: the wildcard for any number of words is > here, on RabbitMQ too; "
                "write %23 for the character itself"
            )
        decoded = tuple(unquote(word, errors="surrogateescape") for word in words)
        return cls(kind, decoded, wild, unquote(exchange, errors="surrogateescape"), text)

    def __str__(self) -> str:
        return self.text

    @property
    def is_exact(self) -> bool:
        """Whether it has no wildcard, so names one destination."""
        return not any(self.wild)

    @property
    def wildcards(self) -> tuple[str, ...]:
        """Its wildcards, in order."""
        return tuple(word for word, is_wild in zip(self.words, self.wild, strict=True) if is_wild)

    @property
    def destination(self) -> Destination:
        """The one it names; only where `is_exact`."""
        if not self.is_exact:
            raise ConfigurationError(f"{self.text!r} names more than one destination")
        return Destination(self.kind, ".".join(self.words), self.exchange)

    @property
    def is_system(self) -> bool:
        """Whether it asks by name for what belongs to a broker or a bridge itself."""
        if self.exchange:
            return is_system(self.kind, self.exchange)
        first = self.wild.index(True) if True in self.wild else len(self.words)
        rest = () if self.is_exact else ("",)
        return is_system(self.kind, ".".join((*self.words[:first], *rest)))

    def matches(self, destination: Destination) -> bool:
        """Whether the destination is one of those it names."""
        return self.captures(destination) is not None

    def captures(self, destination: Destination) -> tuple[str, ...] | None:
        """What each wildcard stands for in this destination; None where it does not match."""
        if destination.kind != self.kind or destination.exchange != self.exchange:
            return None
        found = self._expression.fullmatch(f"{destination.name}." if destination.name else "")
        return tuple(part.removesuffix(".") for part in found.groups()) if found else None

    def fill(self, captures: tuple[str, ...]) -> Destination:
        """The destination with these in the place of the wildcards; an empty one falls away."""
        rest = iter(captures)
        words = [
            next(rest) if is_wild else word
            for word, is_wild in zip(self.words, self.wild, strict=True)
        ]
        kept = [
            word
            for word, given, is_wild in zip(words, self.words, self.wild, strict=True)
            if word or not (is_wild and given == ANY)
        ]
        return Destination(self.kind, ".".join(kept), self.exchange)

    def overlaps(self, other: Pattern) -> bool:
        """Whether one destination can match both."""
        if (self.kind, self.exchange) != (other.kind, other.exchange):
            return False
        return _overlap(self._letters, other._letters)

    @property
    def _letters(self) -> tuple[tuple[str, bool], ...]:
        return tuple(zip(self.words, self.wild, strict=True))

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        parts = [
            _CAPTURE[word] if is_wild else re.escape(word) + r"\."
            for word, is_wild in zip(self.words, self.wild, strict=True)
        ]
        return re.compile("".join(parts), re.DOTALL)


def is_system(kind: str, name: str) -> bool:
    """Whether a name belongs to a broker, a plugin or a bridge itself."""
    return _SYSTEM[kind].match(name) is not None


def _overlap(one: tuple[tuple[str, bool], ...], other: tuple[tuple[str, bool], ...]) -> bool:
    """Whether two lists of words, each with its wildcards, have a name in common."""
    if not one or not other:
        return all(letter == (ANY, True) for letter in one + other)
    if one[0] == (ANY, True):
        return _overlap(one[1:], other) or _overlap(one, other[1:])
    if other[0] == (ANY, True):
        return _overlap(other, one)
    is_same = one[0] == other[0] or (ONE, True) in (one[0], other[0])
    return is_same and _overlap(one[1:], other[1:])


def _check_exchange(text: str, exchange: str) -> None:
    if not exchange:
        raise ConfigurationError(f"{text!r} names no exchange: write exchange://EXCHANGE/KEY")
    if ONE in exchange or ANY in exchange:
        raise ConfigurationError(
            f"{text!r}: wildcards are for the key; name the exchange, as in exchange://X/>"
        )


def _check_characters(text: str, name: str) -> None:
    if found := _CONTROL.search(name):
        raise ConfigurationError(
            f"{text!r} has a control character in it: leave it out, or write "
            f"{_quoted(found)} where the name has it"
        )
    if name != name.strip(" "):
        raise ConfigurationError(
            f"{text!r} has a blank at one end of the name: leave it out, or write %20 where the "
            "name has it"
        )


def _check_name(text: str, name: str) -> None:
    if "," in name:
        raise ConfigurationError(
            f"{text!r} is a composite of several names: list each as an entry of its own, or write "
            "%2C for a comma in a name"
        )
    if "?" in name:
        raise ConfigurationError(
            f"{text!r} has options behind the name, which bridges do not take: leave them out, or "
            "write %3F for a question mark in a name"
        )


def _quoted(found: re.Match[str]) -> str:
    return quote(found[0], safe="")
