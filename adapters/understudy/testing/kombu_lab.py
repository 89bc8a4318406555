"""What tests of the kombu adapter do with a connection, in as few words as can be."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import kombu

from understudy.testing import FaultProxy

__all__ = ["TRACK", "cut_off", "lasting", "numbers", "prepare", "send", "tracked"]

TRACK: dict[str, Any] = {"trackMessages": "true", "timeout": 20000}


def prepare(connection: kombu.Connection, queue: str, **arguments: Any) -> None:
    """Declare a queue."""
    kombu.Queue(queue, **arguments)(connection.default_channel).declare()


def tracked(lab: Any, *places: Any, queue: str, **options: Any) -> kombu.Connection:
    """A connection to these places whose messages are tracked, with this queue declared."""
    connection: kombu.Connection = lab.connect(*places, **{**TRACK, **options})
    prepare(connection, queue)
    return connection


def numbers(found: Iterable[Any]) -> list[int]:
    """What messages say that were found in a queue."""
    return [int(message.body) for message in found]


def send(connection: kombu.Connection, queue: str, *texts: object, **options: Any) -> None:
    """One message for each text; without any one that says "x"."""
    producer = kombu.Producer(connection)
    for text in texts or ("x",):
        body = text if isinstance(text, (str, bytes)) else str(text)
        producer.publish(body, routing_key=queue, serializer="raw", **options)


def cut_off(*proxies: FaultProxy) -> None:
    for proxy in proxies:
        proxy.refuse()
        proxy.reset()


@contextlib.contextmanager
def lasting(at_least: float, below: float) -> Iterator[None]:
    """For promises that are about a time, in seconds; all other tests look at no clock."""
    began = time.monotonic()
    yield
    assert at_least <= time.monotonic() - began < below
