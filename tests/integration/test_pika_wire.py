"""A link on a socket: what needs the operating system, but no broker."""

from __future__ import annotations

import socket

import pika
import pytest

from understudy.core.uri import parse
from understudy.failover.polling import Wakeup
from understudy.pika.wire import Wire

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("days", [25, 40, float("inf")])
def test_a_wait_may_be_longer_than_the_system_can_count(days: float) -> None:
    """A timer of 40 days is one that the application may set."""
    ours, theirs = socket.socketpair()
    wire = Wire(parse("amqp://a").endpoints[0], ours, pika.ConnectionParameters(), 0)
    wakeup = Wakeup()
    wakeup.set()
    wire.poll(days * 86400, wakeup)
    assert wire.lost is None
    wire.sever("the test is over")
    theirs.close()
    wakeup.close()
