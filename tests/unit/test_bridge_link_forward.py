"""From a delivery to a publish: the path grows, the body and all else stay as they were."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudyd.bridge.forward import KEPT, Forwarder
from understudyd.bridge.mapping.headers import PATH as PATH_HEADER
from understudyd.bridge.parking import Parking
from understudyd.bridge.routes import Options, Routes
from understudyd.bridge.wire.bodies import body_frames, content_header
from understudyd.bridge.wire.methods import encode_publish
from understudyd.bridge.wire.properties import build, get, header_content, read
from understudyd.bridge.wire.reader import Delivery
from understudyd.bridge.wire.tables import Typed, Value
from understudyd.bridge.worn import COUNT, USUAL_LIMIT, most_of

ROUTE = b"\x03amq\x06orders"
BODY = body_frames(b"body", 4096)
MOST = most_of(USUAL_LIMIT)
NOW = 1_800_000_000_000


def delivery(tag: int, properties: bytes, route: bytes = ROUTE) -> Delivery:
    return (tag, 0, route, properties, 4, BODY)


def forwarder(queue: str | None = "orders", **options: Any) -> Forwarder:
    given = {"network_ttl": -1, "rename": {"queue://orders": "exchange://to-amq/ORDERS"}, **options}
    return Forwarder(Routes(Options(**given), "a/", "b/"), queue, Parking("b"))


def sent(properties: dict[str, Value]) -> dict[str, Value]:
    """The properties of the one message that these became."""
    ((_, header, _, _),) = forwarder().prepare([delivery(1, build(properties))], NOW).parcels
    return read(header[19:-1])


def test_a_batch_keeps_its_order_and_its_bodies() -> None:
    raw = build({"delivery_mode": 2})
    tags, parcels, aside, *_ = forwarder().prepare([delivery(3, raw), delivery(4, raw)], NOW)
    assert (tags, aside) == ([3, 4], [])
    wanted = build({"delivery_mode": 2, "headers": {PATH_HEADER: "a/"}})
    expected = (encode_publish("to-amq", "ORDERS"), content_header(wanted, 4), BODY, 4)
    assert parcels == [expected, expected]
    assert parcels[0][2] is BODY


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "content_type": st.text(max_size=9),
            "priority": st.integers(0, 255),
            "message_id": st.text(max_size=9),
            "timestamp": st.integers(0, 1 << 63),
            "headers": st.dictionaries(st.text("ab", min_size=1), st.floats(allow_nan=False)),
        },
    )
)
def test_all_else_stays_as_it_was(properties: dict[str, Value]) -> None:
    headers = properties.get("headers", {})
    assert isinstance(headers, dict)
    assert sent(properties) == {**properties, "headers": {**headers, PATH_HEADER: "a/"}}


def test_the_path_grows_with_each_hop() -> None:
    assert sent({"headers": {PATH_HEADER: "x/,y/", "n": 1}})["headers"] == {
        PATH_HEADER: "x/,y/,a/",
        "n": 1,
    }
    assert sent({"headers": {PATH_HEADER: 7}})["headers"] == {PATH_HEADER: "a/"}


def test_what_a_broker_would_refuse_or_route_by_gets_another_name() -> None:
    """A user id must be the publisher's own; CC and BCC are further routing keys."""
    assert sent({"user_id": "alice", "headers": {"CC": ["x"], "BCC": ["y"], "CCC": "z"}}) == {
        "headers": {
            "CCC": "z",
            "x-understudy-user-id": "alice",
            "x-understudy-cc": ["x"],
            "x-understudy-bcc": ["y"],
            PATH_HEADER: "a/",
        }
    }
    assert sent({"message_id": "\2CC"})["message_id"] == "\2CC"


def test_what_cannot_be_read_is_parked_and_the_batch_goes_on() -> None:
    broken = b"\x20\0\0\0\1\0"
    good = build({})
    batch = [delivery(1, good), delivery(2, broken), delivery(3, good)]
    tags, parcels, *_ = forwarder().prepare(batch, NOW)
    assert tags == [1, 2, 3]
    assert [parcel[0] for parcel in parcels] == [
        encode_publish("to-amq", "ORDERS"),
        encode_publish("", "understudy.parking.b"),
        encode_publish("to-amq", "ORDERS"),
    ]


def test_what_outgrows_a_frame_of_the_target_is_parked_at_the_source_as_it_was() -> None:
    """The broker would close over it, also in its parking queue."""
    options = Options(network_ttl=-1, headers_set={"a": "x" * 4000})
    parking = Parking("b", frame_max=lambda: 4096)
    ours = Forwarder(Routes(options, "a/", "b/"), "orders", parking)
    batch = [delivery(1, build({})), delivery(2, build({"headers": {"b": "y" * 100}}))]
    tags, parcels, *special = ours.prepare(batch, NOW)
    assert (tags, special) == ([1, 2], [[2], [], 0])
    assert [parcel[0] for parcel in parcels] == [
        encode_publish("", "orders"),
        encode_publish("", "understudy.parking.b"),
    ]
    headers = read(parcels[1][1][19:-1])["headers"]
    assert isinstance(headers, dict)
    assert headers["b"] == "y" * 100
    assert not {"a", PATH_HEADER} & set(headers)
    reason = "its properties would have 4145 bytes; 4076 fit into a frame"
    assert headers["x-understudy-parked-reason"] == reason


def test_what_is_kept_is_bounded_and_right() -> None:
    ours = forwarder()
    for number in range(KEPT + 10):
        raw = build({"message_id": str(number)})
        route = b"\0" + bytes([3]) + b"%03d" % (number % 999)
        (parcel,) = ours.prepare([delivery(1, raw, route)], NOW).parcels
        assert read(parcel[1][19:-1])["message_id"] == str(number)
    assert len(ours._patched) <= KEPT
    assert len(ours._publishes) <= KEPT
    large = build({"message_id": "x", "headers": {"a": "x" * 4096}})
    ours.prepare([delivery(1, large, b"\0\3000")], NOW)
    assert large not in ours._patched
    assert header_content(parcel[1][19:-1])


def topic(key: str) -> bytes:
    return b"\x09amq.topic" + bytes([len(key)]) + key.encode()


def test_a_topics_copy_that_is_excluded_or_came_far_enough_is_left_out() -> None:
    ours = forwarder(
        None,
        network_ttl=2,
        rename={"topic://prices.*": "topic://quotes.*"},
        dynamically_included=["topic://prices.>"],
        excluded=["topic://prices.test"],
    )
    plain = build({})
    paths = ["x/", "x/,y/", "b/"]
    batch = [
        delivery(1, plain, topic("prices.test")),
        *(
            delivery(tag, build({"headers": {PATH_HEADER: path}}), topic("prices.ibm"))
            for tag, path in enumerate(paths, 2)
        ),
        delivery(5, plain, topic("orders")),
        delivery(6, plain, topic("prices.ibm")),
    ]
    for _ in range(2):  # what is kept decides alike
        tags, parcels, *_ = ours.prepare(batch, NOW)
        assert tags == [2, 6]
        assert parcels[0][0] == encode_publish("amq.topic", "quotes.ibm")
        assert read(parcels[0][1][19:-1])["headers"] == {PATH_HEADER: "x/,a/"}
    assert (ours.dropped, ours.expired) == (8, 0)


def test_headers_are_set_and_removed() -> None:
    ours = forwarder(headers_set={"site": "hq"}, headers_remove=["secret"])
    raw = build({"headers": {"secret": "x", "kept": 1.5}})
    (parcel,) = ours.prepare([delivery(1, raw)], NOW).parcels
    assert read(parcel[1][19:-1])["headers"] == {"kept": 1.5, "site": "hq", PATH_HEADER: "a/"}


def test_10_a_time_to_live_does_not_begin_anew() -> None:
    """What was spent at the source is known by the timestamp, later by the header beside it."""
    ours = forwarder()
    seconds = NOW // 1000
    raw = build({"expiration": "5000", "timestamp": seconds - 3})
    for later, left in ((0, 3000), (1000, 2000)):  # nothing of it is remembered
        (parcel,) = ours.prepare([delivery(1, raw)], NOW + later).parcels
        assert read(parcel[1][19:-1]) == {
            "expiration": str(left),
            "timestamp": seconds - 3,
            "headers": {"x-understudy-deadline": f"{NOW + 3000} {left}", PATH_HEADER: "a/"},
        }
    (again,) = ours.prepare([delivery(1, parcel[1][19:-1])], NOW + 2500).parcels
    assert read(again[1][19:-1])["expiration"] == "500"


def test_10_what_has_expired_is_left_out_and_counted() -> None:
    ours = forwarder()
    deadline: Value = {"x-understudy-deadline": f"{NOW - 1} 100"}
    over = build({"expiration": "100", "headers": deadline})
    tags, _, aside, *_ = ours.prepare([delivery(1, over), delivery(2, build({}))], NOW)
    assert (tags, aside, ours.expired) == ([2], [], 1)


def test_11_an_expiration_that_is_no_number_goes_into_a_header() -> None:
    assert sent({"expiration": "soon"}) == {
        "headers": {"x-understudy-expiration": "soon", PATH_HEADER: "a/"}
    }


@pytest.mark.parametrize(
    ("path", "ttl", "stays"),
    [(None, 1, False), ("c/", 1, True), ("c/", 2, False), ("b/", 9, True), ("c/,d/", 2, True)],
)
def test_a_queues_message_past_its_limit_goes_back_as_it_is(
    path: str | None, ttl: int, stays: bool
) -> None:
    """B09: neither parked nor settled away."""
    ours = forwarder(network_ttl=ttl)
    raw = build({"headers": {PATH_HEADER: path, "a": 1} if path else {"a": 1}, "priority": 4})
    for _ in range(2):
        batch = ours.prepare([delivery(1, raw)], NOW)
        assert batch.tags == [1]
        assert batch.stays == batch.aside == ([1] if stays else [])
        ((publish, header, frames, size),) = batch.parcels
        if stays:
            assert publish == encode_publish("", "orders")
            assert header == content_header(raw, 4)
            assert (frames, size) == (BODY, 4)
    assert ours.dropped == 0


def test_a_message_that_goes_back_does_not_live_longer_for_it() -> None:
    ours = forwarder(network_ttl=1)
    raw = build({"headers": {PATH_HEADER: "c/"}, "expiration": "1000", "user_id": "x"})
    (parcel,) = ours.prepare([delivery(1, raw)], NOW).parcels
    again = parcel[1][19:-1]
    assert get(again, "user_id") is None
    (parcel,) = ours.prepare([delivery(1, again)], NOW + 400).parcels
    again = parcel[1][19:-1]
    assert get(again, "expiration") == "600"
    assert ours.prepare([delivery(1, again)], NOW + 2000).tags == []
    assert ours.expired == 1


def test_what_was_delivered_in_vain_too_often_goes_to_the_tail_of_its_queue() -> None:
    """Scenario 31: its quorum queue counts anew, and does not put it away."""
    worn = build({"headers": {"a": "b", COUNT: Typed("l", MOST)}, "message_id": "m"})
    tired = build({"headers": {COUNT: Typed("l", MOST - 1)}})
    first = delivery(1, worn)
    batch = [first, (2, 1, *first[2:]), (3, 1, first[2], tired, *first[4:])]
    tags, parcels, aside, stays, _ = forwarder().prepare(batch, NOW)
    assert (tags, aside, stays) == ([1, 2, 3], [2], [2]), "the first is told by another queue"
    assert parcels[1][0] == encode_publish("", "orders")
    assert read(parcels[1][1][19:-1]) == {"headers": {"a": "b"}, "message_id": "m"}
    nearer = Routes(Options(network_ttl=-1, delivery_limit=1), "a/", "b/")
    once = build({"headers": {COUNT: Typed("l", 1)}})
    some = [(1, 1, first[2], once, *first[4:])]
    assert Forwarder(nearer, "orders", Parking("b")).prepare(some, NOW).stays == [1]
    assert forwarder().prepare(some, NOW).stays == []
    of_topic = Forwarder(Routes(Options(network_ttl=-1), "a/", "b/"), None, Parking("b"))
    assert of_topic.prepare(batch, NOW).stays == []
