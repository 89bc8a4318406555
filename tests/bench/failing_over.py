"""How long a failover takes, beside a bare connect to the same node; the same for every host.

The first broker stands behind a proxy that ends the connection when it sees the next publish, with
FIN and RST in turns: a broker that is killed frees its memory first, which is not our time. The
proxy starts the clock itself, right before the end leaves it, so that waking its thread does not
count. The second broker is reached directly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Literal

from tests.bench.lab import Address, Lab
from tests.bench.outcome import Bar, Case, Outcome, Step, compare, taking_turns

from understudy.failover.supervisor import Supervisor
from understudy.testing import FaultProxy, wait_until
from understudy.testing.frames import BASIC_PUBLISH

__all__ = ["Host", "How", "cut_at_publish", "failover_cases"]

SETTLE = 0.05  # s between a connection's birth and its cut, and behind each round
ROUNDS = 41

How = Literal["fin", "rst"]


@dataclass(frozen=True)
class Host:
    """What a host library's adapter has to show here."""

    name: str
    library: str
    #: two brokers of this host's protocol
    addresses: Callable[[Lab], tuple[Address, Address]]
    #: a failover URI -> our connection, which has sent one confirmed message
    open: Callable[[str], AbstractContextManager[Any]]
    #: send one more confirmed message on it
    send: Callable[[Any], None]
    supervisor: Callable[[Any], Supervisor[Any]]
    #: arm the proxy: end the connection at the next publish, in this way, calling this right before
    arm: Callable[[FaultProxy, How, Callable[[], object]], object]
    #: a plain URI -> the bare library's connection, connected and with one confirmed message sent
    bare: Callable[[str], AbstractContextManager[Any]]


def cut_at_publish(proxy: FaultProxy, how: How, then: Callable[[], object]) -> None:
    """The arming of AMQP hosts."""
    proxy.cut_on(BASIC_PUBLISH, direction="up", how=how, then=then)


class Latencies:
    def __init__(
        self, host: Host, proxy: FaultProxy, a: Address, b: Address, *, backup: bool
    ) -> None:
        self._host = host
        self._proxy = proxy
        self._first = a.through(proxy)
        self._standby = b
        self._backup = backup

    def failover(self, number: int) -> float:
        """ms from the end of the old connection to the next confirmed message."""
        # closeTimeout plays no part here; in kombu another value makes it another logical broker,
        # which begins on the first endpoint again
        options = (
            f"randomize=false&initialReconnectDelay=0&closeTimeout={5000 + number}"
            f"&backup={str(self._backup).lower()}"
        )
        uri = f"failover:({self._first},{self._standby.uri})?{options}"
        with self._host.open(uri) as connection:
            supervisor = self._host.supervisor(connection)
            if self._backup and not wait_until(lambda: supervisor._spares.endpoints):
                raise TimeoutError("the spare connection did not come up")
            time.sleep(SETTLE)
            cuts: list[float] = []
            how: How = "fin" if number % 2 else "rst"
            self._host.arm(self._proxy, how, lambda: cuts.append(time.perf_counter()))
            self._host.send(connection)
            end = time.perf_counter()
            if supervisor.current is None or supervisor.current.port != self._standby.port:
                raise RuntimeError(f"no failover has happened: {supervisor!r}")
        supervisor.close()
        time.sleep(SETTLE)
        return (end - cuts[0]) * 1000

    def bare(self, _number: int) -> float:
        """ms of the bare library's connect up to its first confirmed message."""
        start = time.perf_counter()
        with self._host.bare(self._standby.uri):
            end = time.perf_counter()
        time.sleep(SETTLE)
        return (end - start) * 1000


def failover(
    host: Host, backup: bool, name: str, bar: Bar, lab: Lab, rounds: int, step: Step
) -> list[Outcome]:
    a, b = host.addresses(lab)
    with FaultProxy(a.host, a.port) as proxy:
        latencies = Latencies(host, proxy, a, b, backup=backup)
        latencies.failover(-1)
        latencies.bare(-1)
        mine, theirs = taking_turns(rounds, latencies.failover, latencies.bare, step)
    value, spread = compare(mine, theirs)
    note = (
        f"initialReconnectDelay=0&backup={str(backup).lower()}: FIN or RST to the next confirmed "
        f"message, beside {host.library}'s connect to its first confirmed message"
    )
    slowest = f"slowest failover {max(mine):.2f} ms, slowest bare connect {max(theirs):.2f} ms"
    return [
        Outcome(
            name,
            f"{median(mine):.2f} ms",
            f"{median(theirs):.2f} ms",
            value,
            "x",
            bar,
            spread,
            (note, slowest),
            details={"ours_ms": mine, "peer_ms": theirs},
        )
    ]


def failover_cases(host: Host) -> tuple[Case, ...]:
    def case(name: str, backup: bool, bar: Bar) -> Case:
        return Case(name, ROUNDS, partial(failover, host, backup, name, bar))

    return (
        case(f"{host.name}-failover", False, Bar(2.0, at_most=True)),
        case(f"{host.name}-failover-backup", True, Bar(1.0, at_most=True)),
    )
