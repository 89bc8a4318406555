"""In which order the endpoints of one pass are tried (activemq.md 1.3, F12, F13).

The list is computed anew for every pass, in these steps:

1. the configured endpoints, then the learned ones (pushed by a broker, discovered); equal ones are
   kept once, at their first place. The configured ones always stay: a pushed list adds, it never
   replaces (ActiveMQ before 5.16, and its ``reconnectTo``, lost the configured list);
2. shuffled if ``randomize``; ``static:`` and ``masterslave:`` lists are never random, their callers
   pass ``randomize=False``;
3. the ``current`` endpoint, if any, comes to the front: whoever reconnects without a fault stays;
4. the ``priority`` endpoints come before all others, on the very first connection too (ActiveMQ
   connected at random first and migrated later); among themselves they keep their order;
5. the endpoint whose established connection failed last goes to the end, also with
   ``randomize=False``, also if it is a priority one (a return to it is the priority timer's work)
   or the current one.

The result is a permutation of the distinct endpoints: nothing is added, nothing is left out. An
endpoint named by ``failed``, ``current`` or ``priority`` that is in no list is not tried.

Which one is meant: ``failed`` and ``current`` by equality and, where nothing is equal, by address,
because a connection may have been opened with more options than the list holds (ActiveMQ forgot the
failed one with ``nested.*``). ``priority`` always by address (activemq.md 1.9): priorityURIs seldom
repeat credentials or options. An address is host and port, or the whole URI where there is no host.

Moves keep the order of the rest (stable partitions), so one draw of the generator decides it all;
whether processes, connections or passes share a draw is decided by who owns the generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from understudy.core.endpoint import Endpoint

if TYPE_CHECKING:
    from random import Random

__all__ = ["connect_list", "place"]


def connect_list(
    configured: Sequence[Endpoint],
    learned: Iterable[Endpoint],
    failed: Endpoint | None,
    randomize: bool,
    rng: Random,
    priority: Iterable[Endpoint] = (),
    current: Endpoint | None = None,
) -> tuple[Endpoint, ...]:
    """The endpoints of the next pass, the first to try first.

    ``failed`` is the one whose established connection failed last, ``current`` the one that should
    be kept, ``priority`` the set to be preferred (empty without priorityBackup). ``rng`` is used
    only with ``randomize``, for exactly one shuffle.
    """
    endpoints = list(dict.fromkeys((*configured, *learned)))
    if randomize:
        rng.shuffle(endpoints)
    if current is not None:
        endpoints = _first(endpoints, _meant_by(current, endpoints))
    preferred = {place(endpoint) for endpoint in priority}
    if preferred:
        endpoints = _first(endpoints, lambda endpoint: place(endpoint) in preferred)
    if failed is not None:
        is_failed = _meant_by(failed, endpoints)
        endpoints = _first(endpoints, lambda endpoint: not is_failed(endpoint))
    return tuple(endpoints)


def _first(endpoints: list[Endpoint], wanted: Callable[[Endpoint], bool]) -> list[Endpoint]:
    return sorted(endpoints, key=lambda endpoint: not wanted(endpoint))


def _meant_by(named: Endpoint, endpoints: list[Endpoint]) -> Callable[[Endpoint], bool]:
    if named in endpoints:
        return lambda endpoint: endpoint == named
    address = place(named)
    return lambda endpoint: place(endpoint) == address


def place(endpoint: Endpoint) -> tuple[object, ...]:
    """Host and port as identity spells them (loopback names, default ports): which broker it is."""
    return endpoint.identity[1:3] if endpoint.host else (endpoint.uri,)
