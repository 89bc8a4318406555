"""The options in the query of an agent's address. Pure."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import unquote_plus

from understudy.core.option_reader import nearest
from understudy.core.redact import Source
from understudy.errors import ConfigurationError

__all__ = ["flag", "split_options", "whole_number"]


def split_options(
    query: str, known: Collection[str], source: Source, *, rest_is_theirs: bool = False
) -> tuple[dict[str, str], str]:
    """Our options, and the query without them.

    Raises ConfigurationError for any other option, unless the rest is the server's to read.
    """
    ours: dict[str, str] = {}
    rest = []
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        name = unquote_plus(name)
        if name in known:
            if ours.setdefault(name, unquote_plus(value)) != unquote_plus(value):
                raise source.error(f"option {name} is given twice with different values")
        elif rest_is_theirs:
            rest.append(pair)
        else:
            shown = source.quote(name)
            valid = ", ".join(sorted(known))
            raise source.error(f'unknown option "{shown}"{nearest(shown, known)} (valid: {valid})')
    return ours, "&".join(rest)


def whole_number(
    ours: dict[str, str], name: str, default: int, low: int, high: int, source: Source
) -> int:
    text = ours.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise _wrong(name, f"{low} to {high}", text, source)
    return int(text)


def flag(ours: dict[str, str], name: str, source: Source) -> bool:
    """False unless said."""
    text = ours.get(name, "false").lower()
    if text not in ("true", "false"):
        raise _wrong(name, "true or false", text, source)
    return text == "true"


def _wrong(name: str, valid: str, text: str, source: Source) -> ConfigurationError:
    return source.error(f'option {name} must be {valid}; "{source.quote(text)}" is not')
