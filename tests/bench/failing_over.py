"""How long a failover takes, beside a bare connect to the same node.

The first broker stands behind a proxy that ends the connection when it sees the next publish, with
FIN and RST in turns: a broker that is killed frees its memory first, which is not our time. The
proxy starts the clock itself, right before the end leaves it, so that waking its thread does not
count. The second broker is reached directly.
"""

from __future__ import annotations

import time
from functools import partial
from statistics import median
from typing import Literal

from kombu import Connection, Producer
from tests.bench.lab import BODY, QUEUE, Lab, raw_connection
from tests.bench.outcome import Bar, Case, Outcome, Step, compare, taking_turns

from understudy.testing import FaultProxy, wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.frames import BASIC_PUBLISH

__all__ = ["CASES"]

SETTLE = 0.05  # s between a connection's birth and its cut, and behind each round


class Latencies:
    def __init__(self, proxy: FaultProxy, standby: RabbitMQ, *, backup: bool) -> None:
        self._proxy = proxy
        self._standby = standby
        self._backup = backup

    def failover(self, number: int) -> float:
        """ms from the end of the old connection to the next confirmed message."""
        # closeTimeout plays no part here; another value makes it another logical broker, which
        # begins on the first endpoint again
        first = f"amqp://guest:guest@{self._proxy.host}:{self._proxy.port}"
        options = (
            f"randomize=false&initialReconnectDelay=0&closeTimeout={5000 + number}"
            f"&backup={str(self._backup).lower()}"
        )
        with Connection(f"failover:({first},{self._standby.uri})?{options}") as connection:
            producer = Producer(connection)
            publish = partial(producer.publish, BODY, routing_key=QUEUE, delivery_mode=2)
            publish()
            supervisor = connection.transport.broker.supervisor
            if self._backup and not wait_until(lambda: supervisor._spares.endpoints):
                raise TimeoutError("the spare connection did not come up")
            time.sleep(SETTLE)
            cuts: list[float] = []
            how: Literal["fin", "rst"] = "fin" if number % 2 else "rst"
            self._proxy.cut_on(
                BASIC_PUBLISH,
                direction="up",
                how=how,
                then=lambda: cuts.append(time.perf_counter()),
            )
            publish()
            end = time.perf_counter()
            if supervisor.current.port != self._standby.port:
                raise RuntimeError(f"no failover has happened: {supervisor!r}")
        supervisor.close()
        time.sleep(SETTLE)
        return (end - cuts[0]) * 1000

    def bare(self, _number: int) -> float:
        """ms of connect, channel, confirm.select and one confirmed message in py-amqp."""
        import amqp

        message = amqp.Message(BODY, delivery_mode=2)
        start = time.perf_counter()
        connection = raw_connection(self._standby, confirm_publish=True)
        connection.connect()
        channel = connection.channel()
        channel.basic_publish(message, routing_key=QUEUE)  # sends confirm.select first, and waits
        end = time.perf_counter()
        connection.close()
        time.sleep(SETTLE)
        return (end - start) * 1000


def failover(name: str, backup: bool, bar: Bar, lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    a, b = lab.both()
    with FaultProxy(a.host, a.port) as proxy:
        latencies = Latencies(proxy, b, backup=backup)
        latencies.failover(-1)
        latencies.bare(-1)
        mine, theirs = taking_turns(rounds, latencies.failover, latencies.bare, step)
    value, spread = compare(mine, theirs)
    return [
        Outcome(
            name,
            f"{median(mine):.2f} ms",
            f"{median(theirs):.2f} ms",
            value,
            "x",
            bar,
            spread,
            (
                f"initialReconnectDelay=0&backup={str(backup).lower()}: FIN or RST to the next "
                "confirmed publish, beside py-amqp's connect to its first confirmed publish",
                f"slowest failover {max(mine):.2f} ms, slowest bare connect {max(theirs):.2f} ms",
            ),
            details={"ours_ms": mine, "peer_ms": theirs},
        )
    ]


CASES = (
    Case("failover", 41, partial(failover, "failover", False, Bar(2.0, at_most=True))),
    Case("failover-backup", 41, partial(failover, "failover-backup", True, Bar(1.0, at_most=True))),
)
