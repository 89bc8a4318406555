"""The form of our sidecar headers: ``name=value name=value``, both percent-encoded.

Everything but printable ASCII is encoded, and what STOMP escapes too, so that a sidecar passes any
broker as it is and may be cut anywhere. Bytes that are no UTF-8 are lone surrogates in Python, and
these bytes again when decoded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

__all__ = ["from_pairs", "to_pairs"]

_SPECIAL = re.compile(r"[^!-~]|[%=:\\]")
_UNSAFE = re.compile(r"[^ -~]|[%:\\]")  # without what parts the pairs


def to_pairs(values: Mapping[str, str]) -> str:
    """Raises UnicodeEncodeError for lone surrogates that stand for no byte."""
    text = " ".join([f"{name}={value}" for name, value in values.items()])
    count = len(values)
    if text.count("=") == count == text.count(" ") + 1 and not _UNSAFE.search(text):
        return text  # nothing to encode, seen at one look
    return " ".join([f"{_quoted(name)}={_quoted(value)}" for name, value in values.items()])


def from_pairs(text: str) -> dict[str, str]:
    """The values by name; what is no pair is left out."""
    if "%" in text:
        pairs = [part.partition("=") for part in text.split(" ")]
        return {_unquoted(name): _unquoted(value) for name, equals, value in pairs if equals}
    return dict([part.split("=", 1) for part in text.split(" ") if "=" in part])


def _quoted(text: str) -> str:
    return _SPECIAL.sub(_quote, text)


def _quote(found: re.Match[str]) -> str:
    return "".join([f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogateescape")])


def _unquoted(text: str) -> str:
    return unquote(text, errors="surrogateescape") if "%" in text else text
