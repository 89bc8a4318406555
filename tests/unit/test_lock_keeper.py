"""The keeper, event by event, against a store in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from understudyd.lock.keeper import Keeper, State
from understudyd.lock.memory import Store
from understudyd.lock.port import Observation
from understudyd.lock.record import LockRecord
from understudyd.lock.timings import PRESETS, Timings
from understudyd.lock.words import (
    Action,
    Event,
    Extend,
    Failed,
    Fence,
    Fenced,
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

T = PRESETS["fast"]


class Contender:
    """A keeper whose reads and swaps are carried out at once, while `reaches` the store."""

    def __init__(
        self,
        store: Store,
        node: str = "a",
        *,
        life: int = 1,
        timings: Timings = T,
        group: str = "g",
    ) -> None:
        self.store = store
        self.keeper = Keeper(group, node, f"{node}-{life}", timings)
        self.now = 100.0
        self.reaches = True
        self.loses_claims = False
        self.lost: list[tuple[float, Swap]] = []  # claims that were not carried out, and when
        self.did: list[Action] = []  # what is no read or swap
        self.feed(Permit(True))

    def feed(self, event: Event) -> None:
        for action in self.keeper.receive(event, self.now):
            self.obey(action)

    def obey(self, action: Action) -> None:
        match action:
            case Read(attempt) if self.reaches:
                self.feed(Seen(attempt, self.store.observe()))
            case Swap(_, _, record) if self.loses_claims and not record.is_void:
                self.lost.append((self.now, action))
            case Swap(attempt, expected, record) if self.reaches:
                self.feed(Seen(attempt, self.store.swap(expected, record)))
            case Read() | Swap():
                pass
            case _:
                self.did.append(action)

    def go_on(self, seconds: float) -> None:
        """Let time pass, with a Tick whenever one is due."""
        end = self.now + seconds
        while self.keeper.due <= end:
            self.now = max(self.now, self.keeper.due)
            self.feed(Tick())
        self.now = end
        self.feed(Tick())

    def kinds(self) -> list[str]:
        return [type(action).__name__ for action in self.did if not isinstance(action, Extend)]


def a_master(store: Store, node: str = "a") -> Contender:
    master = Contender(store, node)
    master.go_on(T.patience + 1)
    assert master.kinds() == ["Promote"]
    return master


def a_claim_under_way(contender: Contender) -> tuple[float, Swap]:
    """When it was sent, and the claim; the store has not seen it."""
    contender.loses_claims = True
    while not contender.lost:
        contender.go_on(0.05)
    contender.loses_claims = False
    return contender.lost[0]


def test_missing_is_not_free() -> None:
    """Catalogue 61: the record may have been lost, and its holder may live."""
    contender = Contender(Store())
    contender.go_on(T.patience - 0.3)
    assert contender.kinds() == []
    contender.go_on(1)
    assert contender.kinds() == ["Promote"]


def test_the_deadline_counts_from_before_the_claim_was_sent() -> None:
    store = Store()
    contender = Contender(store)
    sent, swap = a_claim_under_way(contender)
    contender.now += 0.3
    contender.feed(Seen(swap.attempt, Observation(swap.record, "life 1")))
    (promote,) = contender.did
    assert isinstance(promote, Promote)
    assert promote.deadline == sent + T.budget


def test_renewals_go_on_and_extend() -> None:
    master = a_master(Store())
    token = master.keeper.token
    master.go_on(60)
    assert master.kinds() == ["Promote"]
    assert sum(isinstance(action, Extend) for action in master.did) >= 80
    assert master.keeper.token == token


def test_cut_off_it_fences_at_the_deadline_and_never_earlier() -> None:
    """Catalogue 38, 66, L17: an error is no loss, the end of the lease is."""
    master = a_master(Store())
    master.reaches = False
    deadline = master.keeper.deadline
    master.go_on(deadline - master.now - 0.01)
    assert master.kinds() == ["Promote"]
    master.go_on(0.01)
    fence = master.did[-1]
    assert isinstance(fence, Fence)
    assert not fence.is_lost
    assert "could not be renewed" in fence.cause


def test_a_short_cut_is_no_reason() -> None:
    """Catalogue 44."""
    master = a_master(Store())
    for _ in range(100):
        master.reaches = False
        master.go_on(0.4)
        master.reaches = True
        master.go_on(1)
    assert master.kinds() == ["Promote"]


def test_a_standby_takes_over_a_lease_after_the_last_renewal() -> None:
    """Catalogue 10, L10."""
    store = Store()
    a_master(store)
    standby = Contender(store, "b")
    standby.go_on(T.patience - 0.3)
    assert standby.kinds() == []
    standby.go_on(1)
    (promote,) = [action for action in standby.did if isinstance(action, Promote)]
    assert promote.cause == "a was not heard of for 3.0 s"


def test_a_living_master_is_left_alone() -> None:
    store = Store()
    master = a_master(store)
    standby = Contender(store, "b")
    for _ in range(200):
        master.go_on(0.1)
        standby.go_on(0.1)
    assert standby.kinds() == []


def test_a_tombstone_is_free_at_once_and_tokens_rise() -> None:
    """Catalogue 9, 19: a planned hand-over costs no lease."""
    store = Store()
    master = a_master(store)
    standby = Contender(store, "b")
    standby.go_on(1)
    token = master.keeper.token
    assert token is not None
    master.feed(Permit(False))
    master.feed(Step("switchover"))
    assert master.kinds() == ["Promote", "Fence"]
    assert store.record is not None
    assert not store.record.released
    master.feed(Fenced())
    assert master.kinds() == ["Promote", "Fence", "Released"]
    assert store.record.released
    standby.go_on(T.renew / 4 + 0.01)
    (promote,) = [action for action in standby.did if isinstance(action, Promote)]
    assert promote.token == token + 1
    assert promote.cause == "a let go: switchover"


def test_a_renewal_under_way_does_not_pass_for_the_tombstone() -> None:
    """Catalogue 19: the hand-over would cost a lease, and a file would stay locked."""
    store = Store()
    master = a_master(store)
    master.feed(Permit(False))
    master.feed(Step("switchover"))
    master.reaches = False
    while (renewal := master.keeper._attempt) is None:
        master.go_on(0.05)
    master.feed(Fenced())
    master.reaches = True
    assert renewal.record is not None
    seen = store.swap(store.observe(), renewal.record)
    master.feed(Seen(renewal.number, seen))
    assert master.kinds() == ["Promote", "Fence", "Released"]
    assert store.record is not None
    assert store.record.released


def test_nothing_is_released_before_the_broker_is_dead() -> None:
    """Catalogue 17: the lock stays held, for as long as it takes."""
    store = Store()
    master = a_master(store)
    standby = Contender(store, "b")
    master.feed(Step("switchover"))
    for _ in range(200):
        master.go_on(0.1)
        standby.go_on(0.1)
    assert standby.kinds() == []
    assert master.keeper.state is State.FENCING


def test_a_tombstone_of_an_earlier_life_of_the_store_is_watched() -> None:
    """Catalogue 62, 64, 104: it may be older than the last master."""
    store = Store()
    master = a_master(store)
    master.feed(Permit(False))
    master.feed(Step("shutdown"))
    master.feed(Fenced())
    store.restart(store.record)
    standby = Contender(store, "b")
    standby.go_on(T.patience - 0.3)
    assert standby.kinds() == []
    standby.go_on(1)
    (promote,) = [action for action in standby.did if isinstance(action, Promote)]
    assert store.record is not None
    assert promote.token >= 2000  # it jumps past what may have been forgotten


def test_a_holder_writes_again_what_the_store_forgot() -> None:
    """Catalogue 61, 63: same token, no takeover."""
    store = Store()
    master = a_master(store)
    standby = Contender(store, "b")
    token = master.keeper.token
    for _ in range(3):
        store.restart(None)
        for _ in range(50):
            master.go_on(0.1)
            standby.go_on(0.1)
    assert master.kinds() == ["Promote"]
    assert standby.kinds() == []
    assert store.record is not None
    assert store.record.token == token


def test_a_holder_writes_over_older_data() -> None:
    store = Store()
    master = a_master(store)
    older = store.record
    master.go_on(3)
    store.restart(older)
    master.go_on(1)
    assert master.kinds() == ["Promote"]
    assert store.record is not None
    assert store.record.sequence > (older.sequence if older else 0)


def test_somebody_elses_newer_record_is_a_loss_at_once() -> None:
    store = Store()
    master = a_master(store)
    record = store.record
    assert record is not None
    store.record = replace(record, holder="b", instance="b-1", token=record.token + 1)
    master.go_on(T.renew)
    fence = master.did[-1]
    assert isinstance(fence, Fence)
    assert fence.is_lost
    assert fence.cause == f"the lock is held: b, token {record.token + 1}"
    master.feed(Fenced())
    assert store.record.holder == "b"
    assert not store.record.released


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
    attempt = master.keeper._attempt
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


def test_a_tombstone_names_for_whom_the_lock_was_let_go() -> None:
    store = Store()
    master = Contender(store)
    master.go_on(10)
    master.feed(Permit(False))
    master.feed(Step("switchover to b", heir="b"))
    master.feed(Fenced())
    assert store.record is not None
    assert (store.record.released, store.record.heir) == (True, "b")
    heir = Contender(store, "b")
    heir.go_on(1)
    assert (store.record.holder, store.record.heir) == ("b", "")
