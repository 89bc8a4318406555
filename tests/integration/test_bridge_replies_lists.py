"""Requests over a bridge whose ends are lists: where replies go when another broker is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from understudy.testing import FaultProxy
from understudy.testing.brokers import ActiveMQ
from understudyd.bridge import homing
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.spool.words import Spooling
from understudyd.testing.asked import Request, Requester, Responder, requester, responder
from understudyd.testing.bridged import RunningLink, until
from understudyd.testing.pairs import Pair, over
from understudyd.testing.sides import Side, StompSide

pytestmark = pytest.mark.integration

TTL = 300.0  # s
SOON = "priorityBackup=true&connectTimeout=500&maxReconnectDelay=200"


@contextmanager
def behind(side: Side) -> Iterator[tuple[FaultProxy, str]]:
    """A proxy before a broker, and the URI by that."""
    port = int(side.uri.rpartition(":")[2])
    with FaultProxy(side.broker.host, port) as proxy:
        yield proxy, side.uri.replace(f":{port}", f":{proxy.port}")


def serve(
    pair: Pair, asking: Requester, answering: Responder, *words: bytes, answered: bool = True
) -> Request:
    """Each is asked and answered, in turn; the last request, as the responder saw it."""
    for word in words:
        asking.ask(pair.here, word, f"id-{word.decode()}")
        request = answering.take(pair.there)
        assert request.body == word
        if answered:
            answering.answer(request, b"re: " + word)
            assert asking.answer() == (b"re: " + word, f"id-{word.decode()}")
    return request


@pytest.fixture(autouse=True)
def returns_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homing, "STABLE", 0.2)
    monkeypatch.setattr(homing, "LOOK_EVERY", 0.1)


def await_home(link: RunningLink, end: int, preferred: FaultProxy) -> None:
    """Until the bridge has returned; ``end`` is 0 for the source, 1 for the target."""

    def is_home() -> bool:
        return link.ports[end] == preferred.port and link.state == "running"

    until(is_home, "it has returned")


@over(("amqp", "amqp"), ("activemq", "rabbitmq-stomp"))
def test_replies_still_come_from_where_requests_went_before_a_return(pair: Pair) -> None:
    """The target was another one, which is there as well."""
    spare = pair.source
    spare.make(pair.there)
    with behind(pair.target) as (preferred, uri):
        preferred.refuse()
        with (
            pair.link(target=f"failover:({uri},{spare.uri})?{SOON}", reply_ttl=TTL) as link,
            closing(requester(pair.source)) as asking,
            closing(responder(spare)) as away,
            closing(responder(pair.target)) as home,
        ):
            serve(pair, asking, away, b"one")
            request = serve(pair, asking, away, b"two", answered=False)
            preferred.heal()
            await_home(link, 1, preferred)
            asking.ask(pair.here, b"three", "id-three")
            there = home.take(pair.there)
            away.answer(request, b"re: two")
            assert asking.answer() == (b"re: two", "id-two")
            home.answer(there, b"re: three")
            assert asking.answer() == (b"re: three", "id-three")
            serve(pair, asking, home, b"four")
            until(lambda: link.glance.replies == 4, "all are settled")
            glance = link.glance
            assert (glance.requests, glance.replies_lost, glance.requests_unserved) == (4, 0, 0)
    spare.remove(pair.there)


@over(("amqp", "amqp"), ("activemq", "rabbitmq-stomp"))
def test_replies_still_go_to_where_requests_came_from_before_a_return(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """The source was another one, where requesters still wait. When that is lost, what comes for
    them is counted."""
    spare = pair.target
    spare.make(pair.here)
    with behind(pair.source) as (preferred, uri), behind(spare) as (left, other):
        preferred.refuse()
        with (
            pair.link(source=f"failover:({uri},{other})?{SOON}", reply_ttl=TTL) as link,
            closing(requester(spare)) as away,
            closing(requester(pair.source)) as home,
            closing(responder(pair.target)) as answering,
        ):
            request = serve(pair, away, answering, b"one", answered=False)
            preferred.heal()
            await_home(link, 0, preferred)
            serve(pair, home, answering, b"two")
            answering.answer(request, b"re: one")
            assert away.answer() == (b"re: one", "id-one")
            assert link.glance.replies_lost == 0
            left.refuse()
            left.reset()
            until(lambda: "replies may be lost" in caplog.text, "the loss is told")
            answering.answer(request, b"more")
            until(lambda: link.glance.replies_lost == 1, "the loss is counted")
            serve(pair, home, answering, b"three")
            until(lambda: link.glance.replies == 3, "all are settled")
            assert (link.glance.requests, link.glance.requests_unserved) == (3, 0)
    spare.remove(pair.here)


@over(("amqp", "amqp"))
def test_replies_go_to_the_broker_of_a_list_that_is_in_use(pair: Pair) -> None:
    """And are read at the one that requests go to, when another has taken its place."""
    with behind(pair.source) as (here, uri), behind(pair.source) as (_, other):
        source = f"masterslave:({uri},{other})"
        with (
            pair.link(source=source, reply_ttl=TTL) as link,
            closing(requester(pair.source)) as asking,
            closing(responder(pair.target)) as answering,
        ):
            serve(pair, asking, answering, b"one")
            until(lambda: link.glance.replies == 1, "it is settled")
            here.refuse()
            here.reset()
            serve(pair, asking, answering, b"two", b"three")
            assert link.glance.requests_unserved == 0
            until(lambda: link.glance.replies == 3, "all are settled")


@over(("amqp", "amqp"))
def test_requests_wait_for_an_address_at_the_broker_that_takes_the_targets_place(
    pair: Pair,
) -> None:
    """It was lost with a request; the reply to that one is lost as well."""
    spare = pair.source
    spare.make(pair.there)
    with (
        behind(pair.target) as (lost, uri),
        pair.link(target=f"masterslave:({uri},{spare.uri})", reply_ttl=TTL) as link,
        closing(requester(pair.source)) as asking,
        closing(responder(pair.target)) as before,
        closing(responder(spare)) as after,
    ):
        serve(pair, asking, before, b"one")
        serve(pair, asking, before, b"two", answered=False)
        lost.refuse()
        lost.reset()
        serve(pair, asking, after, b"three", b"four")
        assert link.glance.requests_unserved == 0
    spare.remove(pair.there)


@over(("rabbitmq-stomp", "amqp"))
def test_requests_on_disk_of_brokers_of_two_kinds_are_each_read_as_what_they_are(
    pair: Pair, activemq: ActiveMQ, tmp_path: Path
) -> None:
    """The source is a list of both. What is for requesters of the one that is not in use any more
    is counted, and makes no queue at the other."""
    other = StompSide(activemq)
    with behind(pair.source) as (lost, source), behind(pair.target) as (far, target):
        settings = LinkSettings(spool=Spooling(tmp_path, 1 << 20))
        ends = {"source": f"masterslave:({source},{other.uri})?{SOON}", "target": target}
        with (
            pair.link(**ends, reply_ttl=TTL, settings=settings) as link,
            closing(requester(pair.source)) as before,
            closing(requester(other)) as after,
            closing(responder(pair.target)) as answering,
        ):
            serve(pair, before, answering, b"one")
            until(lambda: link.glance.replies == 1, "it is settled")
            far.refuse()
            far.reset()
            for word in (b"two", b"three"):
                before.ask(pair.here, word, "id")
            until(lambda: link.glance.spooled == 2, "they are on disk")
            lost.refuse()
            lost.reset()
            for word in (b"four", b"five"):
                after.ask(pair.here, word, "id")
            until(lambda: link.glance.spooled == 4, "these too")
            far.heal()
            for word in (b"two", b"three", b"four", b"five"):
                request = answering.take(pair.there)
                assert request.body == word
                answering.answer(request, b"re: " + word)
            assert after.answer() == (b"re: four", "id")
            assert after.answer() == (b"re: five", "id")
            serve(pair, after, answering, b"six")
            until(lambda: link.glance.replies == 4, "all are settled")
            until(lambda: link.glance.replies_lost == 2, "the others are counted")
            assert link.glance.requests_unserved == 0
