"""Whether a node may claim the lock, and how late; and how long it sits out."""

from __future__ import annotations

import random
from dataclasses import replace

from understudyd.election import STEP
from understudyd.lock.record import LockRecord
from understudyd.lock.words import Permit
from understudyd.sidecar.campaign import NEWS, Campaign
from understudyd.sidecar.penalty import JITTER, LONGEST, STABLE, Penalty
from understudyd.status import Member, Role
from understudyd.testing.groups import a_group

NODE = a_group(weights={"b": 2}).nodes["b"]
OF_C = LockRecord("g", "c", "c-1", token=7, sequence=3, lease=3.0, released=True)


def a_standby(name: str, weight: int = 1, seen_s: float = 0.5) -> Member:
    return Member(name, Role.STANDBY, "standby", weight, healthy=True, seen_s=seen_s)


def a_campaign(*members: Member) -> Campaign:
    campaign = Campaign()
    campaign.begin(100.0)
    campaign.hear(members)
    return campaign


def test_the_board_is_heard_first_but_not_waited_for_for_ever() -> None:
    """Catalogue 98: a pause may stand there."""
    campaign = Campaign()
    campaign.begin(100.0)
    assert campaign.permit(True, NODE, None, 100.0) == Permit(False)
    assert campaign.due == 100.0 + NEWS
    assert campaign.permit(True, NODE, None, 100.0 + NEWS) == Permit(True)


def test_each_better_candidate_costs_a_step() -> None:
    """Catalogue 89: the heavier, of equals the first by name, and only who was heard of lately."""
    better = [a_standby("x", 3), a_standby("a", 2)]
    others = [a_standby("c", 2), a_standby("y", 1), a_standby("z", 9, seen_s=8.0)]
    permit = a_campaign(*better, *others, a_standby("b", 2)).permit(True, NODE, None, 101.0)
    assert permit == Permit(True, 2 * STEP)


def test_who_held_the_lock_last_is_left_no_time() -> None:
    permit = a_campaign(a_standby("c", 9)).permit(True, NODE, OF_C, 101.0)
    assert permit == Permit(True)


def test_the_heir_goes_at_once_and_all_others_a_lease_later() -> None:
    """Catalogue 97."""
    campaign = a_campaign(a_standby("x", 9))
    assert campaign.permit(True, NODE, replace(OF_C, heir="b"), 101.0) == Permit(True)
    late = campaign.permit(True, NODE, replace(OF_C, heir="a"), 101.0)
    assert late == Permit(True, STEP + OF_C.lease)
    held = replace(OF_C, heir="a", released=False)
    assert campaign.permit(True, NODE, held, 101.0) == Permit(True, STEP)


def test_who_may_not_does_not() -> None:
    campaign = a_campaign()
    assert campaign.permit(False, NODE, None, 101.0) == Permit(False)
    never = replace(NODE, nofailover=True)
    assert campaign.permit(True, never, replace(OF_C, heir="b"), 101.0) == Permit(False)


def test_sitting_out_has_an_end() -> None:
    """Catalogue 96."""
    penalty = Penalty(3.0, random.Random(1))
    for bad in range(100):
        penalty.sit_out(0.0)
        shortest = min(3.0 * 2.0**bad, LONGEST)
        assert shortest <= penalty.until <= shortest * (1 + JITTER)


def test_a_long_reign_makes_up_for_bad_ones() -> None:
    penalty = Penalty(3.0, random.Random(1))
    for _ in range(5):
        penalty.sit_out(0.0)
    penalty.begin()
    penalty.succeed(10.0)
    penalty.sit_out(10.0 + STABLE)
    assert penalty.until <= 10.0 + STABLE + 3.0 * (1 + JITTER)


def test_restarts_in_place_are_counted_until_one_lasts() -> None:
    """Catalogue 9."""
    penalty = Penalty(3.0, random.Random(1))
    penalty.begin()
    assert [penalty.restart(0.0, 2) for _ in range(3)] == [1, 2, 0]
    penalty.succeed(1.0)
    assert penalty.restart(1.0 + STABLE, 2) == 1
