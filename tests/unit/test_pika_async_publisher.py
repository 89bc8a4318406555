"""The publisher of an asyncio channel above a link without a socket."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pika
import pytest
from pika import spec

from understudy.core.suspects import Suspects
from understudy.core.uri import parse
from understudy.pika.async_publisher import AsyncPublisher, Publication
from understudy.pika.errors import Unroutable
from understudy.pika.link import Link
from understudy.pika.message import OutMessage
from understudy.pika.restoring import Nobody


class Wire(Link):
    unwritten = 0


class Session:
    def __init__(self) -> None:
        self.options = parse("failover:(amqp://a)?trackMessages=true").options
        self.wire = Wire(lambda data: None, pika.ConnectionParameters(), 0)
        self.supervisor: Any = self
        self.current = None
        self.told: list[str] = []
        self.suspects = Suspects()
        self.end = self.suspects.ended

    @contextlib.contextmanager
    def writing(self, wire: Link) -> Iterator[None]:
        yield

    def tell(self, event: Any) -> None:
        self.told.append(event.message_id)


def test_messages_of_one_id_may_come_back_before_their_confirm() -> None:
    """An application may use an id twice; each of the messages has its own outcome."""
    session: Any = Session()
    publisher = AsyncPublisher(session)
    for text in ("first", "second"):
        properties = pika.BasicProperties(message_id="same")
        message = OutMessage("", "nowhere", text, properties, True)
        publisher._outbox.offer(Publication(message, None), message.size, message.message_id)
    publisher.begin(session.wire.open_channel(1, Nobody()))
    returned = spec.Basic.Return(312, "NO_ROUTE", "", "nowhere")
    for body in (b"first", b"second"):
        publisher.returned(returned, pika.BasicProperties(message_id="same"), body)
    publisher.settled(2, True, True)
    kept: list[Any] = list(publisher._refusals._kept)
    assert [message.body for error in kept for message in error.messages] == [b"first", b"second"]
    assert session.told == ["same", "same"]
    with pytest.raises(Unroutable):
        publisher._refusals.raise_first()
    publisher._refusals.raise_first()  # none is left
