"""Requests over a bridge, and the replies to them: scenario 66; J04.

The requester waits at an address that its own broker alone serves, and the responder answers to
what it sees in the request.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest

from understudy.testing import FaultProxy
from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudy.testing.celery_worker import Worker, client
from understudyd.bridge.content import AmqpContent, StompContent
from understudyd.bridge.ends import reply_sources
from understudyd.bridge.wire.properties import build
from understudyd.testing.asked import Request, Requester, Responder, requester, responder
from understudyd.testing.bridged import RunningLink, until
from understudyd.testing.operated import Operated
from understudyd.testing.pairs import KINDS, Pair, over
from understudyd.testing.sides import AmqpSide, Frames, Side, StompSide

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
        _lose(link, answering, asked)
        assert link.glance.requesters == 0
        before = link.glance.replies
        _served(pair, asking, answering, b"one", b"two")
        until(lambda: link.glance.replies == before + 2, "the others are settled")
        assert link.parked == 0
        assert link.glance.replies_reason == ""


def _lose(link: RunningLink, answering: Responder, asked: Request, others: int = 0) -> None:
    """Answer to who has gone, again while its broker has not seen that it went; ``others`` are lost
    already."""

    def is_lost() -> bool:
        if link.glance.replies + link.glance.replies_lost >= expected[0]:
            answering.answer(asked, b"nobody")
            expected[0] += 1
        return link.glance.replies_lost > others

    expected = [link.glance.replies + link.glance.replies_lost]
    until(is_lost, "the loss is seen")


@over(("amqp", "amqp"), ("activemq", "rabbitmq-stomp"))
def test_two_processes_of_one_bridge_leave_each_other_the_addresses(
    pair: Pair, answering: Responder, caplog: pytest.LogCaptureFixture
) -> None:
    """Both have given out the same one; when either knows that nobody waits there, the other goes
    on reading it."""
    with pair.link(reply_ttl=TTL) as one, pair.link(reply_ttl=TTL) as other:

        def serve_both(asking: Requester) -> None:
            before = [link.glance.requests for link in (one, other)]

            def have_served() -> bool:
                _served(pair, asking, answering, b"a")
                now = [link.glance.requests for link in (one, other)]
                return all(was < count for was, count in zip(before, now, strict=True))

            until(have_served, "both have served it")

        with closing(requester(pair.source)) as going:
            serve_both(going)
            going.ask(pair.here, b"late", "late")
            asked = answering.take(pair.there)

        def is_known() -> bool:
            answering.answer(asked, b"nobody")
            return one.glance.requesters == 0 or other.glance.requesters == 0

        until(is_known, "one of them sees the loss")
        with closing(requester(pair.source)) as asking:
            serve_both(asking)
    assert "waiting-source" not in caplog.text


@over(("amqp", "amqp"), ("activemq", "amqp"), ("rabbitmq-stomp", "activemq"))
def test_an_ordinary_reply_queue_is_left_as_it_is(
    pair: Pair, answering: Responder, caplog: pytest.LogCaptureFixture
) -> None:
    """It has a bridge of its own, or none; no address is made, and nothing connects."""
    caplog.set_level("INFO")
    if isinstance(pair.source, AmqpSide):
        pair.source.put(pair.here, AmqpContent(build({"reply_to": "orders.replies"}), b"x"))
    else:
        told = StompContent({"reply-to": "/queue/orders.replies"}, b"x")
        pair.source.put(pair.here, told)
    with pair.link(reply_ttl=TTL) as link:
        assert answering.take(pair.there).reply_to.endswith("orders.replies")
        until(lambda: link.forwarded == 1, "it is settled")
        assert (link.glance.requests, link.glance.requests_unserved) == (0, 0)
    assert caplog.text.count("requests name an ordinary queue") == 1


@over(("amqp", "amqp"), ("activemq", "amqp"), ("rabbitmq-stomp", "activemq"))
def test_replies_to_ordinary_queues_come_back_where_all_are_wanted(
    pair: Pair, answering: Responder
) -> None:
    """Though the responder's broker has no such queue."""
    mine = f"{pair.here}.replies"
    pair.source.make(mine)
    with pair.link(reply_ttl=TTL, are_all_replies=True) as link:
        if isinstance(pair.source, AmqpSide):
            pair.source.put(pair.here, AmqpContent(build({"reply_to": mine}), b"x"))
        else:
            told = StompContent({"reply-to": pair.source.address(mine)}, b"x")
            pair.source.put(pair.here, told)
        answering.answer(answering.take(pair.there), b"re: x")
        until(lambda: link.glance.replies == 1, "it is settled")
    assert [content.body for content in pair.source.take(mine)] == [b"re: x"]
    pair.source.remove(mine)


@pytest.mark.slow
def test_celery_gets_results_by_rpc_where_all_replies_are_wanted(
    rabbit_a: RabbitMQ, rabbit_b: RabbitMQ, unique: str, tmp_path: Path
) -> None:
    """Its clients wait at ordinary queues that go with them."""
    pair = Pair(AmqpSide(rabbit_a), AmqpSide(rabbit_b), unique)
    pair.make()
    told = {"task_default_queue": pair.there, "result_backend": "rpc://"}
    names = {"task_default_queue": pair.here, "broker_url": rabbit_a.uri}
    rename = {f"queue://{pair.here}": f"queue://{pair.there}"}
    with (
        Worker({**told, "broker_url": rabbit_b.uri}, tmp_path, name="worker") as worker,
        Operated(
            tmp_path, rabbit_a.uri, rabbit_b.uri, pair.here, rename=rename, replies="all"
        ) as bridge,
        client({**told, **names}) as app,
    ):
        worker.wait_ready()
        sent = [app.tasks["tests.add"].delay(number, 1) for number in range(5)]
        assert [one.get(timeout=30) for one in sent] == [1, 2, 3, 4, 5]
        until(lambda: bridge.bridge().get("replies") == 5, "all are settled")
        link = bridge.bridge()["links"][0]
        assert (link["requests"], link["requesters"]) == (5, 1)
        assert bridge.stop() == 0
    pair.remove()


@over(("amqp", "amqp"))
def test_a_queue_of_the_requesters_connection_is_served_too(
    pair: Pair, answering: Responder
) -> None:
    with pair.link(reply_ttl=TTL) as link:
        with closing(requester(pair.source, is_direct=False)) as asking:
            request = _served(pair, asking, answering, b"one", b"two")
            assert request.reply_to.startswith(f"understudy.reply.{pair.here}.")
        answering.answer(request, b"late")
        until(lambda: link.glance.replies_lost == 1, "the loss is seen")
        assert (link.glance.requesters, link.glance.replies) == (0, 2)


@over(("amqp", "amqp"), ("rabbitmq-stomp", "amqp"))
def test_a_reply_over_which_the_requesters_broker_fails_hinders_nobody(
    pair: Pair, asking: Requester, answering: Responder
) -> None:
    """A direct reply-to of a node that it does not know, as anybody may write into a request."""
    assert isinstance(pair.source.broker, RabbitMQ)
    here = AmqpSide(pair.source.broker)
    with closing(requester(pair.target)) as elsewhere:
        elsewhere.ask(pair.there, b"?")
        unknown = answering.take(pair.there).reply_to
        here.put(pair.here, AmqpContent(build({"reply_to": unknown}), b"forged"))
        with pair.link(reply_ttl=TTL) as link:
            asked = answering.take(pair.there)
            assert asked.reply_to.startswith("understudy.reply.")
            answering.answer(asked, b"nobody")
            _served(pair, asking, answering, b"one", b"two")
            until(lambda: link.glance.replies_lost == 1, "the loss is counted")
            assert link.glance.replies_reason == ""


@over(("rabbitmq-stomp", "rabbitmq-stomp"), ("activemq", "activemq"))
def test_an_address_goes_when_nobody_asks_any_more_and_comes_again(
    pair: Pair, asking: Requester, answering: Responder
) -> None:
    """A requester that died without a word is cleaned up; nothing of it stays at the target."""
    with pair.link(reply_ttl=1.0) as link:
        request = _served(pair, asking, answering, b"one")
        until(lambda: link.glance.requesters == 0, "it is forgotten")
        if not isinstance(pair.target.broker, ActiveMQ):
            name = request.reply_to.removeprefix("/reply-queue/")
            until(lambda: name not in _queues(pair.target), "its queue is gone")
        _served(pair, asking, answering, b"two")
        assert (link.glance.requests, link.glance.requesters) == (2, 1)


def _queues(side: Side) -> str:
    """Asked of the node, since a question of a client would keep a queue from expiring."""
    assert isinstance(side.broker, RabbitMQ)
    return side.broker.ctl("list_queues", "name")


@over(("amqp", "activemq"), ("activemq", "rabbitmq-stomp"), ("rabbitmq-stomp", "amqp"))
def test_replies_go_on_after_connections_broke(
    pair: Pair, asking: Requester, answering: Responder
) -> None:
    """J04: what was in flight then may be lost, as a time-out that its requester sees; where the
    broker keeps the queue it is not."""
    with FaultProxy(pair.target.broker.host, _port(pair.target)) as proxy:
        there = pair.target.uri.replace(f":{_port(pair.target)}", f":{proxy.port}")
        with pair.link(target=there, reply_ttl=TTL) as link:
            _served(pair, asking, answering, b"one")
            until(lambda: link.glance.replies == 1, "it is settled")
            asking.ask(pair.here, b"two", "id-two")
            request = answering.take(pair.there)
            proxy.refuse()
            proxy.reset()
            until(lambda: link.glance.replies_reason, "the loss is seen")
            if not isinstance(pair.target.broker, ActiveMQ):
                answering.answer(request, b"re: two")
            proxy.heal()
            if not isinstance(pair.target.broker, ActiveMQ):
                assert asking.answer() == (b"re: two", "id-two")
            _served(pair, asking, answering, b"three", b"four")
            assert link.glance.replies_reason == ""
            assert link.glance.requests_unserved == 0


def _port(side: Side) -> int:
    return int(side.uri.rpartition(":")[2])


@over(("activemq", "amqp"))
def test_a_bridge_that_was_killed_brings_replies_again(
    pair: Pair, asking: Requester, answering: Responder, tmp_path: Path
) -> None:
    """By default, and the same address is read again."""
    rename = {f"queue://{pair.here}": f"queue://{pair.there}"}
    bridge = Operated(tmp_path, pair.source.uri, pair.target.uri, pair.here, rename=rename)
    with bridge:
        _served(pair, asking, answering, b"one")
        until(lambda: bridge.bridge().get("replies") == 1, "it is settled")
        asking.ask(pair.here, b"two", "id-two")
        request = answering.take(pair.there)
        bridge.kill()
        answering.answer(request, b"re: two")
        bridge.start()
        asking.ask(pair.here, b"three", "id-three")
        assert answering.take(pair.there).reply_to == request.reply_to
        assert asking.answer() == (b"re: two", "id-two")
        until(lambda: bridge.bridge().get("replies") == 1, "it is counted")
        told = bridge.bridge()
        assert (told["requests"], told["replies_lost"]) == (1, 0)
        assert told["links"][0]["requesters"] == 1
        assert "understudy_bridge_replies_total" in bridge.get("/metrics")[1]
        assert bridge.stop() == 0


@over(("activemq", "activemq"), ("amqp", "rabbitmq-stomp"))
def test_a_reply_comes_back_over_two_bridges(pair: Pair, unique: str) -> None:
    """B21; the address of the first bridge is private to the second."""
    third = Pair(pair.target, pair.source, unique)
    third.here, third.there = pair.there, f"{unique}.third"
    third.source.make(third.there)
    third.target.make(third.there)
    names = {"here": "b/", "there": "c/", "name": f"{unique}-2"}
    with (
        pair.link(reply_ttl=TTL, here="a/", there="b/") as first,
        third.link(reply_ttl=TTL, **names) as second,
        closing(requester(pair.source)) as asking,
        closing(responder(third.target)) as answering,
    ):
        asking.ask(pair.here, b"far", "id-far")
        request = answering.take(third.there)
        answering.answer(request, b"re: far")
        assert asking.answer() == (b"re: far", "id-far")
        until(lambda: (first.glance.replies, second.glance.replies) == (1, 1), "both count")
    third.source.remove(third.there)
    third.target.remove(third.there)


@pytest.mark.slow
@over(("activemq", "activemq"))
def test_temporary_queues_of_requesters_that_are_gone_do_not_gather(
    pair: Pair, asking: Requester, answering: Responder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go with a connection that another takes the place of; what was asked before still gets
    its reply."""
    monkeypatch.setattr(reply_sources, "WORN", 2)
    with pair.link(reply_ttl=3.0) as link:
        addresses = {_served(pair, asking, answering, b"one").reply_to}
        asking.ask(pair.here, b"two", "id-two")
        before = answering.take(pair.there)
        gone = []
        for number in range(4):
            with closing(requester(pair.source)) as going:
                going.ask(pair.here, b"gone", "gone")
                gone.append(answering.take(pair.there))
            _lose(link, answering, gone[-1], number)
        addresses.add(_served(pair, asking, answering, b"three").reply_to)
        answering.answer(before, b"re: two")
        assert asking.answer() == (b"re: two", "id-two")
        assert len(addresses) == 2
        until(lambda: not _takes(pair.target, gone[0].reply_to), "the first connection is gone")
        _served(pair, asking, answering, b"four")


def _takes(side: Side, address: str) -> bool:
    """Whether a temporary queue is there."""
    assert isinstance(side, StompSide)
    with closing(Frames(side.broker.host, _port(side))) as frames:
        frames.write("SEND", {"destination": address, "receipt": "in"}, b"who?")
        try:
            frames.read("RECEIPT")
        except AssertionError:  # an ERROR
            return False
        return True
