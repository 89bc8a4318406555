"""What the supervisor may expect of every dialer (`failover/dialer.py`).

A new dialer joins by a `Stand` of its own: the dialer, a broker it reaches, and peers that
misbehave in its protocol.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import pytest
from kombu import Connection

from understudy.core.endpoint import Endpoint
from understudy.core.uri import parse, parse_members
from understudy.failover.dialer import Dialer
from understudy.kombu.inner import Inner
from understudy.kombu.logical import LogicalBroker, Settings
from understudy.testing import FakeConnection, FakeDialer, ScriptedPeer, wait_until
from understudy.testing.brokers import RabbitMQ
from understudy.testing.brokers.ports import Port

LONG = 30.0  # s
SHORT = 0.3  # s that a dial to a peer that does not answer may take; a handshake takes 0.01

Misbehaviour: TypeAlias = Literal["refuses", "silent", "drips", "half_frame"]


class Stand(Protocol):
    @property
    def dialer(self) -> Dialer[Any]: ...

    @property
    def endpoint(self) -> Endpoint:
        """A broker in good health."""

    def peer(self, misbehaviour: Misbehaviour) -> Endpoint:
        """One that does this to who dials it; never asked for more than one at a time."""

    def leave_from_afar(self, dial: Callable[[Endpoint], Any]) -> Any:
        """Dial a connection, let its peer close it in good order, and return it."""

    def read(self, connection: Any) -> None:
        """Block in it as an application does that waits for messages."""

    def connections_at_broker(self) -> int | None:
        """How many the broker holds now; None where that can't be asked."""


class FakeStand:
    def __init__(self) -> None:
        self.dialer = FakeDialer()
        (self.endpoint,) = parse_members("amqp://here", schemes={"amqp"})

    def peer(self, misbehaviour: Misbehaviour) -> Endpoint:
        (endpoint,) = parse_members(f"amqp://{misbehaviour}", schemes={"amqp"})
        if misbehaviour == "refuses":
            self.dialer.fail(endpoint)
        else:
            self.dialer.block(endpoint)
        return endpoint

    def leave_from_afar(self, dial: Callable[[Endpoint], FakeConnection]) -> FakeConnection:
        connection = dial(self.endpoint)
        connection.close_by_peer()
        return connection

    def read(self, connection: FakeConnection) -> None:
        connection.read()

    def connections_at_broker(self) -> int | None:
        return len(self.dialer.open)

    def close(self) -> None:
        assert self.dialer.open == []


class KombuStand:
    def __init__(self, rabbit: RabbitMQ) -> None:
        uri = f"failover:({rabbit.uri})?connectTimeout=600000"  # what `dial` is told counts
        self.dialer = LogicalBroker(parse(uri), Settings(Connection(uri)))
        (self.endpoint,) = self.dialer.uri.endpoints
        self._peers: list[ScriptedPeer] = []
        self._nobody = Port()

    def peer(self, misbehaviour: Misbehaviour) -> Endpoint:
        if misbehaviour == "refuses":
            return self._at(f"amqp://127.0.0.1:{self._nobody.number}")
        if misbehaviour == "silent":
            peer = ScriptedPeer(handshake="silent")
        elif misbehaviour == "half_frame":
            peer = ScriptedPeer(handshake="half_frame")
        else:
            peer = ScriptedPeer(handshake="slow_drip", drip=SHORT / 3)
        self._peers.append(peer.start())
        return self._at(peer.url)

    def leave_from_afar(self, dial: Callable[[Endpoint], Inner]) -> Inner:
        peer = ScriptedPeer().start()
        self._peers.append(peer)
        connection = dial(self._at(peer.url))
        peer.connections[0].fin()
        return connection

    def read(self, connection: Inner) -> None:
        connection.raw.channel()
        while True:
            connection.raw.drain_events()

    def connections_at_broker(self) -> int | None:
        return None

    def close(self) -> None:
        self._nobody.release()
        for peer in self._peers:
            peer.close()

    @staticmethod
    def _at(uri: str) -> Endpoint:
        (endpoint,) = parse_members(uri, schemes={"amqp"})
        return endpoint


@pytest.fixture(params=["fake", pytest.param("kombu", marks=pytest.mark.integration)])
def stand(request: pytest.FixtureRequest) -> Iterator[Stand]:
    if request.param == "fake":
        it: FakeStand | KombuStand = FakeStand()
    else:
        it = KombuStand(request.getfixturevalue("rabbit_a"))
    yield it
    it.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if os.path.isdir("/proc/self/fd") else 0


def test_a_dialed_connection_lives_until_it_is_discarded(stand: Stand) -> None:
    connection = stand.dialer.dial(stand.endpoint, LONG)
    assert stand.dialer.is_alive(connection)
    assert stand.connections_at_broker() in (1, None)
    stand.dialer.discard(connection)
    assert not stand.dialer.is_alive(connection)
    assert stand.connections_at_broker() in (0, None)


def test_discard_leaves_no_thread_and_no_descriptor(stand: Stand) -> None:
    stand.dialer.discard(stand.dialer.dial(stand.endpoint, LONG))  # what is made only once
    threads, before = set(threading.enumerate()), descriptors()
    for _ in range(5):
        stand.dialer.discard(stand.dialer.dial(stand.endpoint, LONG))
    assert wait_until(lambda: set(threading.enumerate()) <= threads, LONG)
    assert wait_until(lambda: descriptors() <= before, LONG)


def test_sever_wakes_whoever_is_blocked_in_it(stand: Stand) -> None:
    connection = stand.dialer.dial(stand.endpoint, LONG)
    reading = threading.Event()
    woken: list[BaseException] = []

    def read() -> None:
        reading.set()
        try:
            stand.read(connection)
        except Exception as exc:
            woken.append(exc)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert reading.wait(LONG)
    stand.dialer.sever(connection)
    reader.join(LONG)
    assert not reader.is_alive()
    assert len(woken) == 1
    assert not stand.dialer.is_alive(connection)
    stand.dialer.discard(connection)


def test_every_end_may_come_twice_and_in_any_order(stand: Stand) -> None:
    dialer = stand.dialer
    ends = [dialer.sever, dialer.discard, dialer.abandon]
    for first in ends:
        for second in ends:
            connection = dialer.dial(stand.endpoint, LONG)
            first(connection)
            second(connection)
            assert not dialer.is_alive(connection)


def test_a_peer_that_has_left_is_noticed_without_a_read(stand: Stand) -> None:
    connection = stand.leave_from_afar(lambda endpoint: stand.dialer.dial(endpoint, LONG))
    assert wait_until(lambda: not stand.dialer.is_alive(connection), LONG)
    stand.dialer.discard(connection)


@pytest.mark.parametrize("misbehaviour", ["refuses", "silent", "drips", "half_frame"])
def test_a_dial_ends_within_its_timeout(stand: Stand, misbehaviour: Misbehaviour) -> None:
    endpoint = stand.peer(misbehaviour)
    began, before = time.monotonic(), descriptors()
    for _ in range(2):
        with pytest.raises(Exception, match=r"\w"):
            stand.dialer.dial(endpoint, SHORT)
    assert time.monotonic() - began < LONG  # a dripping handshake would take longer
    assert wait_until(lambda: descriptors() <= before, LONG)  # the peer sees ours closed, and goes


def test_connections_can_be_kept_in_sets_and_weakly(stand: Stand) -> None:
    one, other = (stand.dialer.dial(stand.endpoint, LONG) for _ in range(2))
    assert len({one, other}) == 2
    numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary({one: 1, other: 2})
    assert numbers[other] == 2
    for connection in (one, other):
        stand.dialer.discard(connection)
