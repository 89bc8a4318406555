"""The window of a link: acknowledgements never pass what is not settled, and nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from understudyd.bridge.ledger import Ledger, Parcel
from understudyd.bridge.wire.bodies import body_frames, content_header
from understudyd.bridge.wire.methods import encode_publish
from understudyd.bridge.wire.properties import build

PROPERTIES = build({"delivery_mode": 2})


def parcel(body: bytes, key: str = "orders", properties: bytes = PROPERTIES) -> Parcel:
    header = content_header(properties, len(body))
    return (encode_publish("", key), header, body_frames(body, 4096), len(body))


def taken(ledger: Ledger, *tags: int) -> None:
    ledger.take(tags, [parcel(b"%d" % tag) for tag in tags], 0.0)


def bodies(pieces: list[bytes]) -> list[bytes]:
    """The bodies in what is to be written, which all fit into a frame."""
    return [piece[7:-1] for piece in pieces[2::3]]


def test_a_batch_is_sent_confirmed_and_acknowledged_with_one_tag() -> None:
    ledger = Ledger()
    taken(ledger, 1, 2, 3)
    assert bodies(ledger.send()) == [b"1", b"2", b"3"]
    assert ledger.send() == []
    assert ledger.confirm([(3, 1, True)]) == (3, [], [])
    assert (len(ledger), ledger.size, ledger.acknowledgeable) == (0, 0, 3)
    assert ledger.acknowledge() == 3
    assert ledger.acknowledge() is None


def test_an_acknowledgement_waits_for_the_lowest() -> None:
    ledger = Ledger()
    taken(ledger, 1, 2, 3)
    ledger.send()
    ledger.confirm([(3, 0, True), (2, 0, True)])
    assert ledger.acknowledge() is None
    ledger.confirm([(1, 0, True)])
    assert ledger.acknowledge() == 3


def test_confirms_nobody_waits_for_are_ignored() -> None:
    ledger = Ledger()
    taken(ledger, 1, 2)
    ledger.send()
    assert ledger.confirm([(9, 0, True), (1, 0, True), (1, 0, True), (99, 1, True)]) == (2, [], [])
    assert ledger.confirm([(0, 1, True), (2, 1, False)]) == (0, [], [])
    assert ledger.acknowledge() == 2


def test_a_refused_one_waits_again_and_holds_the_acknowledgement() -> None:
    ledger = Ledger()
    taken(ledger, 1, 2, 3)
    ledger.send()
    assert ledger.confirm([(1, 0, False), (3, 1, True)]) == (2, [1], [])
    assert ledger.acknowledge() is None
    assert bodies(ledger.send()) == [b"1"]
    assert ledger.confirm([(4, 0, True)]) == (1, [], [])
    assert ledger.acknowledge() == 3


def test_what_the_target_did_not_confirm_is_sent_again_in_order() -> None:
    ledger = Ledger()
    taken(ledger, 1, 2, 3, 4)
    ledger.send(3)
    ledger.confirm([(2, 0, True)])
    ledger.lose()
    assert not ledger.is_under_way
    assert bodies(ledger.send()) == [b"1", b"3", b"4"]
    assert ledger.confirm([(3, 1, True)]) == (3, [], [])
    assert ledger.acknowledge() == 4


def test_what_was_forgotten_is_for_nobody() -> None:
    ledger = Ledger()
    taken(ledger, 1, 2)
    ledger.send()
    ledger.forget()
    assert (len(ledger), ledger.size, ledger.is_owed_to_nobody) == (0, 0, True)
    assert ledger.came_back(*parcel(b"1")[:3], "NO_ROUTE") is None
    taken(ledger, 1)
    ledger.send()
    assert ledger.confirm([(2, 1, True)]) == (0, [], [])
    assert not ledger.is_owed_to_nobody
    assert ledger.acknowledge() is None
    assert ledger.confirm([(3, 0, True)]) == (1, [], [])
    assert ledger.acknowledge() == 1


def test_a_confirm_of_what_was_forgotten_tells_which_it_was() -> None:
    ledger = Ledger()
    taken(ledger, 1, 2)
    ledger.send()
    ledger.forget()
    taken(ledger, 1)
    ledger.send()
    ledger.forget()
    ledger.confirm([(2, 0, True), (1, 0, False), (3, 0, True)])
    assert (ledger.late, ledger.settled, ledger.past) == ([2, 3], [], 3)


def test_no_confirm_tells_that_what_was_forgotten_arrived_once_one_came_back() -> None:
    ledger = Ledger()
    taken(ledger, 1, 2)
    ledger.send()
    ledger.came_back(*parcel(b"1")[:3], "NO_ROUTE")
    ledger.forget()
    ledger.confirm([(1, 0, True), (2, 0, True)])
    assert ledger.late == [2]
    taken(ledger, 1, 2)
    ledger.send()
    ledger.forget()
    ledger.came_back(*parcel(b"2")[:3], "NO_ROUTE")
    ledger.confirm([(4, 1, True)])
    assert ledger.late == []


def test_a_return_of_what_was_forgotten_may_send_an_equal_one_twice_and_loses_none() -> None:
    ledger = Ledger()
    taken(ledger, 1)
    ledger.send()
    ledger.forget()
    taken(ledger, 1)
    ledger.send()
    assert ledger.came_back(*parcel(b"1")[:3], "NO_ROUTE") == 1
    assert ledger.confirm([(1, 0, True)]) == (0, [], [])
    assert ledger.confirm([(2, 0, True)]) == (0, [], [1])
    assert ledger.acknowledge() is None


def test_tags_nobody_wants_are_acknowledged_with_the_others() -> None:
    ledger = Ledger()
    taken(ledger, 2, 4)
    ledger.skip(5)
    ledger.send()
    assert ledger.acknowledge() == 1
    ledger.confirm([(2, 1, True)])
    assert ledger.acknowledge() == 5


def test_a_returned_message_is_found_by_what_it_holds() -> None:
    ledger = Ledger()
    same = parcel(b"same")
    ledger.take([1, 2, 3], [parcel(b"other"), same, same], 0.0)
    ledger.send()
    assert ledger.came_back(*parcel(b"none")[:3], "NO_ROUTE") is None
    assert ledger.came_back(*parcel(b"same", key="elsewhere")[:3], "NO_ROUTE") is None
    assert ledger.came_back(*same[:3], "NO_ROUTE") == 2
    assert ledger.came_back(*same[:3], "NO_ROUTE") == 3
    assert ledger.confirm([(3, 1, True)]) == (1, [], [2, 3])
    assert (ledger.settled, ledger.returned) == ([1], [2, 3])
    assert ledger.acknowledge() == 1
    assert ledger.replace(2, parcel(b"parked")) == "NO_ROUTE"
    assert bodies(ledger.send()) == [b"parked"]
    ledger.replace(3, parcel(b"parked too"))
    ledger.send()
    ledger.confirm([(4, 0, True), (5, 0, True)])
    assert ledger.acknowledge() == 3


def test_a_returned_message_that_the_broker_added_to_is_found() -> None:
    ledger = Ledger()
    large = b"x" * 9000
    ledger.take([1, 2], [parcel(large), parcel(large, properties=build({"priority": 1}))], 0.0)
    ledger.send()
    frames = body_frames(large, 131072)  # cut otherwise than we cut it
    publish = encode_publish("", "orders")
    exact = content_header(build({"priority": 1}), len(large))
    stamped = content_header(build({"headers": {"timestamp_in_ms": 1}}), len(large))
    assert ledger.came_back(publish, exact, frames, "NO_ROUTE") == 2
    assert ledger.came_back(publish, stamped, frames, "NO_ROUTE") == 1


def test_the_age_is_that_of_the_oldest() -> None:
    ledger = Ledger()
    assert ledger.oldest() is None
    ledger.take([1, 2], [parcel(b"1"), parcel(b"2")], 5.0)
    ledger.take([3], [parcel(b"3")], 7.0)
    ledger.send()
    assert ledger.oldest() == 5.0
    ledger.confirm([(1, 0, True)])
    assert ledger.oldest() == 5.0
    ledger.confirm([(2, 0, True)])
    assert ledger.oldest() == 7.0


def test_its_repr_says_what_is_in_it() -> None:
    ledger = Ledger()
    taken(ledger, 1, 2)
    ledger.send(1)
    assert repr(ledger) == "<Ledger 2 in flight (2 bytes), 1 of them waiting>"


class Model(RuleBasedStateMachine):
    """Against two brokers that behave as the protocol lets them."""

    @initialize()
    def start(self) -> None:
        self.ledger = Ledger()
        self.begin_source(1)
        self.begin_target()
        self.arrived: set[int] = set()  # messages that the target has
        self.acknowledged: set[int] = set()  # messages that the source may drop
        self.serials: dict[int, int] = {}  # serial -> message, also of what was forgotten

    def begin_source(self, first: int) -> None:
        self.message_of: dict[int, int] = {}  # tag -> message
        self.next_message = first

    def begin_target(self) -> None:
        self.sent: dict[int, bytes] = {}  # number -> body that awaits its confirm
        self.number = 0
        self.has_blamed = False

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        first = len(self.message_of) + 1
        tags = list(range(first, first + count))
        for tag in tags:
            while self.next_message in self.acknowledged:
                self.next_message += 1
            self.message_of[tag] = self.next_message
            self.serials[self.ledger.past + tag] = self.next_message
            self.next_message += 1
        parcels = [parcel(b"%d" % self.message_of[tag]) for tag in tags]
        self.ledger.take(tags, parcels, 0.0)

    @rule(limit=st.one_of(st.none(), st.integers(1, 3)))
    def send(self, limit: int | None) -> None:
        for body in bodies(self.ledger.send(limit)):
            self.number += 1
            self.sent[self.number] = body

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), multiple=st.booleans(), is_ack=st.booleans())
    def confirm(self, data: Any, multiple: bool, is_ack: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.sent)))
        chosen = [n for n in self.sent if n == number or (multiple and n < number)]
        for each in chosen:
            body = self.sent.pop(each)
            if is_ack:
                self.arrived.add(int(body))
        self.tell(number, int(multiple), is_ack)

    def tell(self, number: int, multiple: int, is_ack: bool) -> list[int]:
        """A confirm; what had come back goes out again, to the parking queue say."""
        settled, _, back = self.ledger.confirm([(number, multiple, is_ack)])
        assert settled == len(self.ledger.settled)
        assert {self.message_of[tag] for tag in self.ledger.settled} <= self.arrived
        assert {self.serials[serial] for serial in self.ledger.late} <= self.arrived
        for tag in back:
            self.ledger.replace(tag, self.ledger.parcel(tag))
        return back

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), confirmed=st.booleans())
    def come_back(self, data: Any, confirmed: bool) -> None:
        """Unroutable: it comes back and is confirmed."""
        number = data.draw(st.sampled_from(sorted(self.sent)))
        body = self.sent.pop(number)
        tag = self.ledger.came_back(*parcel(body)[:3], "NO_ROUTE")
        is_owed = self.ledger.is_owed_to_nobody
        if tag is None and not is_owed:
            assert self.has_blamed  # it was blamed for an equal one that was for nobody
            self.lose_target()  # as a link does: it gives up the target
            return
        self.has_blamed |= is_owed and tag is not None
        back = self.tell(number, 0, True)
        # One that is owed to nobody may have had an equal one blamed; that is sent twice then.
        assert is_owed or back == [tag]

    @rule()
    def acknowledge(self) -> None:
        tag = self.ledger.acknowledge()
        if tag is None:
            return
        assert tag in self.message_of
        told = {message for each, message in self.message_of.items() if each <= tag}
        assert told <= self.arrived, "acknowledged before it arrived"
        self.acknowledged |= told

    @rule()
    def lose_target(self) -> None:
        self.ledger.lose()
        self.begin_target()
        waiting = [int(body) for body in bodies(self.ledger.send(0) or [])]
        assert waiting == []

    @rule()
    def lose_source(self) -> None:
        self.ledger.forget()
        first = min(set(self.message_of.values()) - self.acknowledged, default=self.next_message)
        self.begin_source(first)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        unsettled = set(self.message_of.values()) - self.arrived
        assert len(self.ledger) >= len(unsettled)
        assert self.ledger.size >= len(unsettled)

    def teardown(self) -> None:
        """Whatever happened: sending what waits and confirming all settles everything."""
        for _ in range(2):
            self.send(None)
            for number in list(self.sent):
                self.arrived.add(int(self.sent.pop(number)))
                self.tell(number, 0, True)
        self.acknowledge()
        assert len(self.ledger) == self.ledger.size == 0
        assert set(self.message_of.values()) <= self.acknowledged


Model.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestModel = Model.TestCase


@pytest.mark.parametrize("limit", [None, 0, 1, 5])
def test_what_waits_goes_out_in_the_order_of_the_source(limit: int | None) -> None:
    ledger = Ledger()
    taken(ledger, 1, 2, 3)
    ledger.send()
    ledger.confirm([(2, 0, False)])
    taken(ledger, 4)
    ledger.confirm([(1, 0, False)])
    out = bodies(ledger.send(limit))
    assert out == [b"1", b"2", b"4"][:limit]
