"""The options of a failover URI.

Rules:
* The body of `Options` is the one table: field, wire name, default, valid range, meaning, and
  beside each default its reason or precedent. Parsing, error texts and the README come from it.
* Wire names are case-sensitive and may carry Qpid's prefix ``failover.``. Times are whole
  milliseconds, sizes bytes. A boolean is true or false, in any case: ActiveMQ takes ``yes``, ``1``
  and a bare flag for false, which surprises; we refuse them.
* Nothing is ignored: an unknown name, a bad value, one option twice with two values is a
  `ConfigurationError` that names the option, the value unless it may be a secret, what is valid,
  and the nearest valid name.
* Precedence: the URI, then the library's options (``transport_options["understudy"]``), where names
  may also be the Python ones; None there means "not given".
* ``initialReconnectDelay`` above ``maxReconnectDelay`` is legal, as in ActiveMQ, but capped by it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from understudy.core.redact import MASK, is_secret, redact
from understudy.errors import ConfigurationError

__all__ = ["OPTIONS", "Kind", "Option", "Options", "problem_of", "shown_value"]

Kind = Literal["ms", "count", "bytes", "factor", "flag", "list", "place", "map"]
ALLOW = "discovered.allow"
LARGEST = 2**31 - 1  # 24 days in ms; what poll() and every host library can still take


@dataclass(frozen=True)
class Option:
    """One row of the table."""

    name: str  # on the wire
    field: str  # in Python
    kind: Kind
    default: object
    meaning: str
    low: float = 0
    high: float = LARGEST
    special: tuple[int, ...] = ()  # legal below ``low``

    @property
    def valid(self) -> str:
        if self.kind == "flag":
            return "true or false"
        if self.name == ALLOW:
            return "host names, *.domains and CIDR networks, as 10.0.0.0/8, separated by commas"
        if self.kind in ("list", "place", "map"):
            return {
                "list": "values separated by commas",
                "place": "a file path, file:, http: or https: address",
                "map": "a mapping of names to values",
            }[self.kind]
        what = {"ms": "milliseconds", "bytes": "bytes", "factor": "a number"}.get(self.kind, "")
        also = "".join(f"{number} or " for number in self.special)
        return f"{also}{self.low:g} to {self.high:.10g} {what}".rstrip()


def _row(name: str, kind: Kind, default: object, meaning: str, **limits: Any) -> Any:
    metadata = {"name": name, "kind": kind, "meaning": meaning, **limits}
    if kind == "map":
        return field(default_factory=dict, hash=False, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True, repr=False)
class Options:
    """How to fail over. The defaults are ActiveMQ's where nothing else is said."""

    initial_reconnect_delay: int = _row(
        "initialReconnectDelay", "ms", 10, "first delay after a loss; 0 = at once"
    )
    max_reconnect_delay: int = _row(
        "maxReconnectDelay", "ms", 30000, "ceiling of the growing delay", low=1
    )
    use_exponential_back_off: bool = _row(
        "useExponentialBackOff", "flag", True, "grow the delay; false = always the first delay"
    )
    back_off_multiplier: float = _row(
        "backOffMultiplier", "factor", 2.0, "growth of the delay", low=1, high=1000
    )
    reconnect_delay_jitter: float = _row(  # ActiveMQ has none: all clients come back in step
        "reconnectDelayJitter", "factor", 0.5, "random part of each delay; 0 = exact", high=1
    )
    max_reconnect_attempts: int = _row(  # ActiveMQ before 5.6, and what its documents still say
        "maxReconnectAttempts", "count", 0, "passes before giving up; 0 or -1 = never", low=-1
    )
    startup_max_reconnect_attempts: int = _row(
        "startupMaxReconnectAttempts",
        "count",
        0,
        "the same for the very first connection; 0 or -1 = as maxReconnectAttempts",
        low=-1,
    )
    reconnect: bool = _row("reconnect", "flag", True, "false = never reconnect")  # ours
    reconnect_supported: bool = _row(
        "reconnectSupported", "flag", True, "obey an order of the cluster to move"
    )
    randomize: bool = _row("randomize", "flag", True, "random order; false = listed order")
    backup: bool = _row("backup", "flag", False, "hold ready spare connections")
    backup_pool_size: int = _row("backupPoolSize", "count", 1, "how many spares", low=1, high=1000)
    priority_backup: bool = _row(
        "priorityBackup", "flag", False, "go back to a priority endpoint when it is stable"
    )
    priority_uris: tuple[str, ...] = _row(
        "priorityURIs", "list", (), "the priority endpoints; none = the first of the list"
    )
    timeout: int = _row(
        "timeout", "ms", -1, "deadline of a send, outage included; -1 = none", low=1, special=(-1,)
    )
    connect_timeout: int = _row(  # a LAN handshake takes 3 ms; three lost SYNs take 3 to 7 s
        "connectTimeout", "ms", 5000, "one endpoint's TCP, TLS and protocol handshake", low=1
    )
    close_timeout: int = _row(  # below the 10 s that docker and Celery give a process to stop
        "closeTimeout", "ms", 5000, "what close() may wait for tracked messages"
    )
    heartbeat: int = _row(  # left after two: half of RabbitMQ's own 60 s would hide an outage
        "heartbeat", "ms", 10000, "heartbeat of every connection; 0 = off"
    )
    blocked_timeout: int = _row(  # stay: an alarm of one node blocks its whole cluster
        "blockedTimeout",
        "ms",
        -1,
        "how long a broker may stay blocked before it is left; -1 = stay",
        low=1,
        special=(-1,),
    )
    track_messages: bool = _row(
        "trackMessages", "flag", False, "sends return at once; the outbox resends until confirmed"
    )
    max_cache_size: int = _row(
        "maxCacheSize", "bytes", 131072, "unconfirmed bytes the outbox may hold", low=1
    )
    track_transaction_producers: bool = _row(
        "trackTransactionProducers", "flag", True, "replay transactions in flight"
    )
    confirms: bool = _row(  # ours; what was reported as sent must not get lost
        "confirms", "flag", True, "publisher confirms or receipts; false = fire and forget"
    )
    update_uris_supported: bool = _row(
        "updateURIsSupported", "flag", True, "accept endpoint lists pushed by the cluster"
    )
    update_uris_url: str | None = _row(
        "updateURIsURL", "place", None, "poll this file or URL for endpoints too"
    )
    rebalance_update_uris: bool = _row(
        "rebalanceUpdateURIs", "flag", True, "move when asked to rebalance"
    )
    warn_after_reconnect_attempts: int = _row(  # ActiveMQ; it also takes <= 0 for silence
        "warnAfterReconnectAttempts", "count", 10, "warn every so many failed passes; 0 = never"
    )
    min_ack_count: int = _row(
        "minAckCount", "count", 2, "fanout: brokers that must confirm a send", low=1
    )
    fan_out_queues: bool = _row(
        "fanOutQueues", "flag", False, "fanout: queue messages to all brokers, not to the first"
    )
    discovered_allow: tuple[str, ...] = _row(  # a forged list must collect no password
        ALLOW,
        "list",
        (),
        "hosts, *.domains and CIDR networks whose learned endpoints get the first member's login",
    )
    nested: Mapping[str, str] = _row("nested.*", "map", None, "added to every member's options")
    discovered: Mapping[str, str] = _row(
        "discovered.*", "map", None, "added to every learned endpoint's options"
    )

    def __post_init__(self) -> None:
        for option in OPTIONS.values():
            problem = problem_of(option, getattr(self, option.field))
            if problem:
                raise ConfigurationError(f"option {option.name} must be {option.valid}; {problem}")

    def max_passes(self, *, startup: bool) -> int | None:
        """Failed passes after which the caller gets the error; None = for ever."""
        limit = self.startup_max_reconnect_attempts if startup else 0
        limit = limit if limit > 0 else self.max_reconnect_attempts
        return limit if limit > 0 else None

    def text(self, name: str, *, redacted: bool = True) -> str:
        """The value of one option (``nested.x`` too) as it stands in a URI, before quoting."""
        prefix, _, key = name.partition(".")
        if name in OPTIONS:
            value = getattr(self, OPTIONS[name].field)
        else:
            value = getattr(self, prefix)[key]
        if redacted and is_secret(key):
            return MASK
        if isinstance(value, bool):
            return "true" if value else "false"
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        return redact(text) if redacted else text

    def __repr__(self) -> str:
        told = []
        for option in OPTIONS.values():
            value = getattr(self, option.field)
            if option.kind == "map":
                names = [f"{option.field}.{key}" for key in value]
            else:
                names = [option.name] if value != option.default else []
            told += [f"{name}={self.text(name)}" for name in names]
        return f"Options({', '.join(told)})"


OPTIONS: Mapping[str, Option] = {
    row.metadata["name"]: Option(
        field=row.name, default={} if row.metadata["kind"] == "map" else row.default, **row.metadata
    )
    for row in fields(Options)
}


def shown_value(name: str, value: object) -> str:
    """A value for an error text."""
    text = value if isinstance(value, str) else repr(value)
    if is_secret(name) or "@" in text or not isinstance(value, str | int | float | None):
        return MASK
    return f'"{redact(text[:40], strict=True)}"' if text.isprintable() else "unprintable text"


def problem_of(option: Option, value: object) -> str:
    """Why a converted value is none for this option; empty when it is fine."""
    fine: bool
    match option.kind:
        case "flag":
            fine = isinstance(value, bool)
        case "ms" | "count" | "bytes" | "factor":
            types = (int, float) if option.kind == "factor" else (int,)
            fine = isinstance(value, types) and not isinstance(value, bool)
            fine = fine and (option.low <= value <= option.high or value in option.special)  # type: ignore[operator]
        case "list":
            fine = isinstance(value, tuple) and all(
                isinstance(one, str) and one.isprintable() for one in value
            )
        case "place":
            fine = value is None or (isinstance(value, str) and _is_place(value))
        case "map":
            fine = isinstance(value, Mapping) and all(
                isinstance(part, str) for pair in value.items() for part in pair
            )
    if fine and option.name == ALLOW and isinstance(value, tuple):
        wrong = next((one for one in value if not _is_host_or_network(one)), None)
        if wrong is not None:  # an "@" beside it: all may be pieces of a password
            hidden = any("@" in one for one in value)
            return f"{MASK if hidden else shown_value(option.name, wrong)} is not"
    return "" if fine else f"{shown_value(option.name, value)} is not"


def _is_place(text: str) -> bool:
    scheme, colon, _ = text.partition(":")
    is_path = not colon or "/" in scheme or "\\" in scheme or len(scheme) == 1  # C:\uris
    return bool(text) and text.isprintable() and (is_path or scheme in ("file", "http", "https"))


def _is_host_or_network(text: str) -> bool:
    if "/" not in text:
        return re.fullmatch(r"\*|(\*\.)?[\w.:-]+", text) is not None
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
