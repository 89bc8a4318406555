"""What tests ask of the parser of URIs."""

from __future__ import annotations

from typing import Any

from understudy import ConfigurationError, parse

__all__ = ["members", "refusal"]


def members(text: str) -> list[str]:
    """The endpoints, in order."""
    return [endpoint.uri for endpoint in parse(text).endpoints]


def refusal(text: str, **arguments: Any) -> str:
    """The one line with which ``text`` is refused."""
    try:
        uri = parse(text, **arguments)
    except ConfigurationError as error:
        said = str(error)
    else:
        raise AssertionError(f"not refused: {uri}")
    assert "\n" not in said
    return said
