"""The outbox: what is written, resent, refused and dropped, and the poison rule."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.core.outbox import Entry, Outbox
from understudy.core.poison import STRIKES


class Link:
    """The least a shell does: writes what is asked for, and counts tags anew on each link."""

    def __init__(self, outbox: Outbox[str]) -> None:
        self.outbox = outbox
        self.tag = 0

    def write(self, limit: int = 1000) -> str:
        entries = self.outbox.next_unwritten(limit)
        for entry in entries:
            self.tag += 1
            self.outbox.written(entry, self.tag)
        return names(entries)


def filled(keys: str, max_bytes: int = 1000) -> Outbox[str]:
    outbox: Outbox[str] = Outbox(max_bytes)
    for key in keys:
        assert outbox.offer(key.upper(), 10, key)
    return outbox


def names(entries: list[Entry[str]]) -> str:
    return "".join(entry.key for entry in entries)


def test_f28_an_unanswered_send_is_written_again_once_and_known_as_a_copy() -> None:
    outbox = filled("a")
    Link(outbox).write()
    assert outbox.link_lost() == 1
    (copy,) = outbox.next_unwritten(10)
    assert (copy.attempts, copy.written, copy.is_in_doubt) == (1, False, True)
    Link(outbox).write()
    assert names(outbox.confirmed(1)) == "a"
    assert outbox.is_empty
    assert (outbox.confirmed_total, outbox.resent_total) == (1, 1)
    assert outbox.link_lost() == 0


def test_f36_all_200_messages_of_a_stalled_link_arrive_in_order() -> None:
    outbox: Outbox[int] = Outbox(10**6)
    for number in range(200):
        assert outbox.offer(number, 1024, str(number))
    stalled = outbox.next_unwritten(120)
    for tag, entry in enumerate(stalled, 1):
        outbox.written(entry, tag)
    confirmed = outbox.confirmed(30, multiple=True)
    outbox.link_lost()
    rest = outbox.next_unwritten(1000)
    assert [e.item for e in confirmed + rest] == list(range(200))
    assert [e.attempts for e in rest] == [1] * 90 + [0] * 80
    for tag, entry in enumerate(rest, 1):
        outbox.written(entry, tag)
    assert outbox.confirmed(0, multiple=True) == rest
    assert (outbox.resent_total, outbox.bytes) == (90, 0)


def test_the_bound_holds_and_one_larger_message_enters_an_empty_outbox() -> None:
    outbox: Outbox[str] = Outbox(100)
    assert outbox.offer("A", 60, "a")
    assert not outbox.offer("B", 41, "b")
    assert outbox.offer("C", 40, "c")
    assert (outbox.bytes, len(outbox)) == (100, 2)
    Link(outbox).write()
    outbox.confirmed(0, multiple=True)
    assert outbox.offer("D", 1000, "d")
    assert not outbox.offer("E", 0, "e")
    assert outbox.keys() == ["d"]


def test_resends_come_before_what_was_never_sent() -> None:
    outbox = filled("abcd")
    link = Link(outbox)
    assert link.write(3) == "abc"
    outbox.confirmed(2)
    outbox.link_lost()
    outbox.offer("E", 10, "e")
    assert Link(outbox).write() == "acde"


def test_multiple_takes_all_up_to_the_tag() -> None:
    outbox = filled("abcde")
    Link(outbox).write(4)
    assert names(outbox.confirmed(2)) == "b"
    assert names(outbox.confirmed(3, multiple=True)) == "ac"
    assert names(outbox.confirmed(0, multiple=True)) == "d"
    assert outbox.keys() == ["e"]


def test_unknown_and_repeated_tags_are_counted_and_lose_nothing() -> None:
    outbox = filled("abc")
    Link(outbox).write()
    outbox.confirmed(2)
    for tag, multiple in [(2, False), (9, False), (9, True), (0, False), (-1, True)]:
        assert outbox.confirmed(tag, multiple) == []
        assert outbox.refused(tag, multiple) == []
    assert outbox.stale_confirms == 10
    assert outbox.keys() == ["a", "c"]
    outbox.link_lost()
    assert outbox.confirmed(1) == outbox.confirmed(0, multiple=True) == []
    assert outbox.keys() == ["a", "c"]


def test_refused_entries_leave_and_are_named() -> None:
    outbox = filled("abcd")
    Link(outbox).write()
    assert names(outbox.refused(3)) == "c"
    assert names(outbox.refused(2, multiple=True)) == "ab"
    assert (outbox.refused_total, outbox.confirmed_total, outbox.bytes) == (3, 0, 10)


def test_a_returned_message_is_confirmed_as_unroutable() -> None:
    outbox = filled("abc")
    Link(outbox).write()
    assert outbox.returned("b")
    assert not outbox.returned("b")
    assert not outbox.returned("x")
    assert [e.returned for e in outbox.confirmed(3, multiple=True)] == [False, True, False]
    assert (outbox.confirmed_total, outbox.unroutable_total) == (2, 1)


def test_a_return_is_forgotten_with_its_link() -> None:
    outbox = filled("a")
    Link(outbox).write()
    outbox.returned("a")
    outbox.link_lost()
    Link(outbox).write()
    assert [e.returned for e in outbox.confirmed(1)] == [False]


def test_a_send_timeout_takes_its_message_out_for_good() -> None:
    outbox = filled("abcd")
    Link(outbox).write(2)
    written, unsent = outbox.drop("a"), outbox.drop("c")
    assert written is not None
    assert unsent is not None
    assert (written.is_in_doubt, unsent.is_in_doubt) == (True, False)
    assert outbox.drop("a") is None
    assert (outbox.keys(), outbox.bytes, outbox.in_flight) == (["b", "d"], 20, 1)
    outbox.link_lost()
    assert Link(outbox).write() == "bd"
    assert outbox.drop("d", "other") is None


@pytest.mark.parametrize("multiple", [False, True])
def test_the_late_confirm_of_a_dropped_message_is_quiet(multiple: bool) -> None:
    outbox = filled("abc")
    Link(outbox).write()
    outbox.drop("a" if not multiple else "b")
    assert names(outbox.confirmed(1)) == ("a" if multiple else "")
    assert names(outbox.confirmed(3, multiple)) == "c"
    assert outbox.stale_confirms == 0
    assert outbox.keys() == ([] if multiple else ["b"])
    assert len(outbox) == outbox.in_flight == len(outbox.keys())


def test_a_drop_between_asking_and_writing_leaves_a_ghost() -> None:
    outbox = filled("ab")
    a, b = outbox.next_unwritten(2)
    outbox.drop("a")
    outbox.written(a, 1)
    outbox.written(b, 2)
    with pytest.raises(ValueError, match="first unwritten"):
        outbox.written(a, 3)
    assert (len(outbox), outbox.in_flight) == (1, 1)
    assert outbox.confirmed(1) == []
    assert outbox.confirmed(2) == [b]


def test_reused_message_ids_lose_nothing() -> None:
    outbox: Outbox[str] = Outbox(100)
    first, second = "first", "second"
    outbox.offer(first, 10, "k")
    outbox.offer(second, 10, "k")
    dropped = outbox.drop("k", second)
    assert dropped is not None
    assert dropped.item is second
    assert outbox.next_unwritten(9)[0].item is first


def test_misuse_changes_nothing() -> None:
    outbox = filled("abc")
    a, b, _ = outbox.next_unwritten(3)
    with pytest.raises(ValueError, match="first unwritten"):
        outbox.written(b, 1)
    outbox.written(a, 4)
    with pytest.raises(ValueError, match="does not follow"):
        outbox.written(b, 4)
    outbox.confirmed(4)
    with pytest.raises(ValueError, match="first unwritten"):
        outbox.written(a, 5)
    assert outbox.keys() == ["b", "c"]
    assert outbox.next_unwritten(0) == outbox.next_unwritten(-1) == []


def test_status_lines() -> None:
    outbox = filled("abc")
    Link(outbox).write(1)
    assert repr(outbox) == "<Outbox 2 unwritten, 1 in flight, 30 of 1000 bytes>"
    outbox.channel_closed()
    assert repr(outbox) == "<Outbox 3 unwritten, 0 in flight, 30 of 1000 bytes probing>"
    assert repr(outbox.next_unwritten(1)) == "[<Entry a unwritten attempts=1 bytes=10>]"


# --- the poison rule ----------------------------------------------------------------------------


def test_a_common_close_accuses_nobody_and_starts_probing() -> None:
    outbox = filled("abcd")
    Link(outbox).write(3)
    assert outbox.channel_closed() is None
    assert [entry.strikes for entry in outbox.next_unwritten(9)] == [0]
    link = Link(outbox)
    for name in "abc":
        assert outbox.is_probing
        assert link.write() == name
        assert link.write() == ""
        outbox.confirmed(link.tag)
    assert not outbox.is_probing
    assert link.write() == "d"


def test_alone_at_two_closes_is_taken_out_and_the_rest_goes_on() -> None:
    outbox = filled("abcde")
    Link(outbox).write(4)
    outbox.channel_closed()
    link = Link(outbox)
    link.write()
    outbox.confirmed(1)
    assert link.write() == "b"
    assert outbox.channel_closed() is None
    assert Link(outbox).write() == "b"
    poison = outbox.channel_closed()
    assert poison is not None
    assert (poison.key, poison.strikes, outbox.poison_total) == ("b", STRIKES, 1)
    link = Link(outbox)
    assert link.write() == "c"
    outbox.confirmed(1)
    assert link.write() == "de"
    assert outbox.bytes == 20


def test_suspects_of_a_close_with_others_go_together_and_one_by_one_after_their_own() -> None:
    """As a rule none of them was the reason, and hundreds one by one would hold up all others."""
    outbox = filled("abcd")
    Link(outbox).write(3)
    outbox.channel_closed(alone=False)
    link = Link(outbox)
    assert link.write(2) == "ab"
    assert link.write(9) == "c"
    assert outbox.is_probing
    outbox.confirmed(link.tag, multiple=True)
    assert not outbox.is_probing
    assert link.write(9) == "d"

    outbox = filled("abcd")
    Link(outbox).write(3)
    outbox.channel_closed(alone=False)
    assert Link(outbox).write(9) == "abc"
    outbox.channel_closed()
    for _ in range(STRIKES):
        link = Link(outbox)
        assert link.write(9) == "a"
        poison = outbox.channel_closed()
    assert poison is not None
    assert poison.key == "a"


def test_losses_without_blame_never_take_anything_out() -> None:
    outbox = filled("ab")
    for _ in range(5):
        Link(outbox).write(1)
        outbox.link_lost()
        Link(outbox).write(1)
        assert outbox.channel_closed(alone=False) is None
    assert outbox.keys() == ["a", "b"]


def test_a_ghost_may_be_the_culprit_so_its_neighbour_is_not_struck() -> None:
    outbox = filled("ab")
    Link(outbox).write()
    outbox.drop("a")
    outbox.channel_closed()
    assert outbox.next_unwritten(1)[0].strikes == 0
    assert outbox.is_probing


def test_a_ghost_does_not_hold_up_the_probing() -> None:
    outbox = filled("ab")
    Link(outbox).write()
    outbox.channel_closed()
    link = Link(outbox)
    assert link.write() == "a"
    outbox.drop("a")
    assert link.write() == "b"


def test_the_second_report_of_one_loss_is_harmless() -> None:
    outbox = filled("a")
    Link(outbox).write()
    outbox.channel_closed()
    outbox.link_lost()
    assert outbox.channel_closed() is None
    assert outbox.next_unwritten(1)[0].strikes == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["good", "good", "good", "poison"]), max_size=14),
    st.integers(1, 6),
    st.integers(0, 999),
)
def test_poison_is_found_the_innocent_arrive_in_order(
    kinds: list[str], window: int, seed: int
) -> None:
    rng = random.Random(seed)
    outbox: Outbox[str] = Outbox(10**6)
    waiting = list(enumerate(kinds))
    arrived: list[str] = []
    taken: list[str] = []
    closes = 0
    link: list[Entry[str]] = []  # written, not yet looked at by the broker
    tag = 0
    for _ in range(2000):
        if waiting and rng.random() < 0.7:
            number, kind = waiting.pop(0)
            outbox.offer(kind, 10, str(number))
        for entry in outbox.next_unwritten(window - outbox.in_flight):
            tag += 1
            outbox.written(entry, tag)
            link.append(entry)
        if rng.random() < 0.1:  # a cut: what the broker has taken is in doubt
            if link and link[0].item == "good" and rng.random() < 0.5:
                arrived.append(link[0].key)
            outbox.link_lost()
            link, tag = [], 0
        elif link:
            entry = link.pop(0)
            if entry.item == "good":
                arrived.append(entry.key)
                assert outbox.confirmed(tag - len(link)) == [entry]
                continue
            closes += 1
            culprit = outbox.channel_closed()
            if culprit is not None:
                taken.append(culprit.key)
            link, tag = [], 0
        elif not waiting and outbox.is_empty:
            break
    assert outbox.is_empty
    poison = [str(n) for n, kind in enumerate(kinds) if kind == "poison"]
    assert taken == poison
    assert list(dict.fromkeys(arrived)) == [str(n) for n, k in enumerate(kinds) if k == "good"]
    assert closes <= (STRIKES + 1) * len(poison)
