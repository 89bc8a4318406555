"""After a close that any of several may have caused: one at a time, until all is clear."""

from __future__ import annotations

import random

from understudy.core.suspects import Suspects


def test_without_a_close_everybody_goes_at_once() -> None:
    suspects = Suspects()
    for party in "abc":
        assert suspects.may_go(party)
        suspects.began(party)
    suspects.lost(accused=False)
    assert not suspects
    assert suspects.may_go("d")


def test_suspects_go_one_at_a_time_in_their_order_and_others_after_them() -> None:
    suspects = Suspects()
    for party in "abc":
        suspects.began(party)
    suspects.ended("b")
    suspects.lost(accused=True)
    assert [party for party in "abcd" if suspects.may_go(party)] == ["a"]
    suspects.began("a")
    assert [party for party in "abcd" if suspects.may_go(party)] == ["a"]
    suspects.ended("a")
    assert [party for party in "abcd" if suspects.may_go(party)] == ["c"]
    suspects.ended("c")  # it gave up before it had its turn
    assert not suspects
    assert suspects.may_go("d")


def test_calls_go_before_outboxes() -> None:
    """An outbox may have hundreds of messages to try one by one; its turn is long."""
    suspects = Suspects()
    suspects.began("outbox", is_outbox=True)
    for party in "ab":
        suspects.began(party)
    suspects.lost(accused=True)
    for party in ("a", "b", "outbox"):
        assert [one for one in ("outbox", *"ab") if suspects.may_go(one)] == [party]
        suspects.began(party, is_outbox=party == "outbox")
        suspects.ended(party)
    assert not suspects


def test_what_restores_a_connection_goes_unasked_and_is_told_from_the_others() -> None:
    suspects = Suspects()
    suspects.began("shell")
    assert suspects.is_alone("shell")
    suspects.began("a")
    assert not suspects.is_alone("shell")
    suspects.lost(accused=True)
    suspects.began("shell")
    assert not suspects.may_go("a")
    suspects.ended("shell")
    assert suspects.may_go("a")


def test_one_that_was_alone_is_alone_again() -> None:
    suspects = Suspects()
    suspects.began("a")
    suspects.lost(accused=True)
    assert not suspects.may_go("b")
    suspects.began("a")
    suspects.lost(accused=True)
    assert [party for party in "ab" if suspects.may_go(party)] == ["a"]


def test_a_loss_clears_nobody() -> None:
    suspects = Suspects()
    suspects.began("a")
    suspects.began("b")
    suspects.lost(accused=True)
    suspects.began("a")
    suspects.lost(accused=False)
    assert [party for party in "abc" if suspects.may_go(party)] == ["a"]


def test_each_culprit_costs_one_common_close_and_two_of_its_own() -> None:
    """Whoever closes the connection twice alone is convicted; nobody else, and nobody waits on."""
    rng = random.Random(11)
    for _ in range(60):
        suspects = Suspects()
        parties = list(range(rng.randrange(1, 30)))
        guilty = {party for party in parties if rng.random() < 0.2}
        strikes = dict.fromkeys(parties, 0)
        done: set[int] = set()
        convicted: set[int] = set()
        on_the_way: set[int] = set()
        closes = 0
        for _ in range(10_000):
            left = [p for p in parties if p not in done | convicted]
            if not left:
                break
            able = [p for p in left if p not in on_the_way and suspects.may_go(p)]
            if able and rng.random() < 0.7:
                party = rng.choice(able)
                suspects.began(party)
                on_the_way.add(party)
                continue
            party = rng.choice(sorted(on_the_way or left))
            if party not in on_the_way:
                continue
            if party not in guilty:
                done.add(party)
                on_the_way.discard(party)
                suspects.ended(party)
                continue
            closes += 1
            was_alone = on_the_way == {party}
            on_the_way.clear()
            suspects.lost(accused=True)
            strikes[party] += was_alone
            if strikes[party] == 2:
                convicted.add(party)
                suspects.ended(party)
        assert convicted == guilty
        assert done == set(parties) - guilty
        assert closes <= 3 * len(guilty)
        assert not suspects
