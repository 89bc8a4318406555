"""The kombu adapter beside kombu: rates of publishing, nothing lost, and failing over.

Every message goes through kombu.Producer.publish, persistent, 1 KB, to the same durable queue of
the same node.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import amqp
from kombu import Connection, Producer, Queue
from tests.bench.failing_over import Host, cut_at_publish, failover_cases
from tests.bench.lab import BODY, QUEUE, Lab, purge, raw_connection
from tests.bench.outcome import Bar, Case, Outcome, Step
from tests.bench.racing import Racer, as_outcome, race

import understudy.kombu
from understudy.testing.brokers import RabbitMQ

__all__ = ["CASES"]

CONFIRMED = 1500  # messages of a round, about 0.7 s
TRACKED = 8000
UNCONFIRMED = 8000
SLICES = 30  # of a confirmed round
LONG_SLICES = 8  # of an unconfirmed round, whose slices end with a round trip
KILLED = 30_000  # sent in all; the broker dies in the middle
KILL_QUEUE = "understudy.bench.kill"
PATIENCE = 60.0  # s for a flush, outage included


def sender(
    stack: ExitStack,
    uri: str,
    count: int,
    finish: Callable[[Any], None],
    **transport_options: object,
) -> Racer:
    """One peer: a connection of its own, and what has to happen before the clock stops."""
    connection = Connection(uri, transport_options=transport_options)
    stack.enter_context(connection)
    publish = Producer(connection).publish
    # kombu itself publishes on the default channel; this one answers for the connection
    other_channel = connection.channel()

    def send(count: int) -> None:
        for _ in range(count):
            publish(BODY, exchange="", routing_key=QUEUE, delivery_mode=2)
        finish(other_channel)

    return Racer(send, count)


def already_done(_channel: Any) -> None:
    """Each publish has waited for its own confirm."""


def flushed(_channel: Any) -> None:
    if not understudy.kombu.flush(PATIENCE):
        raise TimeoutError(f"tracked messages were not confirmed within {PATIENCE:g} s")


def read_by_broker(channel: Any) -> None:
    """A round trip behind the last message on the same connection: the broker has read it."""
    channel.queue_declare(QUEUE, passive=True)


def _rates(
    name: str,
    lab: Lab,
    rounds: int,
    step: Step,
    *,
    options: str,
    finish: Callable[[Any], None],
    counts: tuple[int, int],
    slices: int,
    bar: Bar,
    peer_confirms: bool = True,
) -> list[Outcome]:
    node = lab.node()
    peer_finish = already_done if peer_confirms else finish
    with ExitStack() as stack:
        ours = sender(stack, f"failover:({node.uri}){options}", counts[0], finish)
        peer = sender(stack, node.uri, counts[1], peer_finish, confirm_publish=peer_confirms)
        race(ours, peer, slices, rounds, step, partial(purge, node))
    note = f"failover:(…){options} beside kombu, confirm_publish={peer_confirms}"
    return [as_outcome(name, ours, peer, slices, bar, note)]


def confirmed(lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    return _rates(
        "kombu-confirmed",
        lab,
        rounds,
        step,
        options="",
        finish=already_done,
        counts=(CONFIRMED, CONFIRMED),
        slices=SLICES,
        bar=Bar(0.95),
    )


def tracked(name: str, options: str, bar: Bar, lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    return _rates(
        name,
        lab,
        rounds,
        step,
        options=f"?trackMessages=true{options}",
        finish=flushed,
        counts=(TRACKED, CONFIRMED),
        slices=1,
        bar=bar,
    )


def unconfirmed(lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    return _rates(
        "kombu-unconfirmed",
        lab,
        rounds,
        step,
        options="?confirms=false",
        finish=read_by_broker,
        counts=(UNCONFIRMED, UNCONFIRMED),
        slices=LONG_SLICES,
        bar=Bar(0.90),
        peer_confirms=False,
    )


# --- nothing lost ---------------------------------------------------------------------------------


def kill(lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    """Tracked messages while the broker dies by SIGKILL and a second one takes over."""
    lost: list[int] = []
    doubled: list[int] = []
    rates: list[float] = []
    pauses: list[float] = []
    shares: list[tuple[int, int]] = []
    options = "randomize=false&trackMessages=true&maxCacheSize=4000000"
    a, b = lab.both()
    for number in range(rounds):
        # connections stay with the broker that took over in the round before
        victim, heir = (b, a) if number % 2 else (a, b)
        rate, pause = _send_through_a_kill(f"failover:({a.uri},{b.uri})?{options}", victim)
        victim.start()
        on_victim, on_heir = _take_all(victim), _take_all(heir)
        found = [*on_victim, *on_heir]
        shares.append((len(on_victim), len(on_heir)))
        lost.append(len(set(range(KILLED)) - set(found)))
        doubled.append(len(found) - len(set(found)))
        rates.append(rate)
        pauses.append(pause)
        step()
    return [
        Outcome(
            "kombu-kill",
            f"{median(rates):,.0f} msg/s",
            "-",
            sum(lost),
            " lost",
            Bar(0, at_most=True),
            f"of {KILLED * rounds:,} sent",
            (
                "failover:(a,b)?trackMessages=true&maxCacheSize=4000000; the broker in use is "
                "killed halfway, then started again; ids in both queues against ids sent",
                f"found {shares[-1][0]:,} on it and {shares[-1][1]:,} on the other; "
                f"{sum(doubled):,} twice, as resends may be; longest wait of one publish "
                f"{max(pauses):.2f} s",
            ),
            details={
                "lost": lost,
                "doubled": doubled,
                "found_on_victim_and_heir": shares,
                "msg_s": rates,
                "longest_publish_s": pauses,
            },
        )
    ]


def _send_through_a_kill(uri: str, victim: RabbitMQ) -> tuple[float, float]:
    """Send all; messages per second and the longest that one publish took."""
    killer = threading.Thread(target=victim.kill)
    longest = 0.0
    with Connection(uri) as connection:
        # the queue is declared by the application, so it is made on the second broker too
        Queue(KILL_QUEUE, durable=True, channel=connection.default_channel).declare()
        victim.settle()  # else RabbitMQ itself may forget so young a queue when it is killed
        producer = Producer(connection)
        start = time.perf_counter()
        for number in range(KILLED):
            if number == KILLED // 2:
                killer.start()
            before = time.perf_counter()
            body = b"%08d" % number + BODY[8:]
            producer.publish(body, exchange="", routing_key=KILL_QUEUE, delivery_mode=2)
            longest = max(longest, time.perf_counter() - before)
        flushed(None)
        took = time.perf_counter() - start
    killer.join()
    return KILLED / took, longest


def _take_all(node: RabbitMQ) -> list[int]:
    """The numbers in the queue, which is deleted."""
    numbers: list[int] = []
    with raw_connection(node) as connection:
        channel = connection.channel()
        count = channel.queue_declare(KILL_QUEUE, durable=True, auto_delete=False).message_count
        consumer = channel.basic_consume(
            KILL_QUEUE, no_ack=True, callback=lambda message: numbers.append(int(message.body[:8]))
        )
        while len(numbers) < count:
            connection.drain_events(timeout=PATIENCE)
        channel.basic_cancel(consumer)
        channel.queue_delete(KILL_QUEUE)
    return numbers


# --- failover -------------------------------------------------------------------------------------


@contextmanager
def failing_over(uri: str) -> Iterator[Producer]:
    with Connection(uri) as connection:
        producer = Producer(connection)
        send_one(producer)
        yield producer


def send_one(producer: Producer) -> None:
    producer.publish(BODY, routing_key=QUEUE, delivery_mode=2)


@contextmanager
def bare(uri: str) -> Iterator[Any]:
    """Bare py-amqp: kombu's own ways would only make the peer slower."""
    parts = urlsplit(uri)
    connection = amqp.Connection(
        f"{parts.hostname}:{parts.port}",
        userid=parts.username,
        password=parts.password,
        confirm_publish=True,
    )
    connection.connect()
    channel = connection.channel()
    # sends confirm.select first, and waits
    channel.basic_publish(amqp.Message(BODY, delivery_mode=2), routing_key=QUEUE)
    yield connection
    connection.close()


KOMBU = Host(
    "kombu",
    "py-amqp",
    Lab.amqp,
    failing_over,
    send_one,
    lambda producer: producer.connection.transport.broker.supervisor,
    cut_at_publish,
    bare,
)


CASES = (
    Case("kombu-confirmed", 9, confirmed),
    Case(
        "kombu-tracked",
        7,
        partial(tracked, "kombu-tracked", "&maxCacheSize=4000000", Bar(6.0, goal=8.0)),
    ),
    Case("kombu-tracked-default", 7, partial(tracked, "kombu-tracked-default", "", Bar(5.0))),
    Case("kombu-unconfirmed", 11, unconfirmed),
    Case("kombu-kill", 1, kill),
    *failover_cases(KOMBU),
)
