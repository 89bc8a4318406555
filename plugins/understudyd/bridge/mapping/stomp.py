"""STOMP 1.2 in the dialect of a broker to a `Message` and back.

Rules, beside those of `fitting`, `values` and `times`
* A header of the application that STOMP, the broker or its transport would take for its own, and
  one whose name or value cannot cross as it is, goes into the sidecar ``x-understudy-headers``.
* Where the length tells the kind of a body, text is what came as text, or has a content type of
  text, JSON or XML and is UTF-8 without NUL; else it is bytes. Elsewhere the sidecar keeps it.
* Of bodies only text that is as Java writes it changes: it becomes UTF-8, and Java's again on the
  way back.
* A reply-to that only another broker can serve is kept in the sidecar alone.
* An empty text of ActiveMQ is one where it came over STOMP. Of others it cannot be told from a map
  or an object, whose content is not shown.
* What is too long for a header line goes into a sidecar, and these are cut; what passes the
  broker's other limits is untranslatable, so that it never sees it.
"""

from __future__ import annotations

import re
from functools import lru_cache

from understudyd.bridge.content import Hidden, StompContent
from understudyd.bridge.dialects import (
    ACTIVEMQ,
    ARTEMIS,
    RABBITMQ_AMQP,
    RABBITMQ_STOMP,
    Dialect,
    Expiry,
    StompFacts,
)
from understudyd.bridge.mapping.fitting import (
    NONE,
    fit_mode,
    fit_priority,
    fit_text,
    fit_timestamp,
    restore,
)
from understudyd.bridge.mapping.headers import (
    DEADLINE,
    GROUP,
    GROUP_TWIN,
    HIDDEN,
    PATH,
    PATH_TWIN,
    PROPERTIES,
    SIDECARS,
    TYPES,
    USER_ID,
)
from understudyd.bridge.mapping.java_text import from_java, to_java
from understudyd.bridge.mapping.limits import check_stomp, fold, is_short, unfold
from understudyd.bridge.mapping.message import BYTES, JAVA, TEXT, Message
from understudyd.bridge.mapping.pairs import from_pairs, to_pairs
from understudyd.bridge.mapping.times import deadline_header, deadline_of, remaining

__all__ = ["RESERVED", "read", "write"]

#: AMQP's names of the properties that are text, and STOMP's.
_NAMES = {
    "content_type": "content-type",
    "content_encoding": "content-encoding",
    "correlation_id": "correlation-id",
    "reply_to": "reply-to",
    "message_id": "amqp-message-id",
    "type": "type",
    "app_id": "app-id",
}
_PROPERTIES = tuple(_NAMES.items())

#: Names that no header of an application may have on any broker of STOMP.
RESERVED = frozenset(
    {"destination", "receipt", "transaction", "content-length", "message-id", "subscription"}
    | {"ack", "redelivered", "persistent", "priority", "timestamp", PATH_TWIN, GROUP_TWIN, ""}
    | set(_NAMES.values())
    | set(SIDECARS)
)
_NEVER_SENT = ("/temp-queue/", "/temp-topic/")  # a SEND with these makes a queue of its own
_PRIVATE = _NEVER_SENT + tuple(
    prefix
    for dialect in (RABBITMQ_AMQP, RABBITMQ_STOMP, ACTIVEMQ, ARTEMIS)
    for prefix in dialect.private_replies
)
_INTEGER = re.compile(r"-?[0-9]{1,19}")
_UNSAFE = re.compile("[\0\ud800-\udfff]")
_TEXT_TYPE = re.compile(r"(?i)text/|application/([\w.-]+\+)?(json|xml)\b")
_MODES = {"true": 2, "1": 1, "false": None}


def read(content: StompContent, dialect: Dialect, now: int) -> Message:
    """Raises Hidden for a message that its broker did not, or may not, put into STOMP."""
    facts = _facts(dialect)
    message = Message(content.body)
    message.headers = headers = dict(content.headers)
    pop = headers.pop
    for name in facts.transport:
        pop(name, None)
    if _is_hidden(content, facts):
        raise Hidden(
            f"{dialect.name} shows no content; it may be a map or an object, which STOMP lacks"
        )
    for field, name in _PROPERTIES:
        if (text := pop(name, None)) is not None:
            message.properties[field] = text
    _read_own(message, facts)
    if (mode := pop("persistent", None)) is not None:
        message.delivery_mode = _MODES.get(mode, 2)  # in doubt nothing may be lost
    message.priority = _number(headers, "priority")
    timestamp = _number(headers, "timestamp")
    if timestamp is not None:
        message.timestamp = timestamp * facts.timestamp_unit
    if facts.text_by_length:
        message.kind = BYTES if content.has_length else TEXT
        if facts.java_text and message.kind is TEXT:
            _read_java(message)
    if PROPERTIES in headers:
        restore(message, from_pairs(unfold(headers, PROPERTIES)), dialect)
    if facts.shows_id and (known := content.headers.get("message-id")):
        message.properties.setdefault("message_id", known)
    if TYPES in headers:
        message.types = from_pairs(unfold(headers, TYPES))
    _read_deadline(message, facts, dialect, now)
    if HIDDEN in headers:
        for name, text in from_pairs(unfold(headers, HIDDEN)).items():
            headers.setdefault(name, text)
    return message


def write(message: Message, dialect: Dialect, now: int) -> StompContent:
    """The headers of a SEND but for destination, receipt and transaction, and the body.

    Raises Untranslatable for what the broker cannot take, Expired when it is too late.
    """
    facts = _facts(dialect)
    notes: dict[str, str] = {}
    out: dict[str, str] = {}
    for field, text in message.properties.items():
        name = _NAMES.get(field)
        if name is None or not fit_text(text, dialect):
            notes[field] = text
        elif field == "reply_to":
            _write_reply(out, text, dialect, notes)
        else:
            out[name] = text
    if fit_mode(message, dialect, notes):
        out["persistent"] = "true"
    if (priority := fit_priority(message, dialect, notes)) is not None:
        out["priority"] = str(priority)
    if (timestamp := fit_timestamp(message, dialect, notes)) is not None:
        out["timestamp"] = str(timestamp)
    if message.deadline is not None:
        _write_deadline(out, message.deadline, facts, dialect, now)
    if not _is_text(message, facts, notes):
        out["content-length"] = str(len(message.body))
    _write_headers(out, message, facts, dialect)
    if notes:
        out[PROPERTIES] = to_pairs(notes)
    if message.types:
        out[TYPES] = _types(tuple(message.types.items()))
    if dialect.limits.header_line is not None:
        fold(out, dialect.limits.header_line)
    check_stomp(out, message.body, dialect)
    return StompContent(out, message.body)


def _is_hidden(content: StompContent, facts: StompFacts) -> bool:
    """Whether there may be more than is shown. What has no id was not delivered."""
    known = content.headers.get("message-id")
    if not facts.shown_empty or known is None:
        return False
    if "transformation-error" in content.headers:
        return True
    return not (content.body or content.has_length or facts.own_ids.fullmatch(known))


def _read_own(message: Message, facts: StompFacts) -> None:
    """What this broker says in headers of its own."""
    headers, pop = message.headers, message.headers.pop
    if (user := pop(facts.user_id, None)) is not None:
        headers.setdefault(USER_ID, user)
    if facts.group_shown_as and (group := pop(facts.group_shown_as, None)) is not None:
        headers.setdefault(GROUP, group)
    pop(PATH_TWIN, None)
    reply = message.properties.get("reply_to")
    if reply is not None and facts.reply_shown and reply != facts.reply_shown:
        message.properties["reply_to"] = reply.removeprefix(facts.reply_shown)


def _number(headers: dict[str, str], name: str) -> int | None:
    """A number out of the headers; what is none is the application's."""
    text = headers.get(name)
    if text is None or not (_is_small(text) or _INTEGER.fullmatch(text)):
        return None
    del headers[name]
    return int(text)


def _is_small(text: str) -> bool:
    return len(text) < 19 and text.isdecimal() and text.isascii()


def _read_deadline(message: Message, facts: StompFacts, dialect: Dialect, now: int) -> None:
    headers = message.headers
    if dialect.expiry is Expiry.ABSOLUTE:
        deadline = _number(headers, facts.expiry)
        if deadline is not None and deadline > 0:
            message.deadline = deadline
            headers.pop(DEADLINE, None)
        return
    expiration = headers.get(facts.expiry)
    if expiration is None and DEADLINE not in headers:
        return
    message.deadline = deadline_of(expiration, headers.get(DEADLINE), message.timestamp, now)
    if message.deadline is not None:
        headers.pop(facts.expiry, None)
        headers.pop(DEADLINE, None)


def _write_deadline(
    out: dict[str, str], deadline: int, facts: StompFacts, dialect: Dialect, now: int
) -> None:
    left = remaining(deadline, now)
    if dialect.expiry is Expiry.ABSOLUTE:
        out[facts.expiry] = str(deadline)
        return
    longest = dialect.limits.expiration
    is_too_long = longest is not None and left > longest
    if not is_too_long:
        out[facts.expiry] = str(left)
    out[DEADLINE] = deadline_header(deadline, None if is_too_long else left)


def _write_reply(out: dict[str, str], reply: str, dialect: Dialect, notes: dict[str, str]) -> None:
    facts = _facts(dialect)
    is_foreign = reply.startswith(_PRIVATE) and not reply.startswith(dialect.private_replies)
    sent = reply if reply.startswith("/") else facts.reply_sent + reply
    if is_foreign or not reply or sent.removeprefix(facts.reply_shown) != reply:
        notes["reply_to"] = reply
    if reply and not is_foreign:
        out["reply-to"] = sent


def _is_text(message: Message, facts: StompFacts, notes: dict[str, str]) -> bool:
    """Whether the body goes without its length."""
    kind = message.kind
    if not facts.text_by_length:
        if kind is not None:
            notes["body"] = kind
        return False
    if kind is None:
        notes["body"] = NONE
        content_type = message.properties.get("content_type")
        return bool(content_type and _TEXT_TYPE.match(content_type)) and _is_utf8(message.body)
    if kind == BYTES:
        return False
    if kind == JAVA and facts.java_text:
        return _write_java(message)
    if kind == JAVA or b"\0" in message.body:
        notes["body"] = kind
    return b"\0" not in message.body


def _read_java(message: Message) -> None:
    text = from_java(message.body)
    if text is not None:
        message.body, message.kind = text, JAVA


def _write_java(message: Message) -> bool:
    """Whether the body is text still."""
    try:
        message.body = to_java(message.body)
    except UnicodeDecodeError:
        return False  # somebody has changed it
    return True


@lru_cache(maxsize=1024)
def _types(kinds: tuple[tuple[str, str], ...]) -> str:
    """The sidecar of the types, which are the same in message after message."""
    return to_pairs(dict(kinds))


def _is_utf8(body: bytes) -> bool:
    if b"\0" in body:
        return False
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _write_headers(
    out: dict[str, str], message: Message, facts: StompFacts, dialect: Dialect
) -> None:
    headers = message.headers
    if not headers:
        return
    text = "\n".join([*headers, *headers.values()])
    if (
        RESERVED.isdisjoint(headers)
        and facts.reserved.isdisjoint(headers)
        and not _UNSAFE.search(text)
        and is_short(text, headers, dialect.limits)
    ):
        out.update(headers)
    else:
        _hide(out, headers, facts, dialect)
    if facts.hides_group and GROUP in out:
        out[GROUP_TWIN] = out[GROUP]
    if PATH in out and dialect.subscribing.selector:
        out[PATH_TWIN] = out[PATH]


def _hide(
    out: dict[str, str], headers: dict[str, str], facts: StompFacts, dialect: Dialect
) -> None:
    """The headers, those that cannot go by their own name and value in the sidecar."""
    hidden = {}
    for name, text in headers.items():
        pair = f"{name}\n{text}"
        if (
            name in RESERVED
            or name in facts.reserved
            or _UNSAFE.search(pair)
            or not is_short(pair, {name: text}, dialect.limits)
        ):
            hidden[name] = text
        else:
            out[name] = text
    if hidden:
        out[HIDDEN] = to_pairs(hidden)


def _facts(dialect: Dialect) -> StompFacts:
    if dialect.stomp is None:
        raise ValueError(f"{dialect.name} is not STOMP")
    return dialect.stomp
