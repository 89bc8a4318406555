"""The keeper's claims: answers lost or late, permission, refusals, and letting go again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from understudyd.lock.keeper import State
from understudyd.lock.memory import Store
from understudyd.lock.port import Observation
from understudyd.lock.record import LARGEST, LockRecord
from understudyd.lock.timings import PRESETS
from understudyd.lock.watch import BELIEVED
from understudyd.lock.words import (
    Action,
    Failed,
    Hint,
    Permit,
    Promote,
    Read,
    Refuse,
    Released,
    Seen,
    Step,
    Swap,
    Tick,
)
from understudyd.testing.contender import Contender, T, a_claim_under_way, a_master


def test_a_claim_whose_answer_was_lost_is_recognised() -> None:
    """Catalogue 70."""
    store = Store()
    contender = Contender(store)
    _, swap = a_claim_under_way(contender)
    store.swap(swap.expected, swap.record)
    contender.go_on(T.attempt + 0.2)
    assert contender.kinds() == ["Promote"]


def test_a_renewal_whose_answer_was_lost_extends_nothing() -> None:
    """Catalogue 41: requests pass, replies do not."""
    store = Store()
    master = a_master(store)
    master.go_on(2)

    def deaf(action: Action) -> None:
        if isinstance(action, Swap):
            store.swap(action.expected, action.record)
        elif not isinstance(action, Read):
            master.did.append(action)

    deadline = master.keeper.deadline
    for _ in range(40):
        master.now += 0.1
        for action in master.keeper.receive(Tick(), master.now):
            deaf(action)
    assert master.keeper.deadline == deadline
    assert master.kinds() == ["Promote", "Fence"]


def test_a_late_answer_is_not_listened_to() -> None:
    """Catalogue 42."""
    master = a_master(Store())
    master.reaches = False
    master.go_on(T.renew)
    attempt = master.keeper._attempts.under_way
    assert attempt is not None
    master.go_on(T.attempt + 0.01)
    deadline = master.keeper.deadline
    assert attempt.record is not None
    master.feed(Seen(attempt.number, Observation(attempt.record, "life 1")))
    assert master.keeper.deadline == deadline


def test_an_own_record_of_an_earlier_life_is_nobodys_right() -> None:
    """Catalogue 8: after a power cut the old broker may still be there."""
    store = Store()
    a_master(store)
    again = Contender(store, "a", life=2)
    again.go_on(T.patience - 0.3)
    assert again.kinds() == []
    again.go_on(1)
    assert again.kinds() == ["Promote"]


def test_a_tombstone_by_the_guard_of_an_earlier_life_is_free_at_once() -> None:
    """Catalogue 10: the sidecar died, its guard let go, and a new one has seen both records."""
    store = Store()
    a_master(store)
    again = Contender(store, "a", life=2)
    again.go_on(1)
    record = store.record
    assert record is not None
    store.record = replace(record, sequence=record.sequence + 1, released=True)
    again.go_on(T.renew / 4 + 0.01)
    assert again.kinds() == ["Promote"]


def test_a_hint_makes_a_standby_look_at_once() -> None:
    store = Store()
    a_master(store)
    standby = Contender(store, "b")
    standby.go_on(1)
    record = store.record
    assert record is not None
    store.record = replace(record, sequence=record.sequence + 1, released=True)
    standby.feed(Hint())
    assert standby.kinds() == ["Promote"]


def test_a_claim_takes_a_token_above_every_one_that_was_seen_elsewhere() -> None:
    """Catalogue 62, 104: on the stamp of a shared store, say, where the lock's own forgot it."""
    contender = Contender(Store())
    contender.keeper.learn(5000)
    contender.go_on(T.patience + 1)
    (promote,) = [action for action in contender.did if isinstance(action, Promote)]
    assert promote.token > 5000


def test_a_token_that_no_lock_can_have_given_is_not_learnt() -> None:
    """Redis would mix it up with the next one."""
    contender = Contender(Store())
    contender.keeper.learn(2**53 + 1)
    assert contender.keeper.highest_token == 0


@pytest.mark.parametrize("told", [2**53, BELIEVED, BELIEVED - 1])
def test_no_number_that_somebody_tells_makes_the_lock_unreadable(told: int) -> None:
    store = Store()
    for name in "abc":
        contender = Contender(store, name)
        contender.keeper.learn(told)
        contender.go_on(T.patience + 1)
        assert store.record is not None
        assert LockRecord.from_json(store.record.to_json()) == store.record


def test_above_the_largest_token_nobody_claims() -> None:
    store = Store()
    holder = a_master(store)
    assert store.record is not None
    store.record = replace(store.record, token=LARGEST)
    contender = Contender(store, "b")
    contender.go_on(2 * T.patience)
    assert "none above 9007199254740992 can be given" in contender.keeper.refused
    assert contender.kinds() == ["Refuse"]
    assert store.record.holder == holder.keeper._node


def test_a_thawed_standby_watches_anew() -> None:
    """Catalogue 26."""
    store = Store()
    a_master(store)
    standby = Contender(store, "b")
    standby.go_on(1)
    standby.now += 3600
    standby.feed(Tick())
    assert standby.kinds() == []
    standby.go_on(T.patience - 0.5)
    assert standby.kinds() == []
    standby.go_on(1)
    assert standby.kinds() == ["Promote"]


def test_without_permission_nobody_campaigns() -> None:
    """Catalogue 89, 98: nofailover, or paused."""
    store = Store()
    contender = Contender(store)
    contender.feed(Permit(False))
    contender.go_on(60)
    assert contender.kinds() == []
    contender.feed(Permit(True))
    contender.go_on(T.patience + 1)
    assert contender.kinds() == ["Promote"]


def test_the_better_candidate_comes_first() -> None:
    """Catalogue 89."""
    store = Store()
    worse, better = Contender(store, "a"), Contender(store, "b")
    worse.feed(Permit(True, delay=0.3))
    for _ in range(100):
        worse.go_on(0.1)
        better.go_on(0.1)
    assert better.kinds() == ["Promote"]
    assert worse.kinds() == []


@pytest.mark.parametrize(
    ("other", "cause"),
    [
        ({"group": "h"}, "the lock is used by group 'g', this node is of 'h'"),
        ({"node": "a", "life": 2}, "another sidecar of the name 'a' has the lock"),
        ({"node": "b", "timings": PRESETS["safe"]}, "lease=3, this node has lease=15"),
    ],
)
def test_who_does_not_fit_is_refused(other: dict[str, object], cause: str) -> None:
    """Catalogue 4, 5."""
    store = Store()
    master = a_master(store)
    misfit = Contender(store, **{"node": "b", **other})  # type: ignore[arg-type]
    for _ in range(300):
        master.go_on(0.1)
        misfit.go_on(0.1)
    (refusal,) = misfit.did
    assert isinstance(refusal, Refuse)
    assert cause in refusal.cause
    assert master.kinds() == ["Promote"]


@pytest.mark.parametrize("watched", [0.0, 1.0, T.patience - 0.1])
def test_a_store_that_fails_at_once_is_no_hot_loop(watched: float) -> None:
    contender = Contender(Store())
    contender.go_on(watched)
    contender.reaches = False
    asked = 0
    for _ in range(1000):
        for action in contender.keeper.receive(Tick(), contender.now):
            asked += 1
            assert isinstance(action, (Read, Swap))
            contender.keeper.receive(Failed(action.attempt, "refused"), contender.now)
        contender.now += 0.01
        assert contender.keeper.due > contender.now - 0.02
    assert asked <= 10 / (T.renew / 4) + 1


def test_a_store_that_refuses_a_claim_is_no_hot_loop() -> None:
    """Catalogue 12: a file that a broker holds locked, whose sidecar and guard are gone."""

    class Locked(Store):
        refused = 0

        def swap(self, expected: Observation, record: LockRecord) -> Observation:
            self.refused += 1
            return self.observe()

    store = Store()
    a_master(store)
    locked = Locked()
    locked.record = store.record
    standby = Contender(locked, "b")
    standby.go_on(T.patience + 10)
    assert standby.kinds() == []
    assert 10 < locked.refused <= 10 / (T.renew / 4) + 1


def test_a_claim_that_a_store_has_lost_for_good_is_let_go() -> None:
    """Catalogue 51: the file was replaced before the claim's answer came."""
    contender = Contender(Store())
    _, swap = a_claim_under_way(contender)
    gone = Observation(None, "life 2", lost="the file was replaced")
    contender.feed(Seen(swap.attempt, gone))
    assert contender.kinds() == ["Released"]
    contender.go_on(T.patience - 0.3)
    assert contender.kinds() == ["Released"]
    contender.go_on(1)
    assert contender.kinds() == ["Released", "Promote"]


def test_leaving_while_a_claim_is_under_way_lets_go_again() -> None:
    store = Store()
    contender = Contender(store)
    _, swap = a_claim_under_way(contender)
    contender.feed(Permit(False))
    contender.feed(Seen(swap.attempt, store.swap(swap.expected, swap.record)))
    assert contender.kinds() == ["Released"]
    assert store.record is not None
    assert store.record.released
    assert isinstance(contender.did[-1], Released)


def test_stepping_down_before_the_promotion_promotes_nobody() -> None:
    """A claim that is found late has to be renewed first; no broker runs yet."""
    store = Store()
    contender = Contender(store)
    _, swap = a_claim_under_way(contender)
    store.swap(swap.expected, swap.record)
    contender.reaches = False
    contender.go_on(2)
    contender.now += 0.9  # frozen until the claim's deadline is over
    contender.reaches = True
    contender.loses_claims = True  # of its own renewals too
    contender.feed(Tick())
    contender.go_on(T.attempt)
    assert contender.keeper.state is State.HOLDING
    assert contender.kinds() == []
    contender.loses_claims = False
    contender.feed(Permit(False))
    contender.feed(Step("shutdown"))
    contender.go_on(2)
    assert contender.kinds() == ["Released"]
    assert store.record is not None
    assert store.record.released
