"""A STOMP connection that nobody refers to any more, and that nobody has disconnected."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest

import understudy.stomp
from understudy.testing import wait_until
from understudy.testing.stomp_lab import Listener
from understudy.testing.stomp_peer import Over, StompPeer, Talk, frames


class Served:
    """What a peer was sent on its one connection, and whether that is over."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.over = threading.Event()
        self.talk: Talk

    def __call__(self, talk: Talk) -> None:
        talk.log_in()
        self.talk = talk
        try:
            for command, headers, _ in frames(talk):
                self.commands.append(command)
                talk.receipt(headers)
        except Over:
            self.over.set()
            raise


def connected(peer: StompPeer, scheme: str = "failover", **options: str) -> Any:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    connection = understudy.stomp.Connection(f"{scheme}:(stomp://{peer.host}:{peer.port})?{query}")
    connection.connect(wait=True)
    return connection


@pytest.mark.parametrize("is_tracked", ["false", "true"])
def test_it_ends_when_it_is_dropped_and_what_is_tracked_goes_first(is_tracked: str) -> None:
    served = Served()
    with StompPeer(served) as peer:
        connection = connected(peer, trackMessages=is_tracked)
        connection.send("/queue/q", "x")
        gone = weakref.ref(connection)
        del connection
        gc.collect()
        assert wait_until(lambda: gone() is None), "the session refers to it"
        assert served.over.wait(20)
    assert served.commands == ["SEND"]


def test_it_ends_when_it_never_was_connected() -> None:
    before = set(threading.enumerate())
    connection = understudy.stomp.Connection("failover:(stomp://127.0.0.1:1)")
    connection.connect()
    [reader] = [t for t in set(threading.enumerate()) - before if t.name == "understudy-stomp"]
    del connection
    gc.collect()
    reader.join(20)
    assert not reader.is_alive()


def test_it_ends_with_all_members_of_a_fanout() -> None:
    both = Served(), Served()
    with StompPeer(*both) as peer:
        connection = connected(peer, "fanout", minAckCount="1")
        connection.send("/topic/t", "x")
        del connection
        gc.collect()
        assert all(served.over.wait(20) for served in both)


def test_what_is_subscribed_is_heard_until_the_process_ends() -> None:
    """As with stomp.py: programs keep their listener, not always the connection."""
    served, listener = Served(), Listener()
    with StompPeer(served) as peer:
        connection = connected(peer)
        connection.set_listener("", listener)
        connection.subscribe("/queue/q", id="1")
        session = connection.transport.session
        gone = weakref.ref(connection)
        del connection
        gc.collect()
        assert wait_until(lambda: gone() is None)
        said = {"subscription": "1", "message-id": "m", "destination": "/queue/q"}
        served.talk.frame("MESSAGE", said, b"later")
        listener.wait_for_bodies("later")
        session.close()
