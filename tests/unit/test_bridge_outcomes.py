"""What an answer means for a message, and what becomes of one that cannot be delivered."""

from __future__ import annotations

import pytest

from understudyd.bridge.ledger import Parcel
from understudyd.bridge.outcomes import LETHAL, Outcome, of_closed, of_return
from understudyd.bridge.parked import _shown
from understudyd.bridge.parking import PARKED, Parking, fit
from understudyd.bridge.unparking import note_of, restored
from understudyd.bridge.wire.amqp import Closed
from understudyd.bridge.wire.bodies import body_frames, content_header
from understudyd.bridge.wire.methods import encode_publish
from understudyd.bridge.wire.properties import build, get, get_header, read
from understudyd.bridge.wire.tables import Value


def parcel(properties: bytes) -> Parcel:
    publish = encode_publish("prices", "nyse.ibm")
    return (publish, content_header(properties, 1), body_frames(b"x", 4096), 1)


@pytest.mark.parametrize(
    ("code", "is_alone", "outcome"),
    [
        *((code, True, Outcome.REJECT) for code in LETHAL),
        *((code, False, Outcome.RETRY) for code in LETHAL),
        (320, True, Outcome.ABORT),  # the broker goes down
        (403, True, Outcome.ABORT),
        (404, True, Outcome.ABORT),  # no exchange: all messages would meet that
        (541, False, Outcome.ABORT),
        (506, True, Outcome.RETRY),  # no room: tried one by one, and nobody's fault
        (506, False, Outcome.RETRY),
    ],
)
def test_only_what_can_be_a_messages_fault_is_laid_on_it(
    code: int, is_alone: bool, outcome: Outcome
) -> None:
    assert of_closed(Closed("channel", code, "why"), is_alone=is_alone) is outcome


def test_what_comes_back_is_parked_and_what_comes_back_from_there_ends_the_connection() -> None:
    assert of_return(is_parked=False) is Outcome.REJECT
    assert of_return(is_parked=True) is Outcome.ABORT


def test_a_parked_message_tells_why_and_keeps_the_rest() -> None:
    parking = Parking("orders")
    given = build(
        {"content_type": "text/plain", "headers": {"a": 1.5}, "expiration": "5000", "priority": 3}
    )
    publish, header, frames, size = parking.park(parcel(given), "312 NO_ROUTE")
    assert publish == encode_publish("", "understudy.parking.orders")
    assert (frames, size) == (body_frames(b"x", 4096), 1)
    properties = header[19:-1]
    assert read(properties) == {
        "content_type": "text/plain",
        "headers": {
            "a": 1.5,
            "x-understudy-parked-reason": "312 NO_ROUTE",
            "x-understudy-parked-bridge": "orders",
            "x-understudy-parked-exchange": "prices",
            "x-understudy-parked-routing-key": "nyse.ibm",
            "x-understudy-parked-expiration": "5000",
        },
        "delivery_mode": 2,
        "priority": 3,
    }


@pytest.mark.parametrize("raw", [b"\x20\0\0\0\0\x09\x01aS", b"\x20\0\0\0\0\x03\x01aS"])
def test_properties_that_cannot_be_read_are_parked_whole(raw: bytes) -> None:
    header = Parking("orders").park(parcel(raw), "its properties cannot be read")[1]
    assert get_header(header[19:-1], "x-understudy-parked-properties") == raw
    assert get(header[19:-1], "delivery_mode") == 2


def test_notes_that_a_producer_made_up_are_believed_by_nobody() -> None:
    forged = {f"{PARKED}{name}": "forged" for name in ("expiration", "properties", "exchange")}
    given = build({"delivery_mode": 2, "headers": {"a": 1, **forged, f"{PARKED}deadline": 5}})
    _, header, frames, size = Parking("orders").park(parcel(given), "why")
    told = get(header[19:-1], "headers")
    assert isinstance(told, dict)
    assert "forged" not in told.values()
    assert f"{PARKED}deadline" not in told
    again = restored((1, 0, b"", header[19:-1], size, frames), "", "q", 0)
    assert read(again[1][19:-1]) == {"delivery_mode": 2, "headers": {"a": 1}}


@pytest.mark.parametrize("at", [10**18, "9" * 5000, -1, "x", None, 1.5])
def test_a_time_that_is_none_is_not_told(at: Value) -> None:
    raw = build({"headers": {f"{PARKED}at": at}})
    assert _shown(note_of((1, 0, b"", raw, 0, b""))).at == ""


def test_the_parking_queue_knows_its_own() -> None:
    parking = Parking("orders")
    given = parcel(build({}))
    assert not parking.holds(given)
    assert parking.holds(parking.park(given, "why"))
    assert not Parking("other").holds(parking.park(given, "why"))


def test_what_is_parked_at_the_source_is_made_to_fit_when_its_frames_are_known() -> None:
    """Where it must, without what the broker has added: it would close the connection over it."""
    death: dict[str, Value] = {"x-death": ["d" * 300], "x-first-death-queue": "q", "b": "y"}
    given = build({"delivery_mode": 2, "headers": {"a": "x" * 3960, **death}})
    _, header, _, _ = Parking("b", frame_max=lambda: 100).park_here(parcel(given), "w" * 40)
    raw = header[19:-1]
    assert fit(raw, len(raw)) == raw
    assert get_header(fit(raw, len(raw) - 3), f"{PARKED}reason") == "w" * 20
    fitted = get(fit(raw, 4076), "headers")
    assert isinstance(fitted, dict)
    assert list(fitted) == ["a", "b", *(PARKED + name for name in ("exchange", "routing-key"))]
    assert len(fit(raw, 10)) > 10, "nothing of its producer's is left out"


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (3000, ["a", "exchange", "routing-key", "bridge", "reason"]),
        (3800, ["a", "exchange", "routing-key", "bridge", "reason"]),
        (3950, ["a", "exchange", "routing-key"]),
        (4050, ["a"]),
    ],
)
def test_a_parked_message_stays_within_one_frame_of_properties(size: int, told: list[str]) -> None:
    given = build({"delivery_mode": 2, "headers": {"a": "x" * size}})
    _, header, _, _ = Parking("b", frame_max=lambda: 4096).park(parcel(given), "why" * 100)
    assert len(header) <= 4096
    headers = get(header[19:-1], "headers")
    assert isinstance(headers, dict)
    assert [name.removeprefix("x-understudy-parked-") for name in headers] == told
