"""The stomp.py adapter beside stomp.py, on RabbitMQ's STOMP plugin and on ActiveMQ."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import stomp
from stomp.utils import Frame
from tests.bench.failing_over import Host, How, failover_cases
from tests.bench.lab import BODY, Address, Lab
from tests.bench.outcome import Bar, Case, Outcome, Step
from tests.bench.racing import Racer, as_outcome, race

import understudy.stomp
from understudy.testing import FaultProxy

__all__ = ["CASES"]

RECEIPTED = 1000  # messages of a round
TRACKED = 4000
CONSUMED = 2000
SLICES = 10
LONG_SLICES = 4
PREFETCH = "100"
PATIENCE = 60.0  # s for a receipt, a flush or a message
DESTINATION = "/queue/understudy.bench.stomp"

SEND_HEADERS = {"persistent": "true"}
SUBSCRIBE_HEADERS = {"prefetch-count": PREFETCH, "activemq.prefetchSize": PREFETCH}

Addresses = Callable[[Lab], tuple[Address, Address]]
Send = Callable[[Any], None]


class Receipts(stomp.ConnectionListener):
    """What a program with bare stomp.py does to know that its message arrived."""

    def __init__(self) -> None:
        self._came = threading.Semaphore(0)
        self._errors: list[str] = []

    def on_receipt(self, frame: Frame) -> None:
        self._came.release()

    def on_error(self, frame: Frame) -> None:
        self._errors.append(str(frame.body))
        self._came.release()

    def wait(self) -> None:
        if not self._came.acquire(timeout=PATIENCE) or self._errors:
            raise TimeoutError(f"no receipt: {self._errors}")


@contextmanager
def bare(uri: str) -> Iterator[Any]:
    parts = urlsplit(uri)
    connection = stomp.Connection12([(parts.hostname, parts.port)], vhost="/", auto_decode=False)
    receipts = Receipts()
    connection.set_listener("receipts", receipts)
    connection.connect(parts.username or "", parts.password or "", wait=True)
    connection.receipts = receipts
    try:
        yield connection
    finally:
        connection.disconnect()


@contextmanager
def ours(uri: str, options: str = "") -> Iterator[Any]:
    connection = understudy.stomp.Connection(f"failover:({uri}){options}")
    connection.connect(wait=True)
    try:
        yield connection
    finally:
        connection.disconnect()


def send(connection: Any, count: int) -> None:
    for _ in range(count):
        connection.send(DESTINATION, BODY, headers=SEND_HEADERS)


def send_bare(connection: Any, count: int) -> None:
    for number in range(count):
        connection.send(DESTINATION, BODY, headers={**SEND_HEADERS, "receipt": str(number)})
        connection.receipts.wait()


def send_and_flush(connection: Any, count: int) -> None:
    send(connection, count)
    if not connection.flush(PATIENCE):
        raise TimeoutError(f"tracked messages were not confirmed within {PATIENCE:g} s")


class Taker(stomp.ConnectionListener):
    """Acknowledges each message; `work` returns when so many were taken."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._left = 0
        self._done = threading.Event()
        self._is_unsubscribed = threading.Event()
        connection.set_listener("taker", self)

    def on_receipt(self, frame: Frame) -> None:
        if frame.headers["receipt-id"] == "unsubscribed":
            self._is_unsubscribed.set()

    def on_message(self, frame: Frame) -> None:
        self._connection.ack(frame.headers["ack"])
        self._left -= 1
        if not self._left:
            self._done.set()

    def work(self, count: int) -> None:
        self._done.clear()
        self._left = count
        self._connection.subscribe(
            DESTINATION, id="bench", ack="client-individual", headers=SUBSCRIBE_HEADERS
        )
        if not self._done.wait(PATIENCE):
            raise TimeoutError(f"{self._left} messages did not come")
        self._is_unsubscribed.clear()
        self._connection.unsubscribe("bench", receipt="unsubscribed")
        if not self._is_unsubscribed.wait(PATIENCE):  # or the next messages come here
            raise TimeoutError("no receipt for UNSUBSCRIBE")


def drain(address: Address) -> None:
    """Empty the queue: STOMP has no purge."""
    with bare(address.uri) as connection:
        quiet = threading.Event()

        class Drainer(stomp.ConnectionListener):
            def on_message(self, frame: Frame) -> None:
                quiet.set()

        connection.set_listener("drainer", Drainer())
        connection.subscribe(DESTINATION, id="drain", ack="auto")
        while quiet.wait(0.3):
            quiet.clear()


def fill(address: Address, count: int) -> None:
    with bare(address.uri) as connection:
        for _ in range(count - 1):
            connection.send(DESTINATION, BODY, headers=SEND_HEADERS)
        send_bare(connection, 1)


def receipted(name: str, addresses: Addresses, lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    address, _ = addresses(lab)
    with ours(address.uri) as mine, bare(address.uri) as theirs:
        racers = (
            Racer(partial(send, mine), RECEIPTED),
            Racer(partial(send_bare, theirs), RECEIPTED),
        )
        race(*racers, SLICES, rounds, step, partial(drain, address))
    note = "send() that waits for its receipt, beside stomp.py with a receipt for each message"
    return [as_outcome(name, *racers, SLICES, Bar(0.95), note)]


def tracked(name: str, addresses: Addresses, lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    address, _ = addresses(lab)
    options = "?trackMessages=true"
    with ours(address.uri, options) as mine, bare(address.uri) as theirs:
        racers = (
            Racer(partial(send_and_flush, mine), TRACKED),
            Racer(partial(send_bare, theirs), RECEIPTED),
        )
        race(*racers, 1, rounds, step, partial(drain, address))
    note = f"failover:(…){options}, flush included, beside stomp.py with a receipt for each message"
    return [as_outcome(name, *racers, 1, Bar(4.0), note)]


def consuming(name: str, addresses: Addresses, lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    address, _ = addresses(lab)
    drain(address)
    with ours(address.uri) as mine, bare(address.uri) as theirs:
        my_taker, their_taker = Taker(mine), Taker(theirs)
        fill(address, 100)
        my_racer = Racer(my_taker.work, CONSUMED, warm_up=100)
        fill(address, 100)
        their_racer = Racer(their_taker.work, CONSUMED, warm_up=100)
        racers = my_racer, their_racer
        race(*racers, LONG_SLICES, rounds, step, lambda: None, partial(fill, address))
    note = f"client-individual, an ack for each message, prefetch {PREFETCH}, beside stomp.py"
    return [as_outcome(name, *racers, LONG_SLICES, Bar(0.95), note)]


# --- failover -------------------------------------------------------------------------------------


@contextmanager
def ours_sending(uri: str) -> Iterator[Any]:
    connection = understudy.stomp.Connection(uri)
    connection.connect(wait=True)
    try:
        send(connection, 1)
        yield connection
    finally:
        connection.disconnect()


@contextmanager
def bare_sending(uri: str) -> Iterator[Any]:
    with bare(uri) as connection:
        send_bare(connection, 1)
        yield connection


def cut_at_next_byte(proxy: FaultProxy, how: How, then: Callable[[], object]) -> None:
    """Nothing but the next SEND comes so soon after the last one."""
    proxy.cut_after(1, direction="up", how=how, then=then)


def cases(name: str, addresses: Addresses) -> tuple[Case, ...]:
    host = Host(
        name,
        "stomp.py",
        addresses,
        ours_sending,
        lambda connection: send(connection, 1),
        lambda connection: connection.transport.session.supervisor,
        cut_at_next_byte,
        bare_sending,
    )
    return (
        Case(f"{name}-receipt", 7, partial(receipted, f"{name}-receipt", addresses)),
        Case(f"{name}-consuming", 7, partial(consuming, f"{name}-consuming", addresses)),
        Case(f"{name}-tracked", 7, partial(tracked, f"{name}-tracked", addresses)),
        *failover_cases(host),
    )


CASES = (
    *cases("stomp-rabbitmq", Lab.rabbitmq_stomp),
    *cases("stomp-activemq", Lab.activemq_stomp),
)
