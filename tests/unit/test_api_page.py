"""The page that sidecar and API share: whole or not at all, whatever the writer does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from understudyd.api.page import Page, Pulse, Snapshot
from understudyd.api.words import Failed, Listening, Order, Settings, Verdict, pack, unpack
from understudyd.clock import now
from understudyd.config.model import Api, Place, Secret
from understudyd.config.values import network
from understudyd.status import ClusterStatus, HistoryEntry, Member, NodeStatus, Role, stamp

STATUS = NodeStatus("g", "a", Role.STANDBY, "standby")
MEMBERS = (Member("a", Role.STANDBY, "standby", seen_s=1.0, nofailover=True, token=3, stamp=9),)
SNAPSHOT = Snapshot(
    STATUS,
    ClusterStatus("g", "file:/x", None, None, MEMBERS, is_paused=True),
    (HistoryEntry(1, "a", Role.MASTER, stamp(0), "“first”", 0.5),),
    ("amqp://h",),
    is_ready=False,
    trouble="none",
    metrics={"renewals_total": 1.0},
)


@pytest.fixture
def ours() -> Iterator[Page]:
    page = Page()
    yield page
    page.close()


@pytest.fixture
def theirs(ours: Page) -> Iterator[Page]:
    page = Page(os.dup(ours.descriptor))
    yield page
    page.close()


def test_nothing_is_there_at_first(theirs: Page) -> None:
    assert theirs.snapshot() is None
    assert theirs.pulse() == Pulse()


def test_a_reader_sees_the_last_that_was_written(ours: Page, theirs: Page) -> None:
    for trouble in ("one", "two", "three"):
        ours.publish(replace(SNAPSHOT, trouble=trouble))
        ours.beat(5.5, 7)
        seen = theirs.snapshot()
        assert seen is not None
        assert seen.at > 0
        assert replace(seen, at=0.0) == replace(SNAPSHOT, trouble=trouble)
        assert theirs.snapshot() is seen  # not read again
        assert (theirs.pulse().deadline, theirs.pulse().token) == (5.5, 7)
    ours.beat()
    assert theirs.pulse().deadline == Pulse().deadline


def test_the_api_signs_that_it_lives(ours: Page, theirs: Page) -> None:
    assert ours.signed() == Pulse().beat
    for _ in range(3):
        before = now()
        theirs.sign()
        assert before <= ours.signed() <= now()
    assert ours.pulse() == Pulse()
    assert ours.snapshot() is None


def test_a_history_that_is_too_long_loses_what_is_old(ours: Page, theirs: Page) -> None:
    entries = tuple(
        HistoryEntry(token, "a", Role.MASTER, stamp(0), "x" * 5000, 0.5) for token in range(100)
    )
    ours.publish(replace(SNAPSHOT, history=entries))
    seen = theirs.snapshot()
    assert seen is not None
    assert seen.history == entries[51:]


def test_refuses_what_is_too_large(ours: Page) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        ours.publish(replace(SNAPSHOT, trouble="x" * 300_000))


def test_what_another_version_adds_is_left_out() -> None:
    data = {**STATUS.to_json(), "later": 1, "broker": {"healthy": True, "pid": 1, "later": 2}}
    assert NodeStatus.from_json(data).broker.healthy


@pytest.mark.parametrize(
    "word",
    [
        Settings(Place("::1", 80), Api(Secret("hush"), allow=(network("10.0.0.0/8"),))),
        Settings(Place("h", 80), Api()),
        Listening(),
        Failed("taken"),
        Order(7, "switchover", "b", "10.0.0.1"),
        Verdict(7, 409, "no"),
    ],
)
def test_words_arrive_as_they_were_sent(word: Settings) -> None:
    assert unpack(pack(word)) == word
    assert "hush" not in repr(word)
