"""What brokers take of one message: checked before they see it, for one that is too large ends the
connection there, and would come again and end it again."""

from __future__ import annotations

from collections.abc import Mapping

from understudyd.bridge.content import Untranslatable
from understudyd.bridge.dialects import Dialect, Limits
from understudyd.bridge.mapping.headers import SIDECARS

__all__ = ["check_amqp", "check_body", "check_stomp", "fold", "is_short", "unfold"]

_WORST = 8  # bytes of one character: four in UTF-8, two for each that is escaped
_NAME = 40  # a sidecar's own name, its number and the colon, with room


def check_body(size: int, dialect: Dialect) -> None:
    """Raises Untranslatable."""
    if size > dialect.limits.body:
        raise Untranslatable(
            f"the body has {size} bytes; {dialect.name} takes {dialect.limits.body}"
        )


def check_amqp(raw: bytes, size: int, dialect: Dialect) -> None:
    """The properties and the size of the body; raises Untranslatable."""
    check_body(size, dialect)
    head = dialect.limits.head
    if head is not None and len(raw) > head:
        raise Untranslatable(
            f"the properties have {len(raw)} bytes; one frame to {dialect.name} holds {head}"
        )


def check_stomp(headers: Mapping[str, str], body: bytes, dialect: Dialect) -> None:
    """All headers of a SEND and its body; raises Untranslatable."""
    check_body(len(body), dialect)
    limits = dialect.limits
    if limits.headers is not None and len(headers) > limits.headers:
        raise Untranslatable(f"{len(headers)} headers; {dialect.name} takes {limits.headers}")
    if limits.head is not None:
        text = "\n".join([*headers, *headers.values()])
        if len(text) * _WORST > limits.head and (size := _size(text)) > limits.head:
            raise Untranslatable(
                f"the headers have {size} bytes; {dialect.name} takes {limits.head}"
            )


def is_short(text: str, headers: Mapping[str, str], limits: Limits) -> bool:
    """Whether each of these headers, which ``text`` holds all of, passes as one of its own."""
    line, name = limits.header_line, limits.short_string
    if line is not None and len(text) * _WORST > line:
        return all(_size(one) + _size(value) < line for one, value in headers.items())
    if name is not None and max(map(len, headers)) * 4 > name:
        return all(len(one.encode("utf-8", "surrogateescape")) <= name for one in headers)
    return True


def fold(headers: dict[str, str], line: int) -> None:
    """Cut sidecars that are longer than a header line into NAME, NAME-1 and so on."""
    for name in SIDECARS:
        text, size = headers.get(name), line - _NAME
        if text is None or len(text) <= size:
            continue
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        headers[name] = pieces[0]
        headers |= {f"{name}-{place}": piece for place, piece in enumerate(pieces[1:], 1)}


def unfold(headers: dict[str, str], name: str) -> str:
    """Take a sidecar, with what it goes on in, out of the headers."""
    pieces = [headers.pop(name)]
    while (piece := headers.pop(f"{name}-{len(pieces)}", None)) is not None:
        pieces.append(piece)
    return "".join(pieces)


def _size(text: str) -> int:
    """Bytes on the wire, escaped."""
    escaped = sum(text.count(special) for special in ":\\\r\n")
    return len(text.encode("utf-8", "surrogateescape")) + escaped
