"""What the application gives to a Connection, read or refused with what would be right. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stomp.listener import ConnectionListener

from understudy import discovery
from understudy.core.option_reader import nearest
from understudy.core.uri import FailoverURI, parse
from understudy.errors import ConfigurationError
from understudy.failover import fanout
from understudy.failover.without_effect import warn_without_effect
from understudy.stomp.dialing import SCHEMES

__all__ = [
    "Address",
    "check_ack_mode",
    "check_body",
    "check_heartbeats",
    "check_listener",
    "read_address",
]

#: a URI, or a list of URIs and of stomp.py's (host, port)
Address = str | Iterable[str | tuple[str, int]]

ACK_MODES = ("auto", "client", "client-individual")
OURS = ("on_interrupted", "on_resumed")  # calls of listeners that stomp.py does not know
CALLS = tuple(name for name in dir(ConnectionListener) if name.startswith("on_")) + OURS
WITHOUT_EFFECT = {"blockedTimeout": "STOMP has no word for a broker that blocks its senders"}


def read_address(given: Address | None, options: Mapping[str, object] | None) -> FailoverURI:
    """Raises ConfigurationError."""
    if given is None:
        given = [("localhost", 61613)]  # stomp.py's own default
    if not isinstance(given, str):
        if isinstance(given, bytes | Mapping) or not isinstance(given, Iterable):
            raise _no_address(given)
        options = {"randomize": False, **(options or {})}  # stomp.py tries them in order
        given = f"failover:({','.join(map(_member, given))})"
    uri = parse(
        given,
        options=options,
        schemes=SCHEMES,
        member_options=(),
        agents=discovery.agent_schemes(),
    )
    if uri.scheme == "fanout":
        fanout.check(uri)
    warn_without_effect(uri, WITHOUT_EFFECT, "stomp.py")
    return uri


def _member(given: object) -> str:
    match given:
        case str():
            return given
        case (str() as host, int() | str() as port):
            return f"stomp://{f'[{host}]' if ':' in host else host}:{port}"
    raise _no_address(given)


def _no_address(given: object) -> ConfigurationError:
    return ConfigurationError(
        "the brokers must be a URI, or a list of URIs or of (host, port), as "
        f'[("mq1", 61613), ("mq2", 61613)]; {type(given).__name__} is none'
    )


def check_heartbeats(given: Any) -> tuple[int, int]:
    """Raises ConfigurationError."""
    if isinstance(given, Sequence) and len(given) == 2:
        out, into = given
        if all(type(one) is int and one >= 0 for one in (out, into)):
            return out, into
    raise ConfigurationError(
        "heartbeats must be two whole numbers of ms, out and in, as (10000, 10000) or (0, 0); "
        f"{given!r} is not"
    )


def check_ack_mode(mode: str) -> None:
    """Raises ConfigurationError; a broker would take it for auto, and acknowledge by itself."""
    if mode not in ACK_MODES:
        raise ConfigurationError(
            f"ack must be one of {', '.join(ACK_MODES)}; {mode!r} is not{nearest(mode, ACK_MODES)}"
        )


def check_listener(listener: object) -> None:
    """Raises TypeError for one that would never be called."""
    if not any(hasattr(listener, name) for name in CALLS):
        raise TypeError(
            f"a listener must have at least one of {', '.join(CALLS)}; "
            f"{type(listener).__name__} has none: derive it from stomp.ConnectionListener"
        )


def check_body(body: object) -> None:
    """Raises TypeError."""
    if not isinstance(body, str | bytes):
        raise TypeError(
            f"a body must be str or bytes, not {type(body).__name__}; encode it, as json.dumps does"
        )
