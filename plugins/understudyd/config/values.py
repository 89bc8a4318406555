"""Single values of the configuration: text or TOML in, a checked value out.

Every reader raises `Bad`, which says what would be valid; it never repeats the value. A value that
comes from a variable is always text (`Said`), which readers of numbers, lists and the like parse.
"""

from __future__ import annotations

import ipaddress
import json
import re
import shlex
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from understudy import ConfigurationError, parse
from understudy.core.option_reader import nearest
from understudy.core.redact import redact
from understudyd.config.model import Network, Place, Secret

__all__ = [
    "NUL",
    "Bad",
    "Said",
    "argv",
    "at_least",
    "choice",
    "dotted",
    "duration",
    "duration_up_to",
    "flag",
    "lock",
    "name",
    "network",
    "number",
    "place",
    "secret",
    "several",
    "size",
    "text",
    "uri",
    "whole",
]

T = TypeVar("T")

NUL = "must be without a NUL character, which no program can be given"
SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
SIZE = re.compile(r"([0-9]{1,9})(KiB|MiB|GiB|TiB)")
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
LONGEST = 86_400.0  # s; a day, to catch a unit too large
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
BARE = re.compile(r"[A-Za-z0-9_-]+")
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:")


class Bad(ValueError):
    """What would be valid."""


class Said(str):
    """The text of a variable."""

    __slots__ = ()


def text(value: object) -> str:
    if not isinstance(value, str):
        raise Bad("must be a text that is not empty, in quotes")
    if not value.strip():
        raise Bad("must be a text that is not empty")
    if "\0" in value:
        raise Bad(NUL)
    return str(value)


def name(value: object) -> str:
    word = text(value)
    if CONTROL.search(word):
        raise Bad("must be without control characters, as a new line or a tab")
    return word


def whole(lowest: int, highest: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, Said) and re.fullmatch(r"-?[0-9]{1,9}", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise Bad(f"must be a whole number from {lowest} to {highest}{_unquoted(value)}")
        return value

    return read


def number(lowest: float, highest: float) -> Callable[[object], float]:
    def read(value: object) -> float:
        if isinstance(value, Said) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
            value = float(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not lowest <= value <= highest:  # type: ignore[operator]
            raise Bad(f"must be a number from {lowest:g} to {highest:.10g}{_unquoted(value)}")
        return float(value)  # type: ignore[arg-type]

    return read


def flag(value: object) -> bool:
    if isinstance(value, Said):
        value = {"true": True, "false": False}.get(value.casefold(), value)
    if not isinstance(value, bool):
        raise Bad(f"must be true or false{_unquoted(value)}")
    return value


def _unquoted(value: object) -> str:
    is_said = isinstance(value, Said)
    return ", without quotes" if isinstance(value, str) and not is_said else ""


def choice(valid: Iterable[str], what: str) -> Callable[[object], str]:
    names = tuple(valid)

    def read(value: object) -> str:
        if value not in names:
            near = nearest(value, names) if isinstance(value, str) else ""
            raise Bad(f"is no {what} (valid: {', '.join(names)}){near}")
        return str(value)

    return read


def duration(value: object) -> float:
    """Seconds, above 0."""
    return _seconds(value, LONGEST, "a day")


def duration_up_to(longest: float) -> Callable[[object], float]:
    """Seconds, above 0; for what may last longer than a day, ``longest`` in seconds."""

    def read(value: object) -> float:
        return _seconds(value, longest, f"{longest / 3600:g}h")

    return read


def _seconds(value: object, longest: float, told: str) -> float:
    found = DURATION.fullmatch(value) if isinstance(value, str) else None
    seconds = float(found[1]) * UNITS[found[2]] if found else 0.0
    if not 0 < seconds <= longest:
        raise Bad(f'must be a duration with its unit, as "20s", "500ms" or "2m", up to {told}')
    return seconds


def at_least(shortest: float) -> Callable[[object], float]:
    """Seconds, of a duration."""

    def read(value: object) -> float:
        seconds = duration(value)
        if seconds < shortest:
            raise Bad(f"must be {1000 * shortest:g}ms or longer")
        return seconds

    return read


def size(smallest: int) -> Callable[[object], int]:
    """Bytes, of a number with its unit."""

    def read(value: object) -> int:
        found = SIZE.fullmatch(value) if isinstance(value, str) else None
        bytes_ = int(found[1]) * SIZES[found[2]] if found else 0
        if bytes_ < smallest:
            least = smallest >> 20
            raise Bad(f'must be a size with its unit, as "500MiB" or "1GiB", from {least}MiB on')
        return bytes_

    return read


def place(value: object) -> Place:
    valid = Bad('must be host:port, as "10.0.0.1:8801" or "[::1]:8801"')
    if not isinstance(value, str):
        raise valid
    head, _, port = value.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise valid
    if head.startswith("[") and head.endswith("]"):
        try:
            return Place(str(ipaddress.IPv6Address(head[1:-1])), int(port))
        except ValueError:
            raise valid from None
    if not HOST.fullmatch(head):
        raise valid
    return Place(head, int(port))


def argv(value: object) -> tuple[str, ...]:
    """A command: a list of words, or one text that is split as a shell would."""
    valid = Bad('must be a command: ["program", "argument"] or "program argument"')
    if isinstance(value, str):
        try:
            value = shlex.split(value)
        except ValueError as exc:
            raise Bad(f"is no command: {exc}") from None
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        raise valid
    if any("\0" in word for word in value):
        raise Bad(NUL)
    if not value[0]:
        raise valid
    return tuple(value)


def network(value: object) -> Network:
    try:
        return ipaddress.ip_network(text(value), strict=False)
    except ValueError:
        raise Bad('must be addresses or networks, as "10.0.0.7" or "10.0.0.0/8"') from None


def several(
    read: Callable[[object], T], example: str = "10.0.0.0/8"
) -> Callable[[object], tuple[T, ...]]:
    """A list; in a variable, separated by commas. ``example`` is told of one entry."""

    def read_all(value: object) -> tuple[T, ...]:
        if isinstance(value, Said):
            value = [word.strip() for word in value.split(",")]
        if not isinstance(value, list):
            raise Bad(f'must be a list, as ["{example}"]')
        return tuple(read_one(number, item) for number, item in enumerate(value, 1))

    def read_one(number: int, item: object) -> T:
        try:
            return read(item)
        except Bad as exc:
            raise Bad(f"number {number}: {exc}") from None

    return read_all


def secret(value: object) -> Secret:
    word = text(value)
    if not re.fullmatch(r"[!-~]+", word):
        raise Bad("must be printable ASCII characters without blanks")
    return Secret(word)


def uri(value: object) -> Secret:
    """One broker."""
    address = text(value)
    try:
        endpoints = parse(address).endpoints
    except ConfigurationError as exc:
        raise Bad(f"is no broker's address: {exc}") from None
    if len(endpoints) != 1 or not endpoints[0].host:
        raise Bad("must be the address of one broker, as amqp://host:5672/vhost")
    return Secret(address, endpoints[0].redacted)


def lock(value: object) -> Secret:
    """A lock's address; which kinds there are is for `lock.open` to say."""
    address = text(value)
    if "\0" in unquote(address):
        raise Bad(NUL)
    if not SCHEME.match(address):
        raise Bad('must be a lock\'s address, as "file:/mnt/shared/orders.lock" or "redis://host"')
    try:
        urlsplit(address)
    except ValueError:
        raise Bad("is no address") from None
    return Secret(address, redact(address, strict=True))


def shown(value: Any) -> str:
    """A value for an error message: short, on one line, without passwords."""
    if isinstance(value, str):
        told = redact(str(value))
        return json.dumps(told if len(told) <= 80 else told[:80] + "…", ensure_ascii=False)
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return str(value).lower() if isinstance(value, bool) else str(value)


def dotted(path: Iterable[str]) -> str:
    """A key as TOML writes it."""
    return ".".join(name if BARE.fullmatch(name) else shown(name) for name in path)
