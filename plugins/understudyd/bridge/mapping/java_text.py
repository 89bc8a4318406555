"""Text as Java writes it: UTF-8 in which a character beyond U+FFFF is two of three bytes each, and
NUL is C0 80 ("modified UTF-8", java.io.DataInput).

ActiveMQ keeps a TextMessage so, and shows it so over STOMP, where nobody expects it. What STOMP
sends it keeps as it is; Java can then read no character of four bytes.
"""

from __future__ import annotations

import re

__all__ = ["from_java", "to_java"]

_NUL = b"\xc0\x80"
_FAR = re.compile("[\U00010000-\U0010ffff]")


def from_java(body: bytes) -> bytes | None:
    """The same text in UTF-8; None where it is that already, or is no text as Java writes it."""
    if b"\xed" not in body and _NUL not in body:
        return None
    try:
        text = body.replace(_NUL, b"\0").decode("utf-8", "surrogatepass")
        plain = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le").encode()
    except UnicodeDecodeError:
        return None
    return plain if plain != body and to_java(plain) == body else None


def to_java(body: bytes) -> bytes:
    """UTF-8 as Java writes it; raises UnicodeDecodeError for what is no UTF-8."""
    text = _FAR.sub(_halves, body.decode())
    return text.encode("utf-8", "surrogatepass").replace(b"\0", _NUL)


def _halves(found: re.Match[str]) -> str:
    rest = ord(found[0]) - 0x10000
    return chr(0xD800 + (rest >> 10)) + chr(0xDC00 + (rest & 0x3FF))
