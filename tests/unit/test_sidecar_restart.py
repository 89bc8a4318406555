"""When a sidecar may be replaced in place, and how its successor goes on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from understudyd.board.port import Request
from understudyd.guard.words import Dead, Exited
from understudyd.lock.memory import Store
from understudyd.lock.timings import PRESETS
from understudyd.lock.words import Extend, Failed, Swap, Tick
from understudyd.sidecar.legacy import FORMAT, Legacy
from understudyd.sidecar.phase import Phase
from understudyd.sidecar.restart import Move, Restart
from understudyd.sidecar.words import Asked, Check, Kill
from understudyd.status import Role
from understudyd.testing.contender import Contender, T, a_master
from understudyd.testing.node_contender import NodeContender, names

TIMINGS = PRESETS["fast"]


def a_legacy(node: NodeContender) -> Legacy:
    return node.machine.legacy("of the driver", 7)


def adopted(before: NodeContender, legacy: Legacy) -> NodeContender:
    """Another node, of the same life, that goes on."""
    after = NodeContender(before.store)
    after.now = before.now
    after.machine.keeper._instance = legacy.record.instance
    after.machine.adopt(legacy, after.now)
    return after


@pytest.fixture
def master() -> NodeContender:
    return NodeContender(Store()).become_master()


def test_a_legacy_comes_back_as_it_was(master: NodeContender) -> None:
    legacy = a_legacy(master)
    assert Legacy.from_json(legacy.to_json()) == legacy
    assert legacy.is_of(master.machine.group, master.machine.node)
    other = json.loads(legacy.to_json()) | {"format": FORMAT - 1}
    with pytest.raises(ValueError, match=f"its format is {FORMAT - 1}, not {FORMAT}"):
        Legacy.from_json(json.dumps(other))


def test_a_successor_renews_the_lease_and_looks_after_the_broker(master: NodeContender) -> None:
    after = adopted(master, a_legacy(master))
    assert (after.machine.role, after.token) == (Role.MASTER, master.token)
    did = after.go_on(0.0)
    assert any(isinstance(action, Extend) for action in did)
    assert any(isinstance(action, Check) for action in did)
    assert after.machine.keeper.deadline > master.machine.keeper.deadline - 1e-9
    did = after.feed(Exited(after.token, 1), Dead(after.token, 0.01))
    assert after.machine.phase is not Phase.MASTER


def test_a_successor_that_comes_after_the_deadline_kills(master: NodeContender) -> None:
    after = adopted(master, a_legacy(master))
    after.now = master.machine.keeper.deadline
    assert any(isinstance(action, Kill) for action in after.go_on(0.0))


def test_a_pause_goes_on(master: NodeContender) -> None:
    after = adopted(master, replace(a_legacy(master), is_paused=True))
    assert after.machine.is_paused
    assert names(after.feed(Exited(after.token, 1), Dead(after.token, 0.01))).count("Kill") == 0


def test_a_broker_that_was_ill_while_paused_still_is(master: NodeContender) -> None:
    """What the pause put off is made up for by the successor."""
    pause = Request("1", "pause")
    master.feed(Asked(pause))
    while not master.machine.tenure.ill:
        master.go_on(3)
        master.check(False)
    master.go_on(0.5)
    after = adopted(master, a_legacy(master))
    assert not after.machine.tenure.checks.is_healthy
    assert "Kill" in names(after.feed(Asked(Request("2", "resume"))))


def test_somebody_elses_record_is_a_loss_for_a_successor_too() -> None:
    store = Store()
    before = a_master(store)
    record = before.keeper.record
    assert record is not None
    store.swap(store.observe(), replace(record, holder="z", instance="z-1", token=record.token + 1))
    after = Contender(store)
    after.now = before.now
    after.keeper.adopt(record, before.keeper.deadline, before.keeper.sequence)
    after.go_on(1)
    assert "Fence" in after.kinds()


def a_lost_answer(store: Store) -> tuple[Contender, Swap]:
    """A master whose renewal was carried out, which it was not told."""
    master = a_master(store)
    due = [
        action
        for action in master.keeper.receive(Tick(), master.keeper.due)
        if isinstance(action, Swap)
    ]
    master.now = master.keeper.deadline - T.budget + T.renew
    (renewal,) = due
    store.swap(renewal.expected, renewal.record)
    master.feed(Failed(renewal.attempt, "connection reset"))
    return master, renewal


def test_nothing_is_handed_on_after_a_renewal_that_failed_until_one_is_answered() -> None:
    """It may have been carried out: what a successor sees of it says not when it was sent."""
    master, _ = a_lost_answer(Store())
    assert not master.keeper.is_settled
    master.go_on(T.renew)
    assert master.keeper.is_settled


def test_a_renewal_of_the_one_before_does_not_pass_for_the_successors() -> None:
    """Else its lease would count from when the successor sent its own."""
    store = Store()
    before, renewal = a_lost_answer(store)
    record = before.keeper.record
    assert record is not None
    after = Contender(store)
    after.now = before.now + 0.5
    after.keeper._instance = record.instance
    after.keeper.adopt(record, before.keeper.deadline, before.keeper.sequence)
    after.go_on(0)
    assert "Fence" not in after.kinds()
    assert store.observe().record != renewal.record  # it was written over, not taken for ours
    assert after.keeper.sequence > renewal.record.sequence
    assert after.keeper.deadline == pytest.approx(after.now + T.budget)


@pytest.mark.parametrize("took", [0.2, 5.0])
def test_a_master_hands_on_when_enough_is_left_of_its_lease(took: float) -> None:
    keeper = a_master(Store()).keeper
    restart = Restart()
    fresh = keeper.deadline - T.budget

    def move(phase: Phase, now: float, is_calm: bool = True) -> Move | None:
        return restart.move(phase, keeper, T, now, is_calm=is_calm)

    assert move(Phase.MASTER, fresh) is None
    restart.want(took)
    assert move(Phase.STARTING, fresh) is None
    assert move(Phase.STANDBY, fresh) is Move.END
    assert keeper.is_settled
    if took > 1:
        assert move(Phase.MASTER, fresh) is Move.REFUSE
        assert "it may take 8.0 s, and a lease lasts 2.5 s" in restart.refusal(T)
        return
    assert move(Phase.MASTER, fresh) is Move.HAND_ON
    assert move(Phase.MASTER, fresh, is_calm=False) is None
    assert move(Phase.MASTER, keeper.deadline - 0.5) is None
    assert restart.is_wanted
    restart.give_up()
    assert not restart.is_wanted
    assert move(Phase.MASTER, fresh) is None


def test_nothing_is_handed_on_while_a_renewal_is_under_way() -> None:
    master = a_master(Store())
    master.reaches = False
    master.go_on(TIMINGS.renew)
    assert not master.keeper.is_settled
