"""Headers of a STOMP frame that RabbitMQ leaves on the message which the frame brought.

A SEND's ``receipt`` and ``content-length`` stay there as headers, for AMQP consumers to see
(RabbitMQ 3.10). They say nothing of the message, so that no copy has them. An application's own
header of one of these names is none of those: they are taken for a frame's where both are there,
strings both, and the length is a number.
"""

from __future__ import annotations

from collections.abc import Container

from understudyd.bridge.wire.properties import get_header, remove_header

__all__ = ["drop_frame_headers", "without_frame_headers"]

_NAMES = ("receipt", "content-length")
_MARKS = tuple(bytes([len(name)]) + name.encode() for name in _NAMES)  # in a table


def without_frame_headers(raw: bytes) -> bytes:
    """The properties without them; ``raw`` itself where there are none. Raises WireError."""
    if not all(mark in raw for mark in _MARKS):
        return raw
    receipt, length = (get_header(raw, name) for name in _NAMES)
    if not isinstance(receipt, str) or not isinstance(length, str) or not _is_number(length):
        return raw
    for name in _NAMES:
        raw = remove_header(raw, name)
    return raw


def drop_frame_headers(headers: dict[str, str], types: Container[str]) -> None:
    """The same for headers as text; ``types`` are those that are no strings."""
    is_framed = all(name in headers and name not in types for name in _NAMES)
    if is_framed and _is_number(headers["content-length"]):
        for name in _NAMES:
            del headers[name]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
