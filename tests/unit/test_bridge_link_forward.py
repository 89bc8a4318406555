"""From a delivery to a publish: the path grows, the body and all else stay as they were."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from understudyd.bridge.forward import KEPT, PATH_HEADER, Forwarder
from understudyd.bridge.parking import Parking
from understudyd.bridge.wire.bodies import body_frames, content_header
from understudyd.bridge.wire.methods import encode_publish
from understudyd.bridge.wire.properties import build, header_content, read
from understudyd.bridge.wire.reader import Delivery
from understudyd.bridge.wire.tables import Value

ROUTE = b"\x03amq\x06orders"
BODY = body_frames(b"body", 4096)


def delivery(tag: int, properties: bytes, route: bytes = ROUTE) -> Delivery:
    return (tag, 0, route, properties, 4, BODY)


def forwarder() -> Forwarder:
    return Forwarder(lambda exchange, key: (f"to-{exchange}", key.upper()), "a/", Parking("b"))


def sent(properties: dict[str, Value]) -> dict[str, Value]:
    """The properties of the one message that these became."""
    _, ((_, header, _, _),) = forwarder().prepare([delivery(1, build(properties))])
    return read(header[19:-1])


def test_a_batch_keeps_its_order_and_its_bodies() -> None:
    raw = build({"delivery_mode": 2})
    tags, parcels = forwarder().prepare([delivery(3, raw), delivery(4, raw)])
    assert tags == [3, 4]
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
    tags, parcels = forwarder().prepare([delivery(1, good), delivery(2, broken), delivery(3, good)])
    assert tags == [1, 2, 3]
    assert [parcel[0] for parcel in parcels] == [
        encode_publish("to-amq", "ORDERS"),
        encode_publish("", "understudy.parking.b"),
        encode_publish("to-amq", "ORDERS"),
    ]


def test_what_is_kept_is_bounded_and_right() -> None:
    ours = forwarder()
    for number in range(KEPT + 10):
        raw = build({"message_id": str(number)})
        _, (parcel,) = ours.prepare(
            [delivery(1, raw, b"\0" + bytes([3]) + b"%03d" % (number % 999))]
        )
        assert read(parcel[1][19:-1])["message_id"] == str(number)
    assert len(ours._patched) <= KEPT
    assert len(ours._publishes) <= KEPT
    assert header_content(parcel[1][19:-1])
