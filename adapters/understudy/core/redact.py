"""Takes passwords out of text before anybody sees it.

Rules:
* What is shown of a URI that parsed is built from its parts elsewhere, exactly. `redact` is for
  everything else: foreign error texts, log lines, URIs that do not parse. It never fails, works on
  any string in linear time, and in doubt masks too much: a lost host name is an annoyance, a shown
  password is an incident.
* A user name is kept only where it is certain to be one; error texts about a URI keep none.
* A query value is masked by the name of its option, or when it holds (also encoded) an ``@``.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from understudy.errors import ConfigurationError

__all__ = ["MASK", "Source", "is_secret", "redact", "shown_name"]

MASK = "**"  # what kombu writes, so that mixed logs look the same
SHOWN = 240  # characters of a URI in an error text

SECRET_NAME = re.compile(r"pass|pwd|secret|token|credential|signature|key$", re.IGNORECASE)

# NAMED_USERS: a userinfo without a colon is a user name there; in a cloud queue it may be the key.
# LIST_SCHEMES: a new address of a list begins there; any other "://" may be part of a password.
NAMED_USERS = frozenset({"amqp", "amqps", "pyamqp", "stomp", "stomp+ssl", "tcp", "ssl"})
LIST_SCHEMES = NAMED_USERS | {
    *("failover", "static", "masterslave", "discovery", "fanout"),
    *("http", "https", "file", "multicast"),
    *("redis", "rediss", "sentinel", "sqs", "memory", "filesystem", "mongodb", "zookeeper"),
    *("postgresql", "mysql", "sqlite"),
}

SCHEME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-")
LONGEST_SCHEME = 40
BEFORE_AN_ADDRESS = frozenset(" \t\r\n,(\"'=[<")

CLEAN_USER = re.compile(r"[\w.~%+=!$&-]*")
OPTION_NAME = re.compile(r"(?:^|[?&\s,(])([^=&?\s,(]*)=")
END_OF_VALUE = re.compile(r"[&\s]")
# Inside a value: the end of the list it stands in, or the next address of that list.
END_OF_MEMBER = re.compile(
    r"(?<!\))\)*,[A-Za-z][A-Za-z0-9+.\-]*:|(?<!\))\)+(?:\?[\w.]+=|$|,[A-Za-z])"
)


def is_secret(name: str) -> bool:
    """Whether the value of an option of this name must not be shown."""
    return SECRET_NAME.search(name) is not None


def shown_name(name: str) -> str:
    """The name of an option for an error text; it may be a part of a password that split there."""
    return name[:60] if name.isprintable() and "@" not in name else MASK


def redact(text: str, *, keep_users: bool = True) -> str:
    """The same text without passwords; any string will do."""
    text = _mask_values(text)
    starts = _addresses(text)
    if not starts:
        return _mask_bare(text)
    pieces = [_mask_bare(text[: starts[0][0]])]
    for index, (begin, end) in enumerate(starts):
        until = starts[index + 1][0] if index + 1 < len(starts) else len(text)
        scheme = text[begin : end - 3]
        pieces += [text[begin:end], _mask_address(scheme.lower(), text[end:until], keep_users)]
    return "".join(pieces)


def _mask_values(text: str) -> str:
    """Masks ``name=value`` by name, up to where the value ends at the latest."""
    pieces, position = [], 0
    while (found := OPTION_NAME.search(text, position)) is not None:
        begin = found.end()
        stop = END_OF_VALUE.search(text, begin)
        end = stop.start() if stop else len(text)
        value = text[begin:end]
        if (inner := END_OF_MEMBER.search(value)) is not None:
            value, end = value[: inner.start()], begin + inner.start()
        hidden = is_secret(unquote(found[1])) or ("%" in value and "@" in unquote(unquote(value)))
        pieces.append(text[position:begin])
        if hidden and value:
            pieces.append(MASK)
            position = end
        else:
            position = begin
    return "".join([*pieces, text[position:]])


def _addresses(text: str) -> list[tuple[int, int]]:
    """Where addresses begin and where their ``scheme://`` ends."""
    starts: list[tuple[int, int]] = []
    mark = text.find("://")
    while mark >= 0:
        begin = mark
        while begin and mark - begin < LONGEST_SCHEME and text[begin - 1] in SCHEME_CHARACTERS:
            begin -= 1
        apart = begin == 0 or text[begin - 1] in BEFORE_AN_ADDRESS
        adjacent = bool(starts) and begin == starts[-1][1]  # failover://amqp://...
        known = text[begin:mark].lower() in LIST_SCHEMES
        if not starts or (known and (apart or adjacent)):
            starts.append((begin, mark + 3))
        mark = text.find("://", mark + 3)
    return starts


def _mask_address(scheme: str, text: str, keep_users: bool) -> str:
    line, newline, rest = text.partition("\n")
    at = line.rfind("@")
    if at < 0:
        return _mask_cut(line) + newline + rest
    user, colon, _ = line[:at].partition(":")
    if keep_users and CLEAN_USER.fullmatch(user) and (colon or scheme in NAMED_USERS):
        shown = f"{user}:{MASK}" if colon else user
    else:
        shown = MASK
    return shown + line[at:] + newline + rest


def _mask_cut(text: str) -> str:
    """An address without ``@`` whose port is no number is a userinfo that was cut off."""
    after = text.find("]") + 1 if text.startswith("[") else 0
    authority = re.split(r"[/?#,()\s\"'<>]", text[after:], maxsplit=1)[0]
    host, colon, port = authority.partition(":")
    port = port.rstrip(".:;")
    if not colon or not port or (port.isascii() and port.isdigit()):
        return text
    return f"{text[:after]}{host}:{MASK}"


def _mask_bare(text: str) -> str:
    """``a:b@c`` without a scheme in front."""
    words = re.split(r"(\s+)", text)
    for index, word in enumerate(words):
        colon, at = word.find(":"), word.rfind("@")
        if 0 <= colon < at:
            words[index] = f"{word[: colon + 1]}{MASK}{word[at:]}"
    return "".join(words)


class Source:
    """The text that an error is about; errors show it masked and shortened."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        shown = redact(self._text, keep_users=False)
        if not shown.isprintable():
            shown = shown.encode("ascii", "backslashreplace").decode()
            shown = shown.replace("\r", "\\r").replace("\n", "\\n").replace("\t", "\\t")
        return shown if len(shown) <= SHOWN else shown[:SHOWN] + "…"

    def error(self, message: str) -> ConfigurationError:
        return ConfigurationError(f"{message}; in {self}" if self._text else message)
