"""The pika adapter beside pika: publishing, consuming, and how long a failover takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pika
from tests.bench.failing_over import Host, cut_at_publish, failover_cases
from tests.bench.lab import BODY, QUEUE, Lab, purge
from tests.bench.outcome import Bar, Case, Outcome, Step
from tests.bench.racing import Racer, as_outcome, race

import understudy.pika
from understudy.testing.brokers import RabbitMQ

__all__ = ["CASES"]

CONFIRMED = 1500  # messages of a round, about 0.7 s
TRACKED = 6000
CONSUMED = 4000
SLICES = 30
LONG_SLICES = 4
PREFETCH = 100
PATIENCE = 60.0  # s for a flush

PERSISTENT = pika.BasicProperties(delivery_mode=2)

Opener = Callable[[str], Any]


def ours(uri: str) -> Any:
    return understudy.pika.BlockingConnection(uri)


def bare(uri: str) -> Any:
    return pika.BlockingConnection(pika.URLParameters(uri))


@contextmanager
def a_channel(open_connection: Opener, uri: str, *, confirms: bool) -> Iterator[Any]:
    connection = open_connection(uri)
    try:
        channel = connection.channel()
        if confirms:
            channel.confirm_delivery()
        yield channel
    finally:
        connection.close()


def send(channel: Any, count: int) -> None:
    publish = channel.basic_publish
    for _ in range(count):
        publish("", QUEUE, BODY, PERSISTENT)


def send_and_flush(channel: Any, count: int) -> None:
    send(channel, count)
    if not channel.connection.flush(PATIENCE):
        raise TimeoutError(f"tracked messages were not confirmed within {PATIENCE:g} s")


def take(channel: Any, count: int) -> None:
    """Consume with an acknowledgement for each message."""
    left = count

    def on_message(_channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        nonlocal left
        channel.basic_ack(method.delivery_tag)
        left -= 1
        if not left:
            channel.stop_consuming()

    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(QUEUE, on_message)
    channel.start_consuming()


def fill(node: RabbitMQ, count: int) -> None:
    """Exactly so many messages in the queue."""
    purge(node)
    with a_channel(bare, node.uri, confirms=False) as channel:
        send(channel, count)
        channel.queue_declare(QUEUE, passive=True)


def confirmed(lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    node = lab.node()
    with (
        a_channel(ours, f"failover:({node.uri})", confirms=True) as mine,
        a_channel(bare, node.uri, confirms=True) as theirs,
    ):
        racers = Racer(partial(send, mine), CONFIRMED), Racer(partial(send, theirs), CONFIRMED)
        race(*racers, SLICES, rounds, step, partial(purge, node))
    note = "BlockingConnection('failover:(…)') beside pika, both with confirm_delivery()"
    return [as_outcome("pika-confirmed", *racers, SLICES, Bar(0.95), note)]


def tracked(lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    node = lab.node()
    options = "?trackMessages=true"
    with (
        a_channel(ours, f"failover:({node.uri}){options}", confirms=False) as mine,
        a_channel(bare, node.uri, confirms=True) as theirs,
    ):
        racers = (
            Racer(partial(send_and_flush, mine), TRACKED),
            Racer(partial(send, theirs), CONFIRMED),
        )
        race(*racers, 1, rounds, step, partial(purge, node))
    note = f"failover:(…){options}, flush included, beside pika with confirm_delivery()"
    return [as_outcome("pika-tracked", *racers, 1, Bar(5.0), note)]


def consuming(lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    node = lab.node()
    with (
        a_channel(ours, f"failover:({node.uri})", confirms=False) as mine,
        a_channel(bare, node.uri, confirms=False) as theirs,
    ):
        fill(node, 100)
        my_racer = Racer(partial(take, mine), CONSUMED, warm_up=100)
        fill(node, 100)
        their_racer = Racer(partial(take, theirs), CONSUMED, warm_up=100)
        racers = my_racer, their_racer
        race(*racers, LONG_SLICES, rounds, step, lambda: None, partial(fill, node))
    note = f"basic_consume, an ack for each message, prefetch {PREFETCH}, beside pika"
    return [as_outcome("pika-consuming", *racers, LONG_SLICES, Bar(0.95), note)]


# --- failover -------------------------------------------------------------------------------------


@contextmanager
def sending(open_connection: Opener, uri: str) -> Iterator[Any]:
    with a_channel(open_connection, uri, confirms=True) as channel:
        send(channel, 1)
        yield channel


PIKA = Host(
    "pika",
    "pika",
    Lab.amqp,
    partial(sending, ours),
    lambda channel: send(channel, 1),
    lambda channel: channel.connection._session.supervisor,
    cut_at_publish,
    partial(sending, bare),
)

CASES = (
    Case("pika-confirmed", 9, confirmed),
    Case("pika-consuming", 9, consuming),
    Case("pika-tracked", 7, tracked),
    *failover_cases(PIKA),
)
