"""Which messages a bridge forwards, to where, and which it leaves where they are.

Rules (5.4 and 5.5 of ActiveMQ's networks, whose options these are)
* excluded > statically included > dynamically included > everything, when nothing is listed for
  dynamic inclusion. A queue's pattern says nothing of topics.
* What brokers and bridges make for themselves is permitted only by an entry that begins with such a
  name: ``queue://>`` does not mean dead letters and temporary queues.
* The first ``rename`` that matches counts. Wildcards on its right stand for what those on the left
  have matched, in order.
* The path of a message is the brokers it has left by a bridge, ``a,b``, percent-encoded. It is
  not forwarded to a broker in its path, nor when it has made ``network_ttl`` hops (-1: any number,
  `MAX_HOPS` at most). A queue's message stays where it is then, a topic's copy is dropped.
* Headers that begin with ``x-understudy-`` are the bridges' own: no option sets or removes them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, unquote

from understudy.errors import ConfigurationError
from understudyd.bridge.addresses import to_amqp, to_stomp
from understudyd.bridge.content import Untranslatable
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.mapping import Message
from understudyd.bridge.mapping.headers import PATH, PATH_TWIN
from understudyd.bridge.mapping.message import BYTES, JAVA, TEXT
from understudyd.bridge.names import QUEUE, Destination, Pattern
from understudyd.bridge.wire.properties import remove_header, set_header
from understudyd.bridge.worn import USUAL_LIMIT, most_of

__all__ = ["MAX_HOPS", "Decision", "Options", "Routes", "Verdict", "check_duplex"]

MAX_HOPS = 100  # of a network_ttl without limit: a longer path is none that bridges have made
KEPT = 10_000  # destinations whose route is remembered

_OWN = "x-understudy-"


class Verdict(enum.Enum):
    FORWARD = "forward"
    STAY = "stay"
    """It goes back, or is never taken, and is in reach of its own broker's consumers."""
    DROP = "drop"
    """The copy is settled and counted; others have got theirs."""


class Decision(NamedTuple):
    verdict: Verdict
    target: Destination | None
    """Where to, when forwarded."""
    reason: str
    """Why not, when not; for counters and status: excluded, loop, hops."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a bridge that are about routes, as configured."""

    dynamically_included: Sequence[str] = ()
    statically_included: Sequence[str] = ()
    excluded: Sequence[str] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    headers_set: Mapping[str, str] = field(default_factory=dict)
    headers_remove: Sequence[str] = ()
    network_ttl: int = 1
    """Brokers a message may be forwarded to in a row; ActiveMQ's default."""
    body: str = "auto"
    """The kind of all bodies, ``text`` or ``bytes``; ``auto`` is what each message has."""
    transformer: Callable[[Message], None] | None = None
    """Changes a message, before headers are removed and set; see `transform`."""
    delivery_limit: int = USUAL_LIMIT
    """Of the source's queues, see `worn`."""


class Routes:
    """The routes from one broker (``here``) to another (``there``), both by their logical names.

    Raises ConfigurationError for options that mean nothing.
    """

    def __init__(self, options: Options, here: str, there: str) -> None:
        if options.network_ttl < -1:
            raise ConfigurationError(
                f"network_ttl = {options.network_ttl}: the number of hops, or -1 for any"
            )
        self.here, self.there = _encoded(here), _encoded(there)
        self.dynamic = tuple(map(Pattern.parse, options.dynamically_included))
        self.static = tuple(map(Pattern.parse, options.statically_included))
        self.excluded = tuple(map(Pattern.parse, options.excluded))
        self.renames = tuple(_rename(*pair) for pair in options.rename.items())
        _check_headers([*options.headers_set, *options.headers_remove])
        self._set, self._remove = dict(options.headers_set), tuple(options.headers_remove)
        self._kind = {"text": TEXT, "bytes": BYTES}.get(options.body)
        self._transformer = options.transformer
        self._ttl = MAX_HOPS if options.network_ttl == -1 else min(options.network_ttl, MAX_HOPS)
        self.most_in_vain = most_of(options.delivery_limit)
        """Deliveries of a message, then it goes to the tail of its queue."""
        self._known: dict[Destination, Destination | None] = {}

    @property
    def needs_messages(self) -> bool:
        """Whether `change` does more than `change_amqp` can."""
        return self._transformer is not None

    def permits(self, destination: Destination) -> bool:
        """Whether messages of this destination may be forwarded at all."""
        if any(pattern.matches(destination) for pattern in self.excluded):
            return False
        included = [
            pattern for pattern in (*self.static, *self.dynamic) if pattern.matches(destination)
        ]
        if destination.is_system:
            return any(pattern.is_system for pattern in included)
        return bool(included) or not self.dynamic

    def target(self, destination: Destination) -> Destination:
        """What the destination is called at the other end."""
        for left, right in self.renames:
            captures = left.captures(destination)
            if captures is not None:
                return right.fill(captures if right.wildcards else ())
        return destination

    def decide(self, destination: Destination, path: str | None) -> Decision:
        """What becomes of a message of this destination that has come this path."""
        try:
            target = self._known[destination]
        except KeyError:
            target = self._learn(destination)
        if target is None:
            return Decision(self._held(destination), None, "excluded")
        if path:
            brokers = path.split(",")
            if self.there in brokers:
                return Decision(self._held(destination), None, "loop")
            hops = len(brokers)
        else:
            hops = 0
        if hops >= self._ttl:
            return Decision(self._held(destination), None, "hops")
        return Decision(Verdict.FORWARD, target, "")

    def longer(self, path: str | None) -> str:
        """The path of a copy that leaves here."""
        return f"{path},{self.here}" if path else self.here

    def change(self, message: Message) -> None:
        """Set and remove headers and write the path, between `mapping.read` and `mapping.write`.

        Raises Dropped or Untranslatable where a transformer wants it so.
        """
        if self._transformer is not None:
            self._transformer(message)
        if self._kind is not None:
            _give_kind(message, self._kind)
        headers = message.headers
        for name in self._remove:
            headers.pop(name, None)
            message.types.pop(name, None)
        for name, value in self._set.items():
            headers[name] = value
            message.types.pop(name, None)
        headers[PATH] = self.longer(headers.get(PATH))

    def change_amqp(self, raw: bytes) -> bytes:
        """Set and remove headers in the properties of a message between two ends of AMQP.

        Raises WireError for properties that cannot be read.
        """
        for name in self._remove:
            raw = remove_header(raw, name)
        for name, value in self._set.items():
            raw = set_header(raw, name, value)
        return raw

    def check_target(self, dialect: Dialect) -> None:
        """Raise ConfigurationError for a destination without wildcards that the target's broker
        cannot have."""
        exact = [pattern for pattern in (*self.static, *self.dynamic) if pattern.is_exact]
        for pattern in exact:
            target = self.target(pattern.destination)
            try:
                to_amqp(target) if dialect.is_amqp else to_stomp(target, dialect)
            except Untranslatable as error:
                raise ConfigurationError(f"{pattern.text!r}: {error.reason}") from error

    def selector(self, asked: str = "") -> str:
        """A JMS selector for what `decide` forwards by its path and ``asked`` wants too: so what
        would stay is never delivered. For ActiveMQ and Artemis, which read the path's twin."""
        if not self._ttl:
            return "1 = 0"
        there = _liked(self.there)
        patterns = [there, f"{there},%", f"%,{there}", f"%,{there},%"]
        if self._ttl < MAX_HOPS:
            patterns.append(",".join(["%"] * self._ttl))
        refused = " OR ".join(f"{PATH_TWIN} LIKE '{like}' ESCAPE '\\'" for like in patterns)
        ours = f"{PATH_TWIN} IS NULL OR NOT ({refused})"
        return f"({asked}) AND ({ours})" if asked else ours

    def _learn(self, destination: Destination) -> Destination | None:
        if len(self._known) >= KEPT:
            self._known.clear()
        target = self.target(destination) if self.permits(destination) else None
        self._known[destination] = target
        return target

    def _held(self, destination: Destination) -> Verdict:
        return Verdict.STAY if destination.kind == QUEUE else Verdict.DROP


def check_duplex(one: Routes, other: Routes) -> None:
    """Refuse two opposite links that would hand the messages of one queue to and fro.

    Raises ConfigurationError.
    """
    for pattern in one.static:
        for back in other.static:
            if pattern.kind == QUEUE and _meet(one, pattern, other, back):
                raise ConfigurationError(_to_and_fro(one, pattern, back))


def _to_and_fro(one: Routes, pattern: Pattern, back: Pattern) -> str:
    there = unquote(one.there)
    if not pattern.is_exact:
        met = f"{pattern.text!r} one way and {back.text!r} the other way meet at {there}"
    else:
        target = one.target(pattern.destination)
        what = "stays" if target == pattern.destination else f"becomes {target}"
        met = f"{pattern.text!r} {what} at {there}, where {back.text!r} is read for the way back"
    return (
        f"{met}: its messages would go to and fro, or stay there, as no message goes to a broker "
        "that it comes from; rename it to a queue that is not read there, exclude it one way, or "
        "bridge it one way"
    )


def _meet(one: Routes, pattern: Pattern, other: Routes, back: Pattern) -> bool:
    """Whether what goes one way would be taken the other way."""
    if pattern.is_exact:
        target = one.target(pattern.destination)
        return one.permits(pattern.destination) and back.matches(target) and other.permits(target)
    if back.is_exact:
        same = back.destination
        is_kept = pattern.matches(same) and one.target(same) == same
        return is_kept and one.permits(same) and other.permits(same)
    excluded = {each.text for each in (*one.excluded, *other.excluded)}
    return back.overlaps(pattern) and not excluded & {pattern.text, back.text}


def _give_kind(message: Message, kind: str) -> None:
    """Raises Untranslatable for a body that cannot be text."""
    if kind == TEXT:
        if message.kind == JAVA:
            return  # text that its broker keeps in another way
        if not _is_text(message.body):
            raise Untranslatable(
                "its body is no text (UTF-8 without NUL), which body = 'text' asks"
            )
    message.kind = kind


def _is_text(body: bytes) -> bool:
    try:
        return "\0" not in body.decode()
    except UnicodeDecodeError:
        return False


def _liked(text: str) -> str:
    """A text for LIKE, in which nothing is a wildcard."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _encoded(broker: str) -> str:
    if not broker:
        raise ConfigurationError("a broker has no name: give the end one, as in name = 'hq'")
    return quote(broker, safe="-._~@:/")


def _rename(left: str, right: str) -> tuple[Pattern, Pattern]:
    one, other = Pattern.parse(left), Pattern.parse(right)
    if other.wildcards not in ((), one.wildcards):
        raise ConfigurationError(
            f"rename {left!r} = {right!r}: the right side has other wildcards than the left; it "
            "has the same in the same order, or none"
        )
    return one, other


def _check_headers(names: Sequence[str]) -> None:
    for name in names:
        if not name:
            raise ConfigurationError("a header to set or remove has an empty name; write its name")
        if name.lower().startswith(_OWN):
            raise ConfigurationError(
                f"the header {name!r} cannot be set or removed: headers that begin with {_OWN} "
                "are the bridge's own"
            )
