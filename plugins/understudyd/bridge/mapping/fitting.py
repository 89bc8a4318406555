"""What a form cannot say of a message's properties, and what it said instead: the sidecar
``x-understudy-properties``.

Rules
* A writer puts there, under AMQP's name of a property, what its form changes, shortens or adds by
  itself; ``none`` where the broker would show a value that nobody has set. ``body`` is the kind.
* A reader believes an entry where the form says what its writer made of just that, so that a copy
  which an application has changed is not changed back.
* user_id is never set on a copy: a broker refuses that of another user. It goes on as a header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from understudyd.bridge.dialects import Dialect
from understudyd.bridge.mapping.message import BYTES, JAVA, TEXT, Message

__all__ = ["NONE", "TEXTS", "fit_mode", "fit_priority", "fit_text", "fit_timestamp", "restore"]

NONE = "none"

#: The properties that are text and the same everywhere.
TEXTS = frozenset(
    {"content_type", "content_encoding", "correlation_id", "reply_to", "message_id", "type"}
    | {"app_id", "cluster_id"}
)

_PERSISTENT = 2
_INT64 = (1 << 63) - 1
_UINT64 = (1 << 64) - 1
_NUMBER = re.compile(r"-?[0-9]{1,25}")
_UNSAFE = re.compile("[\0\ud800-\udfff]")


def timestamp_unit(dialect: Dialect) -> int:
    """Milliseconds; AMQP counts seconds."""
    return dialect.stomp.timestamp_unit if dialect.stomp else 1000


def fit_text(value: str, dialect: Dialect) -> bool:
    """Whether a property of this text can be written."""
    limits = dialect.limits
    if limits.short_string is not None and len(value) * 4 > limits.short_string:
        if len(value.encode("utf-8", "surrogateescape")) > limits.short_string:
            return False
    elif limits.header_line is not None and len(value) * 8 > limits.header_line:
        return False  # it may be short enough, but so long a property is seldom one
    return dialect.stomp is None or _UNSAFE.search(value) is None


def fit_priority(message: Message, dialect: Dialect, notes: dict[str, str]) -> int | None:
    """The priority to write, None for the default; what that leaves unsaid goes into ``notes``,
    here and below."""
    priority, default = message.priority, dialect.priority_default
    if priority is None:
        if default is not None:
            notes["priority"] = NONE
        return None
    fitting = min(max(priority, 0), dialect.max_priority)
    if fitting != priority:
        notes["priority"] = str(priority)
    return None if fitting == default else fitting


def fit_timestamp(message: Message, dialect: Dialect, notes: dict[str, str]) -> int | None:
    """The timestamp to write, in the form's unit."""
    timestamp = message.timestamp
    facts = dialect.stomp
    if timestamp is None:
        if facts and facts.shown_defaults:
            notes["timestamp"] = NONE
        return None
    fitting, rest = divmod(timestamp, timestamp_unit(dialect))
    is_in_range = 0 <= fitting <= (_INT64 if facts else _UINT64)
    if rest or not is_in_range or (facts and not facts.takes_timestamp):
        notes["timestamp"] = str(timestamp)
    return fitting if is_in_range else None


def fit_mode(message: Message, dialect: Dialect, notes: dict[str, str]) -> bool:
    """Whether the message is persistent; AMQP alone says more of it than that."""
    mode = message.delivery_mode
    if mode not in (None, _PERSISTENT) and dialect.stomp:
        notes["delivery_mode"] = str(mode)
    return mode == _PERSISTENT


def restore(message: Message, notes: Mapping[str, str], dialect: Dialect) -> None:
    """Believe what the sidecar of a message read in this dialect says, where it fits."""
    for name, value in notes.items():
        if name == "reply_to":
            _restore_reply(message, value)
        elif name in TEXTS:
            message.properties.setdefault(name, value)
        elif name == "body":
            _restore_kind(message, value)
        elif name == "priority":
            _restore_priority(message, value, dialect)
        elif name == "timestamp":
            _restore_timestamp(message, value, dialect)
        elif name == "delivery_mode" and message.delivery_mode != _PERSISTENT:
            message.delivery_mode = _number(value)


def _restore_kind(message: Message, value: str) -> None:
    if value in (TEXT, BYTES, JAVA):
        message.kind = value
    elif value == NONE:
        message.kind = None


def _restore_reply(message: Message, value: str) -> None:
    """``/queue/x`` reads as ``x`` where another broker calls that queue so."""
    if value.endswith(message.properties.get("reply_to", "")):
        message.properties["reply_to"] = value


def _restore_priority(message: Message, value: str, dialect: Dialect) -> None:
    number = _number(value)
    if number is not None and message.priority == min(max(number, 0), dialect.max_priority):
        message.priority = number
    elif value == NONE and message.priority == dialect.priority_default:
        message.priority = None


def _restore_timestamp(message: Message, value: str, dialect: Dialect) -> None:
    shown, facts = message.timestamp, dialect.stomp
    is_brokers = facts is not None and facts.shown_defaults
    if value == NONE and is_brokers:
        message.timestamp = None
        return
    number, unit = _number(value), timestamp_unit(dialect)
    if number is None:
        return
    is_out_of_range = not 0 <= number // unit <= (_INT64 if facts else _UINT64)
    if is_out_of_range or shown == number // unit * unit or (facts and not facts.takes_timestamp):
        message.timestamp = number


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None
