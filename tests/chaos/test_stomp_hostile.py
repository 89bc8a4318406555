"""Brokers that lie, stall or drip lead to the next endpoint: no hang, no crash, no growth."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import stomp

import understudy.stomp
from understudy.errors import ConfigurationError
from understudy.stomp import ConnectFailed
from understudy.testing.stomp_peer import (
    Behaviour,
    StompPeer,
    Talk,
    be_silent,
    drip,
    frames,
    refuse_login,
    say,
    serve,
)

pytestmark = pytest.mark.chaos

CONNECTED = b"CONNECTED\nversion:1.2\nserver:RabbitMQ/3.10.8\nheart-beat:0,0\n\n\0\n"


def close_at_once(talk: Talk) -> None:
    """Returning ends the connection."""


def reset_at_once(talk: Talk) -> None:
    talk.reset()


def flood(talk: Talk) -> None:
    """Headers without an end."""
    talk.read()
    talk.write(b"CONNECTED\n")
    while True:
        talk.write(b"a:" + b"b" * 65536)


def cut_after(count: int) -> Behaviour:
    def behaviour(talk: Talk) -> None:
        talk.read()
        talk.write(CONNECTED[:count])

    return behaviour


HANDSHAKES: dict[str, Behaviour] = {
    "closes at once": close_at_once,
    "resets at once": reset_at_once,
    "is silent": be_silent,
    "refuses the login": refuse_login,
    "drips": drip(CONNECTED, 0.05),
    "speaks another protocol": say(b"AMQP\0\0\x09\x01" + bytes(200)),
    "speaks HTTP": say(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n<html></html>"),
    "sends noise": say(random.Random(7).randbytes(5000)),
    "sends endless headers": flood,
    "announces a giant body": say(b"CONNECTED\ncontent-length:99999999999\n\n"),
    "sends a message first": say(b"MESSAGE\nmessage-id:1\n\n\0"),
    "speaks another version": say(b"CONNECTED\nversion:1.0\n\n\0"),
    "has no heart-beat": say(CONNECTED.replace(b"0,0", b"x")),
    "beats in ages": say(CONNECTED.replace(b"0,0", b"9" * 400 + b",1")),
    "beats in numbers too long to read": say(CONNECTED.replace(b"0,0", b"1," + b"9" * 5000)),
    "says more than asked": say(CONNECTED + b"RECEIPT\nreceipt-id:u1\n\n\0"),
}


@pytest.fixture
def connect() -> Any:
    """Connect to a list of peers, in order; closed with the test."""
    made: list[Any] = []

    def connect(*peers: StompPeer, **options: Any) -> Any:
        members = ",".join(f"stomp://{peer.host}:{peer.port}" for peer in peers)
        said = {"randomize": "false", "timeout": 60000, "connectTimeout": 1000, **options}
        query = "&".join(f"{name}={value}" for name, value in said.items())
        connection = understudy.stomp.Connection(f"failover:({members})?{query}")
        made.append(connection)
        return connection

    yield connect
    for connection in made:
        connection.disconnect()


Connect = Callable[..., Any]


@pytest.mark.parametrize("behaviour", HANDSHAKES.values(), ids=HANDSHAKES.keys())
def test_a_bad_handshake_leads_to_the_next_endpoint(connect: Connect, behaviour: Behaviour) -> None:
    """F37, F38."""
    with StompPeer(behaviour) as bad, StompPeer(serve) as good:
        connection = connect(bad, good)
        connection.connect(wait=True)
        connection.send("/queue/q", "x")
        assert connection.transport.current_host_and_port == (good.host, good.port)
        assert bad.accepted == 1


@pytest.mark.parametrize("count", range(0, len(CONNECTED) - 2, 3))
def test_a_handshake_cut_after_any_byte_leads_to_the_next_endpoint(
    connect: Connect, count: int
) -> None:
    with StompPeer(cut_after(count)) as bad, StompPeer(serve) as good:
        connection = connect(bad, good)
        connection.connect(wait=True)
        assert connection.transport.current_host_and_port == (good.host, good.port)


def test_when_all_are_silent_connecting_ends_with_every_cause(connect: Connect) -> None:
    with StompPeer(be_silent) as a, StompPeer(refuse_login) as b:
        connection = connect(a, b, startupMaxReconnectAttempts=1)
        with pytest.raises(ConnectFailed) as caught:
            connection.connect("user", "secret", wait=True)
    assert [str(attempt.endpoint) for attempt in caught.value.attempts] == [
        f"stomp://{peer.host}:{peer.port}" for peer in (a, b)
    ]
    assert "no handshake within 1 s" in str(caught.value)
    assert "Access refused" in str(caught.value)
    assert "secret" not in str(caught.value)


LIES: dict[str, bytes] = {
    "half a frame": b"RECEIPT\nreceipt-id:u",
    "noise": os.urandom(3000) + b"\0\n\n" + os.urandom(3000),
    "a giant body": b"MESSAGE\ncontent-length:99999999999\n\n",
    "a wrong content-length": b"MESSAGE\ncontent-length:1\n\nxyz\0",
    "a head with NUL": b"MESSAGE\nx:\0\n\n\0",
    "an unknown command": b"HELLO\n\n\0",
    "CONNECTED again": CONNECTED,
    "receipts that nobody asked for": b"RECEIPT\nreceipt-id:u\xc2\xb2\n\n\0"
    + b"RECEIPT\nreceipt-id:u99999999999999999999\n\n\0RECEIPT\n\n\0",
    "an endless head": b"MESSAGE\n" + b"a:b\n" * 400_000,
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES.keys())
def test_a_lie_in_the_middle_loses_no_message(connect: Connect, data: bytes) -> None:
    def behaviour(talk: Talk) -> None:
        talk.log_in()
        for command, _, _ in frames(talk):
            if command == "SEND":
                talk.write(data)
                time.sleep(0.05)
                return

    received: list[bytes] = []

    def take(talk: Talk) -> None:
        talk.log_in()
        for command, headers, body in frames(talk):
            if command == "SEND":
                received.append(body)
                assert headers["x-understudy-resend"] == "true"
            talk.receipt(headers)

    with StompPeer(behaviour) as bad, StompPeer(take) as good:
        connection = connect(bad, good)
        connection.connect(wait=True)
        connection.send("/queue/q", "x")
    assert received == [b"x"]


def test_a_stalled_broker_is_left_after_two_heartbeats(connect: Connect) -> None:
    """F36: it promised heart-beats and stops."""

    def stall(talk: Talk) -> None:
        talk.log_in(beats="100,100")
        talk.wait_for_end()

    with StompPeer(stall) as bad, StompPeer(serve) as good:
        connection = connect(bad, good, heartbeat=100)
        connection.connect(wait=True)
        connection.send("/queue/q", "x")
        assert connection.transport.current_host_and_port == (good.host, good.port)


def test_a_broker_that_leaves_out_every_other_heart_beat_is_kept(connect: Connect) -> None:
    """F36: as ActiveMQ does, when it has sent a frame since the last, or has just begun."""
    told = threading.Event()

    def beat_seldom(talk: Talk) -> None:
        asked = int(talk.log_in(beats="100,100")["heart-beat"].split(",")[1])
        for _ in range(2):
            time.sleep(2.1 * asked / 1000)
            talk.write(b"\n")
        told.set()
        talk.wait_for_end()

    with StompPeer(beat_seldom) as peer:
        connection = connect(peer, heartbeat=2000)
        connection.connect(wait=True)
        assert told.wait(20)
        assert peer.accepted == 1


def test_a_peer_that_does_not_read_ends_no_send_late(connect: Connect) -> None:
    """F36: the socket's buffer is full; the send still ends at its deadline."""

    def never_read(talk: Talk) -> None:
        talk.log_in()
        time.sleep(20)

    with StompPeer(never_read) as bad:
        connection = connect(bad, timeout=1000)
        connection.connect(wait=True)
        with pytest.raises(understudy.stomp.SendTimeout) as caught:
            connection.send("/queue/q", b"x" * 50_000_000)
        assert caught.value.written


@pytest.mark.parametrize("command", ["MESSAGE", "ERROR"])
def test_a_flood_instead_of_an_answer_is_left(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """While a receipt is awaited everything before it is read, but not for ever."""
    monkeypatch.setattr("understudy.stomp.reader.HELD_LIMIT", 20_000_000)
    entered = threading.Event()
    leave = threading.Event()

    class Slow(stomp.ConnectionListener):
        def on_connected(self, frame: Any) -> None:
            entered.set()
            leave.wait(90)

    def flood_after_send(talk: Talk) -> None:
        talk.log_in()
        talk.read()
        while True:
            talk.write(f"{command}\nsubscription:1\n{'x:y' * 1000}\n\n\0".encode() * 20)

    with StompPeer(flood_after_send) as bad, StompPeer(serve) as good:
        connection = connect(bad, good, timeout=60000)
        connection.set_listener("", Slow())
        connection.connect(wait=True)
        assert entered.wait(60)
        thread = threading.Thread(target=connection.send, args=("/queue/q", "x"))
        thread.start()
        thread.join(60)
        leave.set()
        assert not thread.is_alive()
        assert connection.transport.current_host_and_port == (good.host, good.port)


def test_a_mistake_in_the_uri_is_found_before_any_socket() -> None:
    with pytest.raises(ConfigurationError, match="initialReconnectDelay"):
        understudy.stomp.Connection("failover:(stomp://a,stomp://b)?initialReconectDelay=1")
    with pytest.raises(ConfigurationError, match="amqp"):
        understudy.stomp.Connection("failover:(amqp://a)")
