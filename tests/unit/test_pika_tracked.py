"""The publisher of tracked messages above a link without a socket."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pika
import pytest
from pika import spec

from understudy.core.suspects import Suspects
from understudy.core.uri import parse
from understudy.failover.deadline import NEVER
from understudy.pika import tracked
from understudy.pika.link import Link
from understudy.pika.link_channel import LinkLost
from understudy.pika.message import OutMessage
from understudy.pika.tracked import TrackedPublisher


class Session:
    def __init__(self) -> None:
        self.options = parse("failover:(amqp://a)?trackMessages=true&confirms=false").options
        self.lock = threading.RLock()
        self.wire = Link(lambda data: None, pika.ConnectionParameters(), 0)
        self.channels: dict[int, Any] = {}
        self.on_lost: list[Callable[[LinkLost], None]] = []
        self.suspects = Suspects()
        self.may_go = self.suspects.may_go
        self.supervisor: Any = None
        self.is_live = True
        self.is_closed = False

    def check_open(self) -> None: ...

    def end(self, party: object) -> None:
        self.suspects.ended(party)


class Channel:
    def __init__(self) -> None:
        self.told: list[str] = []

    def _tell_returned(self, method: Any, properties: Any, body: bytes) -> None:
        self.told.append(properties.message_id)


def test_without_confirms_no_more_than_the_newest_mandatory_messages_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing says that a message will not come back any more."""
    monkeypatch.setattr(tracked, "RETURNABLE", 10)
    session: Any = Session()
    channel: Any = Channel()
    publisher = TrackedPublisher(session)
    publisher._thread = threading.current_thread()  # none of its own
    names = [str(number) for number in range(15)]
    for name in names:
        properties = pika.BasicProperties(message_id=name)
        with session.lock:
            publisher.put(OutMessage("", "nowhere", b"", properties, True), channel, NEVER)
    assert len(publisher._mandatory) == 10
    for name in names:
        back = spec.Basic.Return(312, "NO_ROUTE", "", "nowhere")
        publisher.returned(back, pika.BasicProperties(message_id=name), b"")
    assert channel.told == names[5:]
    session.is_closed = True
