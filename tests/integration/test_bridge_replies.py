"""Requests over a bridge, and the replies to them: scenario 66; J04.

The requester waits at an address that its own broker alone serves, and the responder answers to
what it sees in the request.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import product

import pytest

from understudyd.testing.asked import Request, Requester, Responder, requester, responder
from understudyd.testing.bridged import until
from understudyd.testing.pairs import KINDS, Pair, over

pytestmark = pytest.mark.integration

TTL = 300.0  # s

every_pair = over(*product(KINDS, KINDS))


@pytest.fixture
def asking(pair: Pair) -> Iterator[Requester]:
    with closing(requester(pair.source)) as made:
        yield made


@pytest.fixture
def answering(pair: Pair) -> Iterator[Responder]:
    with closing(responder(pair.target)) as made:
        yield made


def _served(pair: Pair, asking: Requester, answering: Responder, *words: bytes) -> Request:
    """Each is asked and answered, in turn; the last request, as the responder saw it."""
    for word in words:
        asking.ask(pair.here, word, f"id-{word.decode()}")
    for word in words:
        request = answering.take(pair.there)
        assert request.body == word
        answering.answer(request, b"re: " + word)
        assert asking.answer() == (b"re: " + word, f"id-{word.decode()}")
    return request


@every_pair
def test_a_reply_comes_once_to_who_asked(
    pair: Pair, asking: Requester, answering: Responder
) -> None:
    with pair.link(reply_ttl=TTL) as link, closing(requester(pair.source)) as other:
        _served(pair, asking, answering, b"one", b"two", b"three")
        _served(pair, other, answering, b"four")
        assert asking.answer(0.2) is None
        until(lambda: link.glance.replies == 4, "all replies are settled")
        glance = link.glance
        assert (glance.requests, glance.requesters) == (4, 2)
        assert (glance.replies_lost, glance.requests_unserved) == (0, 0)
        assert glance.replies_reason == ""


@over(
    ("amqp", "amqp"),
    ("activemq", "amqp"),
    ("rabbitmq-stomp", "activemq"),
    ("amqp", "rabbitmq-stomp"),
    ("activemq", "activemq"),
)
def test_a_reply_to_who_is_gone_is_counted_and_hinders_nobody(
    pair: Pair, asking: Requester, answering: Responder
) -> None:
    """And its address goes; one that comes later has nowhere to go."""
    with pair.link(reply_ttl=TTL) as link:
        gone = requester(pair.source)
        with closing(gone):
            gone.ask(pair.here, b"late", "late")
            asked = answering.take(pair.there)
        answering.answer(asked, b"nobody")
        until(lambda: link.glance.replies_lost == 1, "the loss is seen")
        assert link.glance.requesters == 0
        _served(pair, asking, answering, b"one", b"two")
        until(lambda: link.glance.replies == 2, "the others are settled")
        assert link.glance.replies_lost == 1
        assert link.parked == 0
