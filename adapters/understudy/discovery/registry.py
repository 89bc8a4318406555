"""Which agent an address means: ours, and those that other packages bring along."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import entry_points
from typing import TypeAlias

from understudy.core.redact import Source, redact
from understudy.core.uri import FailoverURI
from understudy.discovery.agent import DiscoveryAgent
from understudy.discovery.file import FileAgent
from understudy.discovery.http import HttpAgent
from understudy.discovery.multicast import MulticastAgent
from understudy.errors import ConfigurationError

__all__ = ["GROUP", "agent_schemes", "agents_of", "make_agent"]

GROUP = "understudy.discovery"

Factory: TypeAlias = Callable[[str], DiscoveryAgent]

OURS: Mapping[str, Factory] = {
    "file": FileAgent.of,
    "http": HttpAgent.of,
    "https": HttpAgent.of,
    "multicast": MulticastAgent.of,
}


@functools.cache
def _theirs() -> Mapping[str, Callable[[], Factory]]:
    """By scheme, what imports the factory; ours can't be replaced."""
    found = {point.name.lower(): point.load for point in entry_points(group=GROUP)}
    return {scheme: load for scheme, load in found.items() if scheme not in OURS}


def agent_schemes() -> frozenset[str]:
    """The schemes that may stand in ``discovery:(…)``."""
    return frozenset(OURS) | _theirs().keys()


def make_agent(address: str) -> DiscoveryAgent:
    """Raises ConfigurationError for an address that cannot be one of an agent's."""
    scheme = address.partition(":")[0].lower()
    if scheme in OURS:
        return OURS[scheme](address)
    load = _theirs().get(scheme)
    if load is None:
        valid = ", ".join(sorted(agent_schemes()))
        raise Source(address).error(f"that is no discovery agent (valid: {valid})")
    try:
        return load()(address)
    except ConfigurationError:
        raise
    except Exception as exc:  # of another package: anything
        shown = redact(address)
        raise ConfigurationError(f"the discovery agent {shown} cannot be made: {exc!r}") from exc


def agents_of(uri: FailoverURI) -> dict[str, DiscoveryAgent]:
    """All agents that this URI asks for, by what they are called in logs."""
    agents: dict[str, DiscoveryAgent] = {}
    for address in dict.fromkeys(uri.agents):
        agents[_label(address, agents)] = make_agent(address)
    place = uri.options.update_uris_url
    if place is not None and uri.options.update_uris_supported:
        is_address = place.partition(":")[0].lower() in ("file", "http", "https")
        agents[_label(place, agents)] = make_agent(place) if is_address else FileAgent(place)
    return agents


def _label(address: str, taken: Collection[str]) -> str:
    """Its own also where two addresses differ only in what must not be shown."""
    shown = redact(address)
    numbered = (f"{shown} ({number})" for number in itertools.count(2))
    return next(label for label in itertools.chain([shown], numbered) if label not in taken)
