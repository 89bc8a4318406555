"""AMQP 0-9-1 to a `Message` and back, and the little that changes between two ends of AMQP.

Rules, beside those of `fitting`, `values` and `times`
* Headers that are strings stay text; others become text with their kinds. ``CC`` and ``BCC`` come
  out as ``x-understudy-cc`` and ``-bcc``: a broker would send the copy to them once more.
* A text body without a content type gets ``text/plain; charset=utf-8``, and the sidecar says so.
* From AMQP to AMQP the properties stay the bytes they were, but for those two, a time to live,
  the user_id and the headers of a STOMP frame (`frame_headers`).
"""

from __future__ import annotations

from collections.abc import Container

from understudyd.bridge.content import AmqpContent, Untranslatable
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.mapping.fields import (
    read_fields,
    read_headers,
    write_fields,
    write_headers,
)
from understudyd.bridge.mapping.fitting import (
    fit_priority,
    fit_text,
    fit_timestamp,
    restore,
)
from understudyd.bridge.mapping.frame_headers import drop_frame_headers, without_frame_headers
from understudyd.bridge.mapping.headers import (
    CARBON_COPIES,
    DEADLINE,
    EXPIRATION,
    HIDDEN,
    PROPERTIES,
    TYPES,
    USER_ID,
)
from understudyd.bridge.mapping.message import BYTES, Message
from understudyd.bridge.mapping.pairs import from_pairs, to_pairs
from understudyd.bridge.mapping.times import (
    deadline_header,
    deadline_of,
    expiration_of,
    remaining,
)
from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.tables import entries

__all__ = ["TEXT_TYPE", "read", "relay", "write"]

TEXT_TYPE = "text/plain; charset=utf-8"  # of a text body that came without a content type
_TYPED = "/plain"  # behind the kind in the sidecar: that content type is ours

_HAS_EXPIRATION = 0x01  # of the first byte of the flags
_HAS_USER_ID = 0x10  # of the second


def read(content: AmqpContent, dialect: Dialect, now: int) -> Message:
    """Raises Untranslatable for properties that cannot be read."""
    message = Message(content.body)
    try:
        texts, numbers, table = read_fields(content.properties)
        if table:
            message.headers, message.types = read_headers(table)
            drop_frame_headers(message.headers, message.types)
    except WireError as error:
        raise Untranslatable(f"the properties cannot be read: {error}") from error
    message.properties = texts
    message.delivery_mode = numbers.get("delivery_mode")
    message.priority = numbers.get("priority")
    if "timestamp" in numbers:
        message.timestamp = numbers["timestamp"] * 1000
    headers = message.headers
    expiration = texts.pop("expiration", None)
    user_id = texts.pop("user_id", None)
    if user_id is not None:
        headers.setdefault(USER_ID, user_id)
    if PROPERTIES in headers and PROPERTIES not in message.types:
        notes = from_pairs(headers.pop(PROPERTIES))
        _restore_text(message, notes)
        restore(message, notes, dialect)
    if TYPES in headers or HIDDEN in headers:
        _read_stomps(message)
    if expiration is not None or DEADLINE in headers:
        _read_deadline(message, expiration, now)
    return message


def write(message: Message, dialect: Dialect, now: int) -> AmqpContent:
    """Raises Untranslatable for what AMQP cannot hold, Expired when it is too late."""
    notes: dict[str, str] = {}
    texts, headers = message.properties, message.headers
    for name, text in list(texts.items()):
        if not fit_text(text, dialect):
            notes[name] = texts.pop(name)
    if message.kind is not None:
        _write_kind(message, notes)
    numbers = {
        "delivery_mode": message.delivery_mode,
        "priority": fit_priority(message, dialect, notes),
        "timestamp": fit_timestamp(message, dialect, notes),
    }
    if message.deadline is not None:
        _write_deadline(message, dialect, now)
    if notes:
        headers[PROPERTIES] = to_pairs(notes)
    for name, ours in CARBON_COPIES.items():
        if name in headers:
            _rename(message, name, ours)
    try:
        table = write_headers(headers, message.types) if headers else b""
        raw = write_fields(texts, numbers, table)
    except ValueError as error:
        raise Untranslatable(f"AMQP cannot hold it: {error}") from error
    return AmqpContent(raw, message.body)


def relay(raw: bytes, now: int) -> bytes:
    """The properties of a copy from AMQP to AMQP; ``raw`` itself when nothing has to change.

    Raises Expired when its time to live is over, Untranslatable for what cannot be read.
    """
    try:
        raw = without_frame_headers(raw)
    except ValueError as error:
        raise Untranslatable(f"the properties cannot be read: {error}") from error
    has_copies = b"\x02CC" in raw or b"\x03BCC" in raw
    if len(raw) > 1 and not (raw[0] & _HAS_EXPIRATION or raw[1] & _HAS_USER_ID or has_copies):
        return raw
    try:
        texts, numbers, table = read_fields(raw)
        added: dict[str, str] = {}
        if has_copies:
            table = _renamed(table)
        user_id = texts.pop("user_id", None)
        if user_id is not None and _header(table, USER_ID) is None:
            added[USER_ID] = user_id
        if "expiration" in texts:
            header = _header(table, DEADLINE)
            _relay_deadline(texts, added, header, numbers.get("timestamp"), now)
            table = _without(table, added) if header is not None else table
        return write_fields(texts, numbers, table + write_headers(added, {}))
    except ValueError as error:
        raise Untranslatable(f"the properties cannot be changed: {error}") from error


def _relay_deadline(
    texts: dict[str, str], added: dict[str, str], header: str | None, stamp: int | None, now: int
) -> None:
    """Put what is left into the expiration."""
    expiration = texts.pop("expiration")
    timestamp = None if stamp is None else stamp * 1000
    deadline = deadline_of(expiration, header, timestamp, now)
    if deadline is None:  # no number: no broker would take it
        added[EXPIRATION] = expiration
        return
    left = remaining(deadline, now)
    texts["expiration"] = str(left)
    added[DEADLINE] = deadline_header(deadline, left)


def _header(table: bytes, name: str) -> str | None:
    """A header that is a string."""
    wanted = name.encode("ascii")
    if wanted in table:
        for found, _, at, end in entries(table):
            if found == wanted and table[at : at + 1] == b"S":
                return table[at + 5 : end].decode("utf-8", "surrogateescape")
    return None


def _without(table: bytes, names: Container[str]) -> bytes:
    return b"".join(
        table[at:end]
        for name, at, _, end in entries(table)
        if name.decode("utf-8", "surrogateescape") not in names
    )


def _renamed(table: bytes) -> bytes:
    """The table with what would route a copy anew under names that do not."""
    parts = []
    for raw, _, value_at, end in entries(table):
        name = raw.decode("utf-8", "surrogateescape")
        ours = CARBON_COPIES.get(name, name).encode("utf-8", "surrogateescape")
        parts += [bytes([len(ours)]), ours, table[value_at:end]]
    return b"".join(parts)


def _read_stomps(message: Message) -> None:
    """The sidecars of a message that was sent to RabbitMQ over STOMP."""
    headers, types = message.headers, message.types
    if TYPES in headers and TYPES not in types:
        for name, kinds in from_pairs(headers.pop(TYPES)).items():
            types.setdefault(name, kinds)
    if HIDDEN in headers and HIDDEN not in types:
        for name, text in from_pairs(headers.pop(HIDDEN)).items():
            headers.setdefault(name, text)


def _read_deadline(message: Message, expiration: str | None, now: int) -> None:
    headers = message.headers
    header = None if DEADLINE in message.types else headers.get(DEADLINE)
    message.deadline = deadline_of(expiration, header, message.timestamp, now)
    if message.deadline is not None:
        headers.pop(DEADLINE, None)
    elif expiration is not None and expiration_of(expiration) is None:
        headers[EXPIRATION] = expiration


def _write_deadline(message: Message, dialect: Dialect, now: int) -> None:
    deadline = message.deadline
    assert deadline is not None
    left = remaining(deadline, now)
    longest = dialect.limits.expiration
    is_too_long = longest is not None and left > longest
    if not is_too_long:
        message.properties["expiration"] = str(left)
    message.headers[DEADLINE] = deadline_header(deadline, None if is_too_long else left)


def _restore_text(message: Message, notes: dict[str, str]) -> None:
    kind = notes.get("body", "")
    if not kind.endswith(_TYPED):
        return
    notes["body"] = kind.removesuffix(_TYPED)
    if message.properties.get("content_type") == TEXT_TYPE:
        del message.properties["content_type"]


def _write_kind(message: Message, notes: dict[str, str]) -> None:
    kind = message.kind
    assert kind is not None
    notes["body"] = kind
    is_typed = "content_type" in message.properties or "content_type" in notes
    if kind != BYTES and not is_typed:
        message.properties["content_type"] = TEXT_TYPE
        notes["body"] = kind + _TYPED


def _rename(message: Message, name: str, ours: str) -> None:
    message.headers[ours] = message.headers.pop(name)
    message.types.pop(ours, None)
    if name in message.types:
        message.types[ours] = message.types.pop(name)
