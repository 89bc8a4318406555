"""Replies over a bridge: whose reply-to is one, what a responder is told, who is forgotten."""

from __future__ import annotations

import pytest

from understudyd.bridge import replies
from understudyd.bridge.content import StompContent, Untranslatable
from understudyd.bridge.dialects import ACTIVEMQ, ARTEMIS, RABBITMQ_AMQP, RABBITMQ_STOMP, Dialect
from understudyd.bridge.forward import Forwarder
from understudyd.bridge.names import QUEUE, Destination
from understudyd.bridge.parcels import PROPERTIES, amqp_route
from understudyd.bridge.parking import Parking
from understudyd.bridge.replies import (
    ReplyBook,
    ReplyRoutes,
    Requester,
    asked_in,
    reply_place,
)
from understudyd.bridge.routes import Options, Routes, Verdict
from understudyd.bridge.wire.bodies import body_frames
from understudyd.bridge.wire.properties import build, get, read
from understudyd.bridge.wire.reader import Delivery
from understudyd.bridge.wire.tables import Table

GEN = "amq.gen-JzTY20BRgKO"
DIRECT = "amq.rabbitmq.reply-to.g1h2AA5yZXBseUAy.Lz6qmGtOOpgrAk7F5nbHhg=="
TEMP = "/remote-temp-queue/ID:host-1-2:3:1"
OURS = "understudy.reply.other.0123456789abcdef"


def book(ttl: float = 300.0, link: str = "queue://orders") -> ReplyBook:
    return ReplyBook("b", link, ttl)


def served(made: ReplyBook, reply_to: str, dialect: Dialect = RABBITMQ_AMQP) -> Requester:
    one = made.enter(reply_to, dialect, 0.0)
    one.address = f"at-{one.name}"
    return one


def over_amqp(**properties: str) -> Delivery:
    return (1, 0, b"\0\x06orders", build(properties), 1, body_frames(b"x", 4096))


@pytest.mark.parametrize(
    ("shown", "dialect", "found"),
    [
        (f"/reply-queue/{GEN}", RABBITMQ_STOMP, [GEN]),
        (f"/reply-queue/{DIRECT}", RABBITMQ_STOMP, [DIRECT]),
        (f"/reply-queue/{OURS}", RABBITMQ_STOMP, [OURS]),
        ("/queue/orders.replies", RABBITMQ_STOMP, []),
        ("/reply-queue/orders.replies", RABBITMQ_STOMP, []),
        (TEMP, RABBITMQ_STOMP, []),
        (TEMP, ACTIVEMQ, [TEMP]),
        ("/remote-temp-topic/ID:a:1", ACTIVEMQ, ["/remote-temp-topic/ID:a:1"]),
        (f"/queue/{OURS}", ACTIVEMQ, [OURS]),
        ("/queue/orders.replies", ACTIVEMQ, []),
        (f"/queue/{GEN}", ACTIVEMQ, []),
        ("", ACTIVEMQ, []),
        (OURS, ARTEMIS, [OURS]),
    ],
)
def test_what_its_own_broker_alone_serves_is_private(
    shown: str, dialect: Dialect, found: list[str]
) -> None:
    """An ordinary queue is not, nor what another kind of broker calls so."""
    deliveries = [(1, StompContent({"reply-to": shown}, b"")), (2, StompContent({}, b""))]
    assert asked_in(deliveries, dialect)[0] == found


def test_over_amqp_private_is_what_rabbitmq_has_named() -> None:
    deliveries = [
        over_amqp(reply_to=GEN, correlation_id="1"),
        over_amqp(reply_to=DIRECT),
        over_amqp(reply_to="orders.replies"),
        over_amqp(correlation_id="2"),
        over_amqp(),
        (6, 0, b"\0\0", b"\x02\0\xff", 0, b""),  # cannot be read
    ]
    assert asked_in(deliveries, RABBITMQ_AMQP) == ([GEN, DIRECT], 2)


def test_where_all_replies_are_wanted_every_reply_to_is_a_requesters() -> None:
    told = [over_amqp(reply_to="orders.replies"), over_amqp(reply_to=""), over_amqp(reply_to=GEN)]
    assert asked_in(told, RABBITMQ_AMQP, is_all=True) == (["orders.replies", GEN], 1)
    headers = [{"reply-to": "/queue/a"}, {"reply-to": TEMP}, {}, {"reply-to": ""}]
    deliveries = [(tag, StompContent(one, b"")) for tag, one in enumerate(headers)]
    assert asked_in(deliveries, ACTIVEMQ, is_all=True) == (["a", TEMP], 0)
    assert asked_in(deliveries, ACTIVEMQ) == ([TEMP], 1)
    made = ReplyBook("b", "queue://orders", 300.0, is_all=True)
    made.enter("orders.replies", RABBITMQ_AMQP, 0.0).address = "at"
    assert get(made.patch(build({"reply_to": "orders.replies"})), "reply_to") == "at"
    assert get(made.patch(build({"reply_to": "other"})), "reply_to") == "other"


def test_it_is_found_whatever_stands_before_it_and_never_beyond_the_bytes() -> None:
    """Each prefix of the bytes is read, or is none."""
    before: Table = {
        "content_type": "a/b",
        "content_encoding": "utf-8",
        "headers": {"a": "amq.gen-no", "b": 5},
        "delivery_mode": 2,
        "priority": 0,
        "correlation_id": "amq.gen-no",
    }
    for count in range(1 << len(before)):
        chosen: Table = {
            name: value for place, (name, value) in enumerate(before.items()) if count >> place & 1
        }
        raw = build({**chosen, "reply_to": GEN, "message_id": "m"})
        place = reply_place(raw)
        assert place is not None
        assert raw[slice(*place)] == GEN.encode()
        assert reply_place(build({**chosen, "reply_to": "orders"})) is None
        for end in range(2, place[1]):
            assert reply_place(raw[:end]) is None


def test_one_requester_has_one_name_that_is_the_same_when_the_bridge_begins_anew() -> None:
    name = book().enter(GEN, RABBITMQ_AMQP, 0.0).name
    assert name.startswith("understudy.reply.b.")
    assert book().enter(GEN, RABBITMQ_AMQP, 9.0).name == name
    others = [book().enter(DIRECT, RABBITMQ_AMQP, 0.0), book(60.0).enter(GEN, RABBITMQ_AMQP, 0.0)]
    others.append(book(link="queue://else").enter(GEN, RABBITMQ_AMQP, 0.0))
    assert len({name, *(one.name for one in others)}) == 4


@pytest.mark.parametrize(
    ("reply_to", "dialect", "where"),
    [
        (GEN, RABBITMQ_AMQP, Destination(QUEUE, GEN)),
        (DIRECT, RABBITMQ_STOMP, Destination(QUEUE, DIRECT)),
        (TEMP, ACTIVEMQ, Destination("temp-queue", "ID:host-1-2:3:1")),
        (OURS, ACTIVEMQ, Destination(QUEUE, OURS)),
    ],
)
def test_a_reply_goes_to_where_its_requester_waits(
    reply_to: str, dialect: Dialect, where: Destination
) -> None:
    made = book()
    one = served(made, reply_to, dialect)
    routes = ReplyRoutes(made, "there", "here")
    read_from = Destination(QUEUE, one.name)
    assert routes.permits(read_from)
    assert routes.target(read_from) == where
    decision = routes.decide(read_from, "here,there")  # a responder may have copied the headers
    assert decision.verdict is Verdict.FORWARD
    late = Destination(QUEUE, "understudy.reply.b.gone")
    assert not routes.permits(late)
    assert routes.decide(late, None).verdict is Verdict.DROP


def test_an_address_that_makes_no_sense_is_nobodys() -> None:
    with pytest.raises(Untranslatable):
        book().enter("/somewhere/else", ACTIVEMQ, 0.0)


def test_a_responder_is_told_the_address_once_there_is_one() -> None:
    made = book()
    one = made.enter(GEN, RABBITMQ_AMQP, 0.0)
    raw = build({"reply_to": GEN, "correlation_id": "c", "content_type": "a/b"})
    assert (made.address(GEN), made.patch(raw), made.is_served(GEN)) == (GEN, raw, False)
    one.address = TEMP
    assert (made.address(GEN), made.is_served(GEN)) == (TEMP, True)
    assert read(made.patch(raw)) == {**read(raw), "reply_to": TEMP}
    assert get(made.patch(build({"reply_to": DIRECT})), "reply_to") == DIRECT
    assert made.address("orders.replies") == "orders.replies"
    plain = build({"reply_to": "orders.replies"})
    assert made.patch(plain) is plain


def test_a_request_counts_when_it_goes_on_and_keeps_its_requester() -> None:
    made = book(ttl=10.0)
    served(made, GEN)
    made.enter(DIRECT, RABBITMQ_AMQP, 0.0)
    made.use(GEN, 5.0)
    made.use(DIRECT, 5.0)
    made.use("amq.gen-unknown", 5.0)
    assert (made.requests, made.unserved) == (1, 2)
    assert [one.reply_to for one in made.overdue(10.1)] == [DIRECT]
    assert made.overdue(15.0) == []
    assert [one.reply_to for one in made.overdue(15.1)] == [GEN]
    assert len(made) == 0
    assert made.address(GEN) == GEN


def test_of_too_many_requesters_those_go_that_asked_longest_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replies, "MOST", 2)
    made = book()
    for number in range(4):
        served(made, f"amq.gen-{number}")
    made.use("amq.gen-0", 1.0)
    assert [one.reply_to for one in made.overdue(1.0)] == ["amq.gen-1", "amq.gen-2"]
    assert [one.reply_to for one in made] == ["amq.gen-3", "amq.gen-0"]


def test_who_is_gone_is_counted_and_forgotten() -> None:
    made = book()
    one = served(made, GEN)
    assert made.miss(GEN, 3) is one
    assert made.miss(GEN) is None
    assert (made.lost, len(made), made.by_name(one.name)) == (4, 0, None)


def test_who_asked_before_a_turn_is_served_as_before_and_new_when_asking_again() -> None:
    made = book(ttl=10.0)
    one = served(made, GEN)
    made.turn()
    assert (len(made), made.is_served(GEN), made.address(GEN)) == (0, False, GEN)
    assert made.by_name(one.name) is one
    again = made.enter(GEN, RABBITMQ_AMQP, 5.0)
    assert again is not one
    assert made.by_name(one.name) is again
    made.use(GEN, 5.0)
    assert made.overdue(12.0) == []
    made.forget(again.name)
    assert made.by_name(one.name) is None


def test_a_turn_back_makes_those_of_before_wait_for_addresses_again() -> None:
    made = book()
    served(made, GEN)
    made.turn()
    served(made, "amq.gen-later")
    made.turn_back()
    assert [(one.reply_to, one.address) for one in made] == [(GEN, ""), ("amq.gen-later", "")]


def test_a_direct_reply_is_not_sent_to_another_broker_than_asked() -> None:
    made = book()
    routes = ReplyRoutes(made, "there", "here")
    for reply_to in (GEN, DIRECT):
        served(made, reply_to)
        made.use(reply_to, 1.0, "a")

    def permitted() -> list[str]:
        return [one.reply_to for one in made if routes.permits(Destination(QUEUE, one.name))]

    made.turn_back("a")
    assert permitted() == [GEN, DIRECT]
    made.turn_back("b")
    assert permitted() == [GEN]
    made.turn_back("a")
    assert permitted() == [GEN]
    made.enter(DIRECT, RABBITMQ_AMQP, 2.0).address = "at"
    made.use(DIRECT, 2.0, "a")
    assert permitted() == [GEN, DIRECT]


def test_no_reply_goes_to_a_broker_of_another_kind_than_asked() -> None:
    made = book()
    one = served(made, f"/queue/{OURS}", ACTIVEMQ)
    routes = ReplyRoutes(made, "there", "here")
    where = Destination(QUEUE, one.name)
    for dialect, is_sent in ((ACTIVEMQ, True), (RABBITMQ_STOMP, False)):
        routes.dialect = dialect.name
        assert routes.permits(where) == is_sent


def test_between_two_ends_of_amqp_the_reply_to_alone_changes_and_is_not_kept() -> None:
    """An address may be another one for the next request with the same properties."""
    made = book()
    routes = Routes(Options(), "here", "there")
    forwarder = Forwarder(routes, "orders", Parking("b"), made)
    delivery = over_amqp(reply_to=GEN, correlation_id="1")
    for address in (GEN, "one", "another"):
        if address != GEN:
            made.enter(GEN, RABBITMQ_AMQP, 0.0).address = address
        batch = forwarder.prepare([delivery], 0)
        (parcel,) = batch.parcels
        assert get(parcel[1][PROPERTIES], "reply_to") == address
        assert get(parcel[1][PROPERTIES], "correlation_id") == "1"
        assert amqp_route(parcel) == ("", "orders")


def test_without_replies_a_reply_to_stays_as_it_is() -> None:
    forwarder = Forwarder(Routes(Options(), "here", "there"), "orders", Parking("b"))
    (parcel,) = forwarder.prepare([over_amqp(reply_to=GEN)], 0).parcels
    assert get(parcel[1][PROPERTIES], "reply_to") == GEN
