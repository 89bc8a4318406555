"""What the target has is kept back when it comes again, and nothing else ever is (41, 43)."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from understudyd.bridge.content import StompContent
from understudyd.bridge.dedup import memory as module
from understudyd.bridge.dedup.filter import Filter
from understudyd.bridge.dedup.identity import Known, hop_id, identify_by
from understudyd.bridge.dedup.journal import Journal
from understudyd.bridge.dedup.memory import Change, Memory, Row
from understudyd.bridge.dialects import (
    ACTIVEMQ,
    ARTEMIS,
    RABBITMQ_AMQP,
    RABBITMQ_STOMP,
    Dialect,
)
from understudyd.bridge.ends.port import SourceHooks
from understudyd.bridge.ledger import Ledger
from understudyd.bridge.parking import Parking
from understudyd.bridge.rejects import Rejects
from understudyd.bridge.wire.bodies import body_frames, content_header
from understudyd.bridge.wire.methods import encode_publish
from understudyd.bridge.wire.properties import build, set_header
from understudyd.bridge.wire.reader import Returned
from understudyd.testing.spool_bench import RestlessSource


def source_of(dialect: Dialect) -> RestlessSource:
    source = RestlessSource(SourceHooks(lambda _: None, lambda _: None))
    source.dialect = dialect
    return source


ROUTE = b"\0\6orders"


def delivery(tag: int, body: bytes, *, again: int = 0, frame: int = 4096, **properties: Any) -> Any:
    return (tag, again, ROUTE, build(properties), len(body), body_frames(body, frame))


def message(tag: int, body: bytes = b"1", **headers: str) -> tuple[int, StompContent]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return (tag, StompContent({"destination": "/queue/a", **named}, body))


# Identity


def test_the_same_message_of_rabbitmq_is_known_again() -> None:
    identify = identify_by(RABBITMQ_AMQP)
    first = identify(delivery(1, b"x" * 9000, headers={"a": 1}))
    raw = set_header(build({"headers": {"a": 1}}), "x-delivery-count", 3)
    later = (7, 1, ROUTE, raw, 9000, body_frames(b"x" * 9000, 131072))
    assert identify(later) == Known(first.key, False, True)
    assert not first.may_repeat


@pytest.mark.parametrize(
    "other",
    [
        delivery(1, b"2"),
        delivery(1, b"1", priority=1),
        (1, 0, b"\1a\5rders", build({}), 1, body_frames(b"1", 4096)),
        delivery(1, b"1", message_id="a"),
    ],
)
def test_another_message_of_rabbitmq_is_not_taken_for_it(other: Any) -> None:
    identify = identify_by(RABBITMQ_AMQP)
    assert identify(other).key != identify(delivery(1, b"1")).key


def test_what_cannot_be_read_is_known_by_its_bytes() -> None:
    identify = identify_by(RABBITMQ_AMQP)
    raw = b"\xff\xff x-delivery-count message_id"
    assert not identify((1, 0, ROUTE, raw, 0, b"")).has_id


def test_an_application_that_gives_one_id_twice_has_sent_two_messages() -> None:
    identify = identify_by(RABBITMQ_AMQP)
    one, other = (identify(delivery(1, body, message_id="same")) for body in (b"1", b"2"))
    assert one.has_id
    assert other.has_id
    assert one.key != other.key


def test_ids_of_activemq_are_of_one_destination() -> None:
    identify = identify_by(ACTIVEMQ)
    first = identify(message(1, message_id="ID:a-1:1:1:1:1", timestamp="5"))
    again = message(9, message_id="ID:a-1:1:1:1:1", timestamp="5", redelivered="true", ack="x")
    assert identify(again) == first
    assert first == Known(first.key, True, True)
    copy = message(1, message_id="ID:a-1:1:1:1:1", timestamp="5")
    copy[1].headers["destination"] = "/queue/b"
    assert identify(copy).key != first.key


def test_of_artemis_what_follows_the_comma_stays() -> None:
    identify = identify_by(ARTEMIS)
    first = identify(message(1, message_id="0,77", timestamp="5"))
    assert identify(message(2, message_id="4,77", timestamp="5")) == first
    assert identify(message(2, message_id="4,78", timestamp="5")).key != first.key
    # whose files were deleted counts anew
    assert identify(message(2, message_id="4,77", timestamp="6")).key != first.key


def test_over_stomp_rabbitmq_has_the_applications_id_or_none() -> None:
    identify = identify_by(RABBITMQ_STOMP)
    first = identify(message(1, message_id="T_1@@a@@1"))
    again = message(5, message_id="T_1@@b@@5", redelivered="true", x_delivery_count="1", ack="x")
    assert identify(again) == Known(first.key, False, True)
    assert identify(message(1, amqp_message_id="m", message_id="T_1@@a@@1")).has_id
    assert identify(message(1, b"2", message_id="T_1@@a@@1")).key != first.key


def test_a_hop_has_ids_of_its_own() -> None:
    assert hop_id("a>b", message(1, message_id="ID:1"), ACTIVEMQ) == "a>b:ID:1"
    assert hop_id("a>b", message(1, message_id="3,77"), ARTEMIS) == "a>b:77"
    assert hop_id("b>a", delivery(1, b"", message_id="m"), RABBITMQ_AMQP) == "b>a:m"
    assert hop_id("b>a", delivery(1, b""), RABBITMQ_AMQP) == ""
    assert hop_id("b>a", message(1), RABBITMQ_STOMP) == ""


@pytest.mark.parametrize("target", [ACTIVEMQ, RABBITMQ_STOMP, ARTEMIS])
def test_a_target_that_does_not_know_messages_again_is_told_of_once(
    target: Dialect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asks = Filter(Journal(tmp_path / "a.db", "b"), "bridge b queue://a")
    for _ in range(2):
        asks.target_is(target)
    assert caplog.text.count("does not know messages again") == (target is not ARTEMIS)
    Filter(Journal(tmp_path / "a.db", "b")).target_is(target)
    assert len(caplog.records) == (target is not ARTEMIS)


@pytest.mark.parametrize("is_marked", [False, True])
def test_what_a_plugin_of_rabbitmq_may_have_dropped_as_a_duplicate_is_parked(
    is_marked: bool,
) -> None:
    """Scenario 44: it comes back as 312, and so does what has no queue."""
    ledger, parking = Ledger(), Parking("b")
    rejects = Rejects(ledger, parking)
    raw = build({"headers": {"x-deduplication-header": "1"} if is_marked else {"a": 1}})
    parcel = (encode_publish("x", "k"), content_header(raw, 1), body_frames(b"1", 4096), 1)
    ledger.take([1], [parcel], 0.0)
    ledger.send()
    came = Returned(312, "NO_ROUTE", "x", "k", raw, 1, body_frames(b"1", 4096))
    assert rejects.is_accounted_for(came)
    _, _, back = ledger.confirm([(1, 0, True)])
    for tag in back:
        rejects.park(tag)
    assert len(ledger) == 1
    assert ledger.has_waiting
    assert ("or it is a duplicate there" in parking.reason) is is_marked


# Memory


def known(one: tuple[int, str, bool, bool]) -> Known:
    _, text, has_id, again = one
    return Known(text.encode(), has_id, again)


def sift(memory: Memory, *deliveries: tuple[int, str, bool, bool]) -> list[int]:
    return [one[0] for one in memory.sift(deliveries, known)[0]]


def test_equal_messages_without_ids_are_counted() -> None:
    memory = Memory()
    assert sift(memory, (1, "a", False, False), (2, "a", False, False)) == [1, 2]
    memory.confirmed([1], [], 0)
    memory.begin(2)
    assert sift(memory, (1, "a", False, True), (2, "a", False, True)) == [2]


def test_equal_messages_that_were_not_delivered_before_are_sent() -> None:
    memory = Memory()
    sift(memory, (1, "a", False, False))
    memory.confirmed([1], [], 0)
    memory.begin(1)
    assert sift(memory, (1, "a", False, False), (2, "a", False, True)) == [1]


def test_what_the_source_was_told_of_is_forgotten_unless_it_has_an_id() -> None:
    memory = Memory()
    sift(memory, (1, "a", False, False), (2, "b", True, False))
    memory.confirmed([1, 2], [], 0)
    assert memory.acknowledge(2) == Change((), [1])
    memory.begin(2)
    assert sift(memory, (1, "a", False, True), (2, "b", True, True)) == [1]


def test_what_was_kept_back_is_kept_back_again_until_it_is_acknowledged() -> None:
    memory = Memory()
    sift(memory, (1, "a", False, False))
    memory.confirmed([1], [], 0)
    for past in (1, 2, 3):
        memory.begin(past)
        assert sift(memory, (1, "a", False, True)) == []
    memory.acknowledge(1)
    memory.begin(4)
    assert sift(memory, (1, "a", False, True)) == [1]


def test_what_is_parked_may_be_sent_once_more() -> None:
    memory = Memory()
    sift(memory, (1, "a", True, False), (2, "b", True, False))
    memory.forget([1])
    memory.confirmed([1, 2], [], 0)  # the parking queue has the first
    memory.begin(2)
    assert sift(memory, (1, "a", True, True), (2, "b", True, True)) == [1]


def test_a_late_confirm_counts_before_the_message_comes_again() -> None:
    memory = Memory()
    sift(memory, (1, "a", False, False), (2, "b", True, False), (3, "a", False, False))
    memory.confirmed([], [1], 3)  # before the source is open again
    memory.begin(3)
    memory.confirmed([], [2], 3)
    assert sift(memory, (1, "a", False, True), (2, "b", True, True)) == []
    assert sift(memory, (3, "a", False, True)) == [3]
    memory.confirmed([], [3], 3)  # too late: it is on its way again
    memory.confirmed([3], [], 3)
    memory.acknowledge(3)
    memory.begin(6)
    assert sift(memory, (1, "a", False, True)) == [1]


def test_what_does_not_come_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH", 2)
    memory = Memory([Row(5, b"a", False), Row(6, b"a", False)])
    fresh = [(tag, f"{tag}", False, False) for tag in (1, 2, 3)]
    _, change = memory.sift(fresh, known)
    assert sorted(change.gone) == [5, 6]
    assert sift(memory, (4, "a", False, True)) == [4]


def test_the_oldest_ids_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RING", 3)
    monkeypatch.setattr(module, "SLACK", 2)
    memory = Memory()
    sift(memory, *((tag, f"{tag}", True, False) for tag in range(1, 6)))
    assert memory.confirmed([1, 2, 3, 4], [], 0).ids_below == 0
    assert memory.confirmed([5], [], 0).ids_below == 3
    memory.begin(5)
    assert sift(memory, *((tag, f"{tag}", True, True) for tag in range(1, 6))) == [1, 2]


class Model(RuleBasedStateMachine):
    """A queue, a bridge with a ledger and a journal, and a target; the bridge is killed, and loses
    its source. The bridge is faithful: it writes, then it acknowledges."""

    @initialize()
    def start(self) -> None:
        self.database = Written()
        self.queue: list[dict[str, Any]] = []  # what the source has, in order
        self.made: Counter[str] = Counter()
        self.arrived: Counter[str] = Counter()
        self.in_doubt: Counter[str] = Counter()  # doubled at most: sent, and not known to have come
        self.begin_bridge()

    def begin_bridge(self) -> None:
        self.memory = Memory(self.database.rows())
        self.ledger = Ledger()
        self.late: list[str] = []
        self.sent: dict[int, str] = {}  # number -> text
        self.number = 0
        self.open()

    def open(self) -> None:
        self.tags: dict[int, dict[str, Any]] = {}
        self.memory.begin(self.ledger.past)

    @rule(text=st.sampled_from(["a", "b", "id-a"]))
    def publish(self, text: str) -> None:
        if text.startswith("id"):
            text = f"{text}{self.made.total()}"
        self.made[text] += 1
        self.queue.append({"text": text, "again": False})

    @rule(count=st.integers(1, 4))
    def deliver(self, count: int) -> None:
        ready = [one for one in self.queue if all(one is not each for each in self.tags.values())]
        first = len(self.tags) + 1
        batch = []
        for tag, one in enumerate(ready[:count], first):
            batch.append((tag, one["text"], one["text"].startswith("id"), one["again"]))
            self.tags[tag] = one
            one["again"] = True
        if not batch:
            return
        wanted, change = self.memory.sift(batch, known)
        self.database.write(change)
        tags = [one[0] for one in wanted]
        parcels = [(b"", b"", one[1].encode(), 1) for one in wanted]
        self.ledger.take(tags, parcels, 0.0)
        self.ledger.skip(batch[-1][0])
        for piece in self.ledger.send()[2::3]:
            self.number += 1
            self.sent[self.number] = piece.decode()

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), is_ack=st.booleans())
    def confirm(self, data: Any, is_ack: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.sent)))
        text = self.sent.pop(number)
        if is_ack:
            self.arrived[text] += 1
        self.ledger.confirm([(number, 0, is_ack)])
        ledger = self.ledger
        self.database.write(self.memory.confirmed(ledger.settled, ledger.late, ledger.past))
        for piece in self.ledger.send()[2::3]:
            self.number += 1
            self.sent[self.number] = piece.decode()

    @rule(is_received=st.booleans())
    def acknowledge(self, is_received: bool) -> None:
        if (tag := self.ledger.acknowledge()) is None:
            return
        self.database.write(self.memory.acknowledge(tag))
        if is_received:
            for each in range(1, tag + 1):
                one = self.tags[each]
                self.queue = [other for other in self.queue if other is not one]
        else:
            for each in range(1, tag + 1):  # it was lost on its way, with the connection
                if not self.tags[each]["text"].startswith("id"):
                    self.in_doubt[self.tags[each]["text"]] += 1
            self.lose_source()

    @rule()
    def lose_source(self) -> None:
        self.in_doubt.update(self.sent.values())
        self.ledger.forget()
        self.open()

    @rule()
    def kill(self) -> None:
        """What was sent and not confirmed may have arrived, and its confirm is lost."""
        for text in self.sent.values():
            self.arrived[text] += 1
            self.in_doubt[text] += 1
        self.begin_bridge()

    @invariant()
    def nothing_is_doubled_that_was_known(self) -> None:
        for text, count in self.arrived.items():
            assert count <= self.made[text] + self.in_doubt[text]

    def teardown(self) -> None:
        """Nothing is lost: all that was made arrives in the end."""
        self.ledger.forget()
        self.open()
        for _ in range(2):
            self.deliver(len(self.queue))
            for number in list(self.sent):
                self.arrived[self.sent.pop(number)] += 1
        for text, count in self.made.items():
            assert self.arrived[text] >= count, text


class Written:
    """A journal that cannot fail."""

    def __init__(self) -> None:
        self.kept: dict[int, Row] = {}

    def write(self, change: Change) -> None:
        for row in change.added:
            self.kept[row.serial] = row
        for serial in change.gone:
            del self.kept[serial]

    def rows(self) -> list[Row]:
        return [self.kept[serial] for serial in sorted(self.kept)]


Model.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestModel = Model.TestCase


def test_what_is_kept_back_is_counted_also_by_the_next_process(tmp_path: Path) -> None:
    async def process(expected: list[int]) -> None:
        kept, source = Filter(Journal(tmp_path / "a.db", "bridge a")), source_of(RABBITMQ_AMQP)
        ledger = Ledger()
        await kept.begin(ledger)
        again = int(not expected)
        came = [delivery(tag, b"%d" % tag, again=again) for tag in (1, 2)]
        wanted = kept.sift(came, source)
        assert [one[0] for one in wanted] == expected
        assert kept.duplicates == 2 - len(expected)
        ledger.take(expected, [(b"", b"", b"", 0)] * len(expected), 0.0)
        ledger.send()
        ledger.confirm([(2, 1, True)])
        kept.confirmed(ledger)
        await kept.end()  # killed: nothing was acknowledged

    asyncio.run(process([1, 2]))
    asyncio.run(process([]))
