"""Takes passwords out of text before anybody sees it.

Rules:
* What is shown of a URI that parsed is built from its parts elsewhere, exactly. `redact` is for
  everything else: foreign error texts, log lines, URIs that do not parse. It never fails, works on
  any string in linear time, and in doubt masks too much: a lost host name is an annoyance, a shown
  password is an incident.
* A user name is kept only where it is certain to be one; error texts about a URI keep none.
* A query value is masked by the name of its option, or when it holds (also encoded) an ``@``.
* Text that was masked before stays as it is: an error is often masked where it is made, and again
  where it is told, and what it says behind a URI must not be lost to a later ``@``.
"""

from __future__ import annotations

import bisect
import re
import sys
from urllib.parse import unquote

from understudy.errors import ConfigurationError

__all__ = ["MASK", "Source", "is_secret", "redact"]

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

# What has been masked before: a userinfo with the host behind it, one that was cut off, a value.
MASKED = re.compile(r"(?:[\w.~%+=!$&-]*:)?\*\*@[^\s@]*(?=\s|$)")
MASKED_CUT = re.compile(r"[^/?#,()\s\"'<>:]*:\*\*(?=[\s\"']|$)")
MASKED_VALUE = re.compile(r"\*\*[\"'):;.,]*")
CLEAN_USER = re.compile(r"[\w.~%+=!$&-]*")
OPTION_NAME = re.compile(r"(?:^|[?&\s,(])([^=&?\s,(]*)=")
END_OF_PAIR = re.compile(r"&")
END_OF_WORD = re.compile(r"[&\s]")
# Inside a value: the next address of the list that it stands in, or the end of that list.
KNOWN = "|".join(map(re.escape, sorted(LIST_SCHEMES)))
NEXT_MEMBER = re.compile(rf"(?<!\))\)*,(?:{KNOWN}):(?://|\()|(?<!\))\)+(?=[&\s]|$)", re.I)
ENCODED_AT = re.compile(r"%(?:25)*40")
COMPOSITE_COLON = re.compile(r"(?:failover|static|masterslave|discovery|fanout):$", re.IGNORECASE)
LIST_OPENING = re.compile(
    r"(?:(?:failover|static|masterslave|discovery|fanout):(?://)?\(?\s*)*", re.IGNORECASE
)
MASKED_WORD = re.compile(
    rf"(?<=\s)[\"'(]*{LIST_OPENING.pattern}\*{{2,}}@(?=[^@\s]*(?:\s|$))", re.IGNORECASE
)
MASKED_BARE = re.compile(
    rf"[\"'(]*(?:\*\*)?{LIST_OPENING.pattern}[A-Za-z0-9+.-]*:(?://)?\*\*", re.IGNORECASE
)


def is_secret(name: str) -> bool:
    """Whether the value of an option of this name must not be shown."""
    return SECRET_NAME.search(name) is not None


def redact(text: str, *, strict: bool = False) -> str:
    """The same text without passwords; any string will do.

    ``strict`` takes the whole text for one URI: blanks end nothing, and no user name is kept.
    """
    text = _mask_values(text, strict)
    starts = _addresses(text)
    if not starts:
        return _mask_bare(text, strict)
    first = starts[0][0]
    trusted = not strict or LIST_OPENING.fullmatch(text[:first]) is not None
    pieces = [_mask_bare(text[:first], strict) if trusted else MASK]
    for index, (begin, end) in enumerate(starts):
        until = starts[index + 1][0] if index + 1 < len(starts) else len(text)
        scheme = text[begin : end - 3].lower()
        if trusted or scheme in LIST_SCHEMES:
            pieces.append(text[begin:end])
        pieces.append(_mask_address(scheme, text[end:until], strict))
    return "".join(pieces)


def _mask_values(text: str, strict: bool) -> str:
    """Masks ``name=value`` by name, up to where the value ends at the latest."""
    ends = _positions(END_OF_PAIR if strict else END_OF_WORD, text)
    members = [] if strict else _positions(NEXT_MEMBER, text)
    encoded = _positions(ENCODED_AT, text)
    pieces, position = [], 0
    while (found := OPTION_NAME.search(text, position)) is not None:
        begin = found.end()
        end = min(_next(ends, begin), _next(members, begin), len(text))
        pieces.append(text[position:begin])
        position = begin
        if MASKED_VALUE.fullmatch(text, begin, end):
            continue
        if is_secret(unquote(found[1])) or _next(encoded, begin) < end:
            # an "@" stays visible to what masks userinfos: the name may be half a password itself
            pieces.append(f"{MASK}@{MASK}" if text.find("@", begin, end) >= 0 else MASK)
            position = end
    return "".join([*pieces, text[position:]])


def _positions(pattern: re.Pattern[str], text: str) -> list[int]:
    return [found.start() for found in pattern.finditer(text)]


def _next(positions: list[int], begin: int) -> int:
    index = bisect.bisect_left(positions, begin)
    return positions[index] if index < len(positions) else sys.maxsize


def _addresses(text: str) -> list[tuple[int, int]]:
    """Where addresses begin and where their ``scheme://`` ends."""
    starts: list[tuple[int, int]] = []
    mark = text.find("://")
    while mark >= 0:
        begin = mark
        while begin and mark - begin < LONGEST_SCHEME and text[begin - 1] in SCHEME_CHARACTERS:
            begin -= 1
        apart = begin == 0 or text[begin - 1] in BEFORE_AN_ADDRESS
        inside = bool(starts) and begin == starts[-1][1]  # failover://amqp://...
        inside = inside or COMPOSITE_COLON.search(text[max(0, begin - 16) : begin]) is not None
        known = text[begin:mark].lower() in LIST_SCHEMES
        if (known or not starts) and (apart or inside):
            starts.append((begin, mark + 3))
        mark = text.find("://", mark + 3)
    return starts


def _mask_address(scheme: str, text: str, strict: bool) -> str:
    line, newline, rest = text.partition("\n")
    if not strict and (masked := MASKED.match(line) or MASKED_CUT.match(line)):
        end = masked.end()
        return line[:end] + _mask_bare(line[end:], strict) + newline + rest
    # An at sign of a later word that was masked is not this address's own.
    own = line if strict else MASKED_WORD.sub(lambda found: found[0].replace("@", "*"), line)
    at = own.rfind("@")
    if at < 0:
        return _mask_cut(line) + newline + rest
    user, colon, _ = line[:at].partition(":")
    if not strict and CLEAN_USER.fullmatch(user) and (colon or scheme in NAMED_USERS):
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


def _mask_bare(text: str, strict: bool) -> str:
    """``a:b@c`` without a scheme in front."""
    words = [text] if strict else re.split(r"(\s+)", text)
    for index, word in enumerate(words):
        colon, at = word.find(":"), word.rfind("@")
        if 0 <= colon < at and (strict or not MASKED_BARE.fullmatch(word, 0, at)):
            words[index] = f"{word[: colon + 1]}{MASK}{word[at:]}"
    return "".join(words)


class Source:
    """The text that an error is about; errors show it masked and shortened."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        shown = redact(self._text, strict=True)
        if not shown.isprintable():
            shown = shown.encode("ascii", "backslashreplace").decode()
            shown = shown.replace("\r", "\\r").replace("\n", "\\n").replace("\t", "\\t")
        return shown if len(shown) <= SHOWN else shown[:SHOWN] + "…"

    def quote(self, piece: str) -> str:
        """A name out of the text for an error; a piece of a password that split there is masked."""
        known = not self._text or piece in redact(self._text, strict=True)
        return piece[:60] if known and piece.isprintable() and "@" not in piece else MASK

    def error(self, message: str) -> ConfigurationError:
        return ConfigurationError(f"{message}; in {self}" if self._text else message)
