"""The keeper as holder and as standby, event by event, against a store in memory."""

from __future__ import annotations

from dataclasses import replace

from understudyd.lock.keeper import State
from understudyd.lock.memory import Store
from understudyd.lock.port import Observation
from understudyd.lock.words import (
    Action,
    Extend,
    Failed,
    Fence,
    Fenced,
    Hint,
    Permit,
    Promote,
    Read,
    Seen,
    Step,
    Swap,
)
from understudyd.testing.contender import Contender, T, a_claim_under_way, a_master


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


class SlowDisk(Contender):
    """Each write takes longer than an attempt, and its answer is not listened to any more."""

    busy_until = 0.0
    delay = 1.4 * T.attempt

    def obey(self, action: Action) -> None:
        if isinstance(action, Read | Swap) and self.now < self.busy_until:
            self.feed(Failed(action.attempt, "the call before has not come back"))
        elif isinstance(action, Swap) and self.store.observe() == action.expected:
            self.store.swap(action.expected, action.record)
            self.busy_until = self.now + self.delay
        else:
            super().obey(action)


def test_a_renewal_whose_answer_came_too_late_counts_from_when_it_was_sent() -> None:
    """Else two nodes on a slow disk would take the lock from each other for ever."""
    master = SlowDisk(Store())
    master.go_on(T.patience + 60)
    assert master.kinds() == ["Promote"]
    extended = [action.deadline for action in master.did if isinstance(action, Extend)]
    assert extended == sorted(extended)
    assert extended[-1] <= master.busy_until - master.delay + T.budget


def test_a_disk_that_is_slower_than_the_lease_makes_no_master() -> None:
    """And it can be told."""
    node = SlowDisk(Store())
    assert not node.keeper.is_late(node.now)
    node.delay = 1.4 * T.budget
    node.go_on(T.patience + 60)
    assert node.kinds() == []
    assert node.keeper.is_late(node.now)


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
    while (renewal := master.keeper._attempts.under_way) is None:
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


def test_who_is_told_of_a_release_looks_when_a_renewal_is_due() -> None:
    """A third as often, and as soon after a renewal: a lease that ends is noticed no later."""
    store = Store()
    master = a_master(store)
    asks, told = Contender(store, "b"), Contender(store, "c", is_told=True)
    for contender in (asks, told):
        contender.now = master.now
    step = 0.01
    late = dict.fromkeys((asks, told), 0.0)
    for _ in range(6000):
        master.go_on(step)
        for contender in (asks, told):
            contender.go_on(step)
            seen = contender.keeper.observation
            late[contender] = 0.0 if seen == store.observe() else late[contender] + step
            assert late[contender] <= T.look + step
    assert told.looks <= 0.4 * asks.looks
    assert told.kinds() == asks.kinds() == []
    master.feed(Permit(False))
    master.feed(Step("by hand"))
    master.feed(Fenced())
    told.feed(Hint())
    assert told.kinds() == ["Promote"]
