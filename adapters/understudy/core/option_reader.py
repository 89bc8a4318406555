"""Reads options from a URI and from the library's own, and says what is wrong with them.

Rules, beside those of `options`: aliases are the same option (given both, the values must agree);
Qpid's own names are taken with its prefix where they mean the same thing, and refused with the
nearest name of ours where they do not.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from understudy.core.options import OPTIONS, Kind, Option, Options, problem_of, shown_value
from understudy.core.redact import Source
from understudy.errors import ConfigurationError

__all__ = ["build", "is_option", "nearest", "read_value"]

FIELDS = {option.field: option.name for option in OPTIONS.values()}
MAPS = ("nested", "discovered")
FANOUT_ONLY = frozenset({"minAckCount", "fanOutQueues"})

PREFIX = "failover."
ALIASES = {"reconnectDelayExponent": "backOffMultiplier"}
QPID_ALIASES = {  # legal with the prefix only
    "useReconnectBackOff": "useExponentialBackOff",
    "reconnectBackOffMultiplier": "backOffMultiplier",
}
# Names that other clients have, where difflib would guess wrong.
HINTS = {
    **QPID_ALIASES,
    "reconnectDelay": "initialReconnectDelay",  # one value here: the first delay, which then grows
    "amqpOpenServerListAction": "updateURIsSupported",
    "connectionTimeout": "connectTimeout",
    "maxInactivityDuration": "heartbeat",
    "wireFormat.maxInactivityDuration": "heartbeat",
    "maxTimeout": "timeout",
}


def nearest(name: str, names: Iterable[str]) -> str:
    """``"; did you mean x?"``, or nothing."""
    plain = {valid.casefold(): valid for valid in names}
    found = difflib.get_close_matches(name[:80].casefold(), plain, n=1, cutoff=0.6)
    return f"; did you mean {plain[found[0]]}?" if found else ""


def read_value(option: Option, value: object) -> object:
    """A value as written in a URI, or as a Python object from the library's options."""
    if isinstance(value, str):
        return _read_text(option.kind, value)
    if option.kind == "list" and isinstance(value, Sequence) and not isinstance(value, bytes):
        return tuple(value)
    if option.kind == "factor" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _read_text(kind: Kind, text: str) -> object:
    """Converts what is convertible; the rest stays text and is refused by `problem_of`."""
    if kind == "flag":
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind in ("ms", "count", "bytes") and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    if kind == "factor" and re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{0,18})?", text):
        return float(text)
    if kind == "list":
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text


def _resolve(name: str, *, python_names: bool) -> str | None:
    """The canonical wire name, or None."""
    bare = name.removeprefix(PREFIX)
    if python_names and bare in FIELDS and not FIELDS[bare].endswith(".*"):
        return FIELDS[bare]
    bare = ALIASES.get(bare, bare)
    if name.startswith(PREFIX):
        bare = QPID_ALIASES.get(bare, bare)
    if bare in OPTIONS and not bare.endswith(".*"):
        return bare
    prefix, _, key = bare.partition(".")
    return bare if prefix in MAPS and re.fullmatch(r"[\w.-]+", key) else None


def is_option(name: str) -> bool:
    """Whether a URI may carry an option of this name."""
    return _resolve(name, python_names=False) is not None


def unknown(name: str, value: object, source: Source) -> ConfigurationError:
    """The error for a name that is no option of ours."""
    bare = name.removeprefix(PREFIX)
    valid = [*OPTIONS, *ALIASES]
    hint = f"; did you mean {HINTS[bare]}?" if bare in HINTS else nearest(bare, valid)
    listed = "" if hint else f" (valid: {', '.join(sorted(valid, key=str.lower))})"
    return source.error(
        f'unknown option "{source.quote(name)}" with value {shown_value(name, value)}{hint}{listed}'
    )


def _collect(
    pairs: Iterable[tuple[str, object]], source: Source, *, python_names: bool
) -> dict[str, object]:
    """Canonical wire name -> converted value."""
    found: dict[str, object] = {}
    for name, raw in pairs:
        wire = _resolve(name, python_names=python_names)
        if wire is None:
            raise unknown(name, raw, source)
        value: object = raw
        if (option := OPTIONS.get(wire)) is not None:
            value = read_value(option, raw)
            if problem := problem_of(option, value):
                raise source.error(f"option {name} must be {option.valid}; {problem}")
        elif isinstance(raw, bool | int | float):
            value = str(raw).lower()
        elif not isinstance(raw, str) or not raw.isprintable():
            raise source.error(f"option {name} must be printable text")
        if wire in found and found[wire] != value:
            same = "" if name == wire else f" ({name} is the same option as {wire})"
            raise source.error(f"option {wire} is given twice with different values{same}")
        found[wire] = value
    return found


def _library_pairs(library: Mapping[str, object]) -> Iterable[tuple[str, object]]:
    for name, value in library.items():
        if name in MAPS and isinstance(value, Mapping):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        elif value is not None:
            yield str(name), value


def build(
    pairs: Iterable[tuple[str, str]],
    library: Mapping[str, object] | None,
    source: Source,
    *,
    scheme: str,
    ordered: bool = False,
) -> tuple[Options, dict[str, str]]:
    """The options of one URI and where each came from; ``ordered`` forbids a random order."""
    written = _collect(pairs, source, python_names=False)
    given = _collect(_library_pairs(library or {}), Source(""), python_names=True)
    if scheme != "fanout" and (misplaced := FANOUT_ONLY & written.keys()):
        raise source.error(f"{', '.join(sorted(misplaced))} is for fanout: only, not {scheme}:")
    if ordered and written.setdefault("randomize", False):
        raise source.error("masterslave: keeps the listed order, so randomize=true is refused")
    origins = dict.fromkeys((name for name in OPTIONS if not name.endswith(".*")), "default")
    origins |= dict.fromkeys(given, "options") | dict.fromkeys(written, "URI")
    values: dict[str, Any] = {"nested": {}, "discovered": {}}
    for name, value in (given | written).items():
        if name in OPTIONS:
            values[OPTIONS[name].field] = value
        else:
            prefix, _, key = name.partition(".")
            values[prefix][key] = value
    return Options(**values), origins
