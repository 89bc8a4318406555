"""What the options of an end's URI mean to a bridge. No I/O.

    order of the members     masterslave: and static: as they are listed, the one that failed last;
                             failover: at random unless randomize=false
    delays between passes    initialReconnectDelay (100 ms here), maxReconnectDelay (5 s here),
                             useExponentialBackOff, backOffMultiplier, reconnectDelayJitter
    one member               connectTimeout; heartbeat, which a member may override
    maxReconnectAttempts     passes that may fail in a row, at first startupMaxReconnectAttempts;
                             then the link gives up; reconnect=false: also when it is lost
    priorityBackup           priorityURIs, or the first member: gone back to when it is stable
    blockedTimeout           how long a target may be blocked by an alarm before it is left
    discovery:, updateURIs*  asked before every pass for further members; discovered.allow as ever

Every other option is refused where it is given, with the reason: none is without effect.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from understudy import FailoverURI, discovery
from understudy.core.backoff import Backoff
from understudy.core.endpoint import Endpoint
from understudy.core.member import CORE_SCHEMES
from understudy.core.order import place
from understudy.core.uri import parse_members
from understudy.errors import ConfigurationError
from understudyd.bridge.patience import Limits

__all__ = [
    "STOMP_SCHEMES",
    "backoff_of",
    "blocked_time_of",
    "check",
    "limits_of",
    "members_of",
    "priority_of",
    "speaks_stomp",
]

STOMP_SCHEMES: Final = frozenset({"stomp", "stomp+ssl"})

INITIAL_DELAY: Final = 100  # ms
LONGEST_DELAY: Final = 5_000  # ms, as shovel's

_CONFIRMED = "a bridge sends every message until it is confirmed; see hold_time"
_STAYS = "a bridge leaves a broker when it is lost, or for a preferred one"

_REFUSED: Final = {
    **dict.fromkeys(
        ("timeout", "closeTimeout", "trackMessages", "maxCacheSize", "confirms"), _CONFIRMED
    ),
    "trackTransactionProducers": "a bridge uses no transactions",
    **dict.fromkeys(("backup", "backupPoolSize"), "a bridge holds no spare connections"),
    **dict.fromkeys(("rebalanceUpdateURIs", "reconnectSupported"), _STAYS),
    "warnAfterReconnectAttempts": "a bridge logs each change of its state",
    **dict.fromkeys(("minAckCount", "fanOutQueues"), "a bridge has one target"),
}


def speaks_stomp(uri: FailoverURI) -> bool:
    """Whether an end is of STOMP; what is not said to be is of AMQP."""
    return any(endpoint.scheme in STOMP_SCHEMES for endpoint in uri.endpoints)


def check(uri: FailoverURI) -> None:
    """Raise ConfigurationError for what a bridge cannot do, or would not heed."""
    if uri.scheme == "fanout":
        raise ConfigurationError(
            f"{uri} means several brokers at once: {_REFUSED['minAckCount']}; write a bridge for "
            "each"
        )
    discovery.check(uri)
    for name, origin in uri.origins.items():
        why = _REFUSED.get(name)
        if origin != "default" and why:
            raise ConfigurationError(f"{uri}: {name} has no effect here: {why}; leave it out")


def backoff_of(uri: FailoverURI) -> Backoff:
    """The delays between passes over the members."""
    backoff = Backoff.of(uri.options)
    if uri.origins.get("initialReconnectDelay", "default") == "default":
        backoff = replace(backoff, initial_ms=float(INITIAL_DELAY))
    if uri.origins.get("maxReconnectDelay", "default") == "default":
        backoff = replace(backoff, maximum_ms=float(LONGEST_DELAY))
    return backoff


def limits_of(uri: FailoverURI) -> Limits:
    """How often it may fail to be connected."""
    options = uri.options
    first, later = (options.max_passes(startup=is_first) for is_first in (True, False))
    return Limits(first, later, options.reconnect)


def blocked_time_of(uri: FailoverURI) -> float | None:
    """Seconds; None: it is never left for that."""
    limit = uri.options.blocked_timeout
    return None if limit < 0 else limit / 1000


def members_of(
    uri: FailoverURI, endpoints: Iterable[Endpoint] | None = None
) -> tuple[Endpoint, ...]:
    """The members, or these, each with the list's heartbeat where it has none of its own."""
    beat = uri.options.heartbeat
    return tuple(
        one
        if one.options.heartbeat is not None
        else replace(one, options=replace(one.options, heartbeat=beat))
        for one in (uri.endpoints if endpoints is None else endpoints)
    )


def priority_of(uri: FailoverURI) -> tuple[Endpoint, ...]:
    """The members to return to; empty without priorityBackup."""
    members = members_of(uri)
    if not uri.options.priority_backup:
        return ()
    if not uri.options.priority_uris:
        return members[:1]
    text = ",".join(uri.options.priority_uris)
    named = parse_members(text, schemes={one.scheme for one in members} | CORE_SCHEMES)
    places = {place(one) for one in named}
    return tuple(one for one in members if place(one) in places)
