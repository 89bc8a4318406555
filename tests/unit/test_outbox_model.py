"""The outbox beside a naive model of it, through any sequence of events."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from understudy.core.outbox import Outbox
from understudy.core.poison import STRIKES


@dataclass(eq=False)
class Message:
    key: str
    size: int
    attempts: int = 0
    tag: int = 0  # 0 = not in flight
    dropped: bool = False
    returned: bool = False
    strikes: int = 0


class OutboxMachine(RuleBasedStateMachine):
    BOUND = 50

    def __init__(self) -> None:
        super().__init__()
        self.outbox: Outbox[Message] = Outbox(self.BOUND)
        self.live: list[Message] = []  # in send order
        self.ghosts: list[Message] = []
        self.offered = self.tag = self.left = 0
        self.probed: set[Message] = set()
        self.together = False  # what is probed goes in one go

    def flight(self) -> list[Message]:
        return [message for message in self.live if message.tag]

    def settle(self, tag: int, multiple: bool) -> list[Message]:
        def covers(message: Message) -> bool:
            if not message.tag or tag > self.tag:
                return False
            return (tag == 0 or message.tag <= tag) if multiple else message.tag == tag

        gone = [message for message in self.live if covers(message)]
        self.live = [message for message in self.live if message not in gone]
        self.ghosts = [ghost for ghost in self.ghosts if not covers(ghost)]
        self.left += len(gone)
        return gone

    def lose(self) -> None:
        for message in self.live:
            message.tag, message.returned = 0, False
        self.ghosts, self.tag = [], 0

    @rule(size=st.integers(0, 20) | st.just(80), reuse=st.booleans())
    def offer(self, size: int, reuse: bool) -> None:
        key = self.live[-1].key if reuse and self.live else f"m{self.offered}"
        message = Message(key, size)
        total = sum(m.size for m in self.live) + size
        fits = total <= self.BOUND or not self.live
        assert self.outbox.offer(message, size, key) is fits
        if fits:
            self.offered += 1
            self.live.append(message)

    @rule(limit=st.integers(0, 5), gap=st.integers(1, 2))
    def write(self, limit: int, gap: int) -> None:
        entries = self.outbox.next_unwritten(limit)
        unwritten = [message for message in self.live if not message.tag]
        assert [entry.item for entry in entries] == unwritten[: len(entries)]
        if limit and not self.flight():
            assert bool(entries) == bool(unwritten), "stalled"
        if not self.probed:
            assert len(entries) == min(limit, len(unwritten))
        for entry in entries:
            assert entry.attempts == entry.item.attempts
            self.tag += gap
            self.outbox.written(entry, self.tag)
            entry.item.tag = self.tag
            entry.item.attempts += 1
        if self.probed & set(self.flight()) and not self.outbox.poison_total:
            assert len(self.flight()) == 1 or (self.together and set(self.flight()) <= self.probed)

    @rule(tag=st.integers(-1, 12), multiple=st.booleans(), positive=st.booleans())
    def answer_anything(self, tag: int, multiple: bool, positive: bool) -> None:
        self.answer(tag, multiple, positive)

    @precondition(lambda self: self.flight() or self.ghosts)
    @rule(data=st.data(), multiple=st.booleans(), positive=st.booleans())
    def answer_a_known_tag(self, data: st.DataObject, multiple: bool, positive: bool) -> None:
        known = [message.tag for message in self.flight() + self.ghosts]
        self.answer(data.draw(st.sampled_from(known)), multiple, positive)

    def answer(self, tag: int, multiple: bool, positive: bool) -> None:
        before = len(self.ghosts)
        stale = self.outbox.stale_confirms
        expected = self.settle(tag, multiple)
        answer = self.outbox.confirmed if positive else self.outbox.refused
        covered = self.outbox.covered(tag, multiple)
        gone = answer(tag, multiple)
        assert gone == covered
        assert [entry.item for entry in gone] == expected
        assert [entry.returned for entry in gone] == [m.returned for m in expected]
        nothing = not gone and len(self.ghosts) == before
        assert self.outbox.stale_confirms == stale + nothing

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        message = data.draw(st.sampled_from(self.live))
        entry = self.outbox.drop(message.key, message)
        assert entry is not None
        assert entry.item is message
        assert entry.is_in_doubt == (message.attempts > 0)
        self.live.remove(message)
        self.left += 1
        if message.tag:
            message.dropped = True
            self.ghosts.append(message)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.live)).key
        flight = sorted(self.flight() + self.ghosts, key=lambda m: m.tag)
        meant = next((m for m in flight if m.key == key and not m.returned), None)
        assert self.outbox.returned(key) == (meant is not None and not meant.dropped)
        if meant is not None:
            meant.returned = True

    @rule()
    def cut(self) -> None:
        assert self.outbox.link_lost() == len(self.flight())
        self.lose()

    @rule(alone=st.booleans())
    def close_by_error(self, alone: bool) -> None:
        flight = self.flight()
        if flight:
            self.together = not alone and (self.together or not self.probed)
        self.probed |= set(flight)
        expected = None
        if len(flight) == 1 and not self.ghosts and alone:
            flight[0].strikes += 1
            if flight[0].strikes == STRIKES:
                expected = flight[0]
                self.live.remove(expected)
                self.left += 1
        self.lose()
        culprit = self.outbox.channel_closed(alone=alone)
        assert (culprit.item if culprit else None) is expected
        head = self.outbox.next_unwritten(1)
        assert [entry.strikes for entry in head] == [m.strikes for m in self.live[:1]]

    @invariant()
    def agrees(self) -> None:
        outbox = self.outbox
        self.probed &= set(self.live)
        assert outbox.keys() == [message.key for message in self.live]
        assert len(outbox) == len(self.live)
        assert outbox.in_flight == len(self.flight())
        assert outbox.is_empty == (not self.live)
        assert outbox.bytes == sum(message.size for message in self.live)
        assert outbox.bytes <= self.BOUND or len(outbox) == 1
        assert not outbox.is_probing or self.probed
        gone = (
            outbox.confirmed_total
            + outbox.unroutable_total
            + outbox.refused_total
            + outbox.dropped_total
            + outbox.poison_total
        )
        assert gone == self.left == self.offered - len(self.live)


TestOutboxMachine = OutboxMachine.TestCase
TestOutboxMachine.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
