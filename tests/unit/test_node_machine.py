"""The node's machine, event by event: a broker from the lock to its end."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from understudyd.config.model import Command
from understudyd.drivers.port import Reign
from understudyd.guard.words import Dead, Exited, Started
from understudyd.lock.memory import Store
from understudyd.lock.port import Observation
from understudyd.lock.record import LockRecord
from understudyd.lock.words import Hint
from understudyd.sidecar.phase import Phase
from understudyd.sidecar.tenure import SILENCE, STAMPING
from understudyd.sidecar.words import (
    Close,
    Demote,
    Follow,
    Launch,
    Note,
    Prepare,
    Prepared,
    Quit,
    Slept,
    Stop,
)
from understudyd.status import Role
from understudyd.testing.groups import a_group
from understudyd.testing.node_contender import NodeContender, names


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def master(store: Store) -> NodeContender:
    return NodeContender(store).become_master()


def test_the_order_of_a_promotion(store: Store) -> None:
    """Catalogue I6: the lock, then hooks and stamp, then the broker, then master."""
    node = NodeContender(store)
    assert node.go_on(5) == [Prepare(Reign(node.token, "life 1"), "", STAMPING, "a-1")]
    (launch,) = node.feed(Prepared(node.token))
    assert isinstance(launch, Launch)
    assert launch.deadline == node.machine.keeper.deadline
    assert node.machine.role == Role.NONE
    assert names(node.feed(Started(node.token, 77))) == ["Check"]
    assert names(node.check(True)) == ["Note", "Follow"]
    assert node.machine.role == Role.MASTER
    assert node.machine.tenure.pid == 77


def test_the_order_of_a_hand_over(master: NodeContender, store: Store) -> None:
    """Catalogue 19, I6: no master any more, clean stop, dead, and only then the lock is let go."""
    token = master.token
    assert master.feed(Stop()) == [Demote(master.now + 20)]
    assert master.machine.role == Role.NONE
    master.go_on(1)
    assert store.record is not None
    assert not store.record.released
    assert names(master.feed(Dead(token, 0.01)))[:4] == ["Close", "Note", "Follow", "Quit"]
    assert store.record.released
    assert master.did[-1] == Quit(0)


def test_an_unkillable_broker_keeps_the_lock(master: NodeContender, store: Store) -> None:
    """Catalogue 17: for as long as it takes; told to end, only the second word ends it, with 3."""
    token = master.token
    master.feed(Exited(token, 1))
    master.feed(Dead(token, 0.4, ("java (12)",)))
    assert master.machine.phase is Phase.STUCK
    master.go_on(60)
    assert store.record is not None
    assert (store.record.token, store.record.released) == (token, False)
    assert master.feed(Stop()) == []
    assert master.feed(Stop()) == [Quit(3, "a broker could not be killed")]
    done = master.feed(Dead(token, 70.0))
    assert store.record.released
    assert done[-1] == Quit(3, "a broker could not be killed in time")
    (note,) = (action for action in done if isinstance(action, Note))
    assert note.cause == "the broker ended: exit code 1"
    assert note.took_s == pytest.approx(60.0)


def test_a_broker_that_is_not_heard_to_be_dead_is_an_alarm(
    master: NodeContender, store: Store
) -> None:
    """Whatever keeps its driver from telling; the lock is kept, and it may be dead after all."""
    token = master.token
    assert names(master.feed(Slept(5.0))) == ["Kill"]
    limit = master.machine.group.timings.kill + SILENCE
    master.go_on(limit - 0.1)
    assert not master.machine.tenure.alarm
    master.go_on(0.2)
    assert master.machine.phase is Phase.STUCK
    assert master.said[-1].startswith("FENCING FAILED, the lock is kept: it is not heard")
    master.go_on(60)
    assert store.record is not None
    assert (store.record.token, store.record.released) == (token, False)
    assert names(master.feed(Dead(token, 70.0)))[:3] == ["Close", "Note", "Follow"]
    assert not master.machine.tenure.alarm


def test_a_fence_command_has_its_own_limit_before_that(store: Store) -> None:
    fence = Command(("fence",), 2.5)
    node = NodeContender(store, a_group(driver="exec", fence=fence)).become_master()
    node.feed(Slept(5.0))
    node.go_on(2.4 + SILENCE)
    assert not node.machine.tenure.alarm
    node.go_on(0.2)
    assert node.machine.tenure.alarm


def test_a_stop_of_which_nothing_is_heard_becomes_a_kill(master: NodeContender) -> None:
    master.feed(Stop())
    limit = 20 + master.machine.group.timings.kill + SILENCE
    assert names(master.go_on(limit - 0.1)) == []
    assert names(master.go_on(0.2)) == ["Kill"]
    master.go_on(limit)
    assert master.machine.phase is Phase.STUCK


def test_a_crash_hands_over_at_once_and_sits_out(master: NodeContender, store: Store) -> None:
    """Catalogue 9."""
    token = master.token
    assert master.feed(Exited(token, -9)) == []
    assert not master.machine.tenure.checks.is_healthy
    assert names(master.feed(Dead(token, 0.01))) == ["Close", "Note", "Follow"]
    assert store.record is not None
    assert store.record.cause == "the broker ended: signal 9"
    assert master.go_on(2.9) == []  # a lease at least
    assert names(master.go_on(5)) == ["Prepare"]


def test_a_bad_node_sits_out_twice_as_long_each_time(store: Store) -> None:
    """Catalogue 96."""
    node = NodeContender(store)
    waits = []
    for _ in range(5):
        since = node.now
        while node.machine.phase is Phase.STANDBY:
            node.go_on(0.1)
        waits.append(node.now - since)
        node.feed(Prepared(node.token, "no"))
    later = waits[1:]
    assert all(after > 1.3 * before for before, after in itertools.pairwise(later)), waits


def test_a_restart_in_place_keeps_the_token(store: Store) -> None:
    """Catalogue 9."""
    node = NodeContender(store, a_group(local_restarts=1)).become_master()
    token = node.token
    (launch,) = node.feed(Exited(token, 1), Dead(token, 0.01))
    assert isinstance(launch, Launch)
    assert launch.reign.token == token
    node.feed(Started(token, 78))
    node.check(True)
    assert names(node.feed(Exited(token, 1), Dead(token, 0.01)))[0] == "Close"


def test_nothing_is_begun_for_an_earlier_token(store: Store) -> None:
    """Catalogue 29: an answer that comes after the reign is over."""
    node = NodeContender(store)
    node.go_on(5)
    token = node.token
    node.reaches = False
    node.go_on(10)
    assert node.machine.phase in (Phase.RELEASING, Phase.STANDBY)
    assert node.feed(Prepared(token)) == []


def test_an_answer_after_the_deadline_starts_nothing(store: Store) -> None:
    """Catalogue 29: frozen between the lock and the hook's answer."""
    node = NodeContender(store)
    node.go_on(5)
    token = node.token
    node.reaches = False
    node.now += 60  # frozen
    assert "Launch" not in names(node.feed(Prepared(token)))


def test_a_lost_deadline_kills(master: NodeContender) -> None:
    """Catalogue 38."""
    master.reaches = False
    assert "Kill" in names(master.go_on(3))
    assert master.machine.role == Role.NONE


def test_a_stop_that_takes_too_long_for_the_lease_becomes_a_kill(master: NodeContender) -> None:
    """Catalogue 16, 30."""
    master.feed(Stop())
    master.reaches = False
    assert names(master.go_on(3)) == ["Kill"]


def test_a_lock_that_is_lost_while_the_broker_stops_is_no_time_to_wait(
    master: NodeContender, store: Store
) -> None:
    master.feed(Stop())
    record = store.record
    assert record is not None
    store.record = replace(record, holder="z", instance="z-1", token=record.token + 1)
    lease = master.machine.group.timings
    assert "Kill" in names(master.go_on(lease.renew))
    assert master.machine.phase is Phase.FENCING
    assert master.now < master.machine.keeper.deadline


def test_health_is_lost_only_after_some_failures(master: NodeContender) -> None:
    """Catalogue 25, 44."""
    for ok in (False, False, True, False, False):
        master.go_on(1.01)
        assert master.check(ok) == []
    master.go_on(1.01)
    assert names(master.check(False)) == ["Kill"]


def test_a_check_that_does_not_come_back_is_a_failure(master: NodeContender) -> None:
    assert "Kill" in names(master.go_on(30))


def test_a_machine_that_slept_fences_first(master: NodeContender) -> None:
    """Catalogue 37."""
    assert names(master.feed(Slept(2.0))) == ["Kill"]


def test_a_broker_that_does_not_get_healthy(store: Store) -> None:
    """Catalogue 96."""
    node = NodeContender(store, a_group(start_timeout=4.0))
    node.go_on(5)
    node.feed(Prepared(node.token), Started(node.token, 1))
    node.check(False)
    assert node.said[-1] == "health check: so it is"
    assert "Kill" in names(node.go_on(5))
    assert any(text.endswith("not healthy within 4 s: so it is") for text in node.said)


def test_says_why_a_broker_is_not_healthy_yet_or_still(master: NodeContender) -> None:
    """Once for a reason, until it is healthy again."""
    for ok in (False, False, True, False):
        master.go_on(1.01)
        master.check(ok)
    assert master.said.count("health check: so it is") == 2


def test_a_broker_that_ended_when_told_was_not_killed(master: NodeContender) -> None:
    token = master.token
    assert "Demote" in names(master.feed(Stop()))
    master.feed(Dead(token, 0.0))
    assert "the broker has ended" in master.said
    assert not any("dead" in text for text in master.said)


def test_hooks_that_hang_veto(store: Store) -> None:
    """Catalogue 93."""
    node = NodeContender(store, a_group(hooks={"pre_promote": Command(("x",), 2.0)}))
    node.go_on(5)
    node.go_on(8)
    causes = [action.cause for action in node.did if isinstance(action, Note)]
    assert causes == ["the store or a hook did not answer in time"]
    assert "Launch" not in names(node.did)


def test_a_store_that_knows_more_is_learnt_from(store: Store) -> None:
    node = NodeContender(store)
    node.go_on(5)
    node.feed(Prepared(node.token, "the store has the stamp of token 5000, of z", 5000))
    node.go_on(1)
    assert node.token > 5000


def test_a_token_that_somebody_else_has_too_is_left_to_them(store: Store) -> None:
    """By another lock, say. The next claim is past it, and this node need not sit out for it."""
    node = NodeContender(store)
    node.go_on(5)
    before = node.token
    node.feed(Prepared(before, f"the store has the stamp of token {before}, of z", before))
    assert "Launch" not in names(node.did)
    node.go_on(1)
    assert node.token > before


def test_the_old_holder_is_fenced_where_only_the_lease_says_that_it_is_dead(store: Store) -> None:
    """Catalogue 95."""
    master = NodeContender(store).become_master()
    other = NodeContender(store, name="b")
    (prepare,) = other.go_on(5)
    assert isinstance(prepare, Prepare)
    assert prepare.old == "a"
    assert prepare.reign.token > master.token


def test_follow_and_note_name_what_happened(master: NodeContender) -> None:
    notes = [action for action in master.did if isinstance(action, Note)]
    assert [(note.token, note.role) for note in notes] == [(master.token, Role.MASTER)]
    assert notes[0].cause == "there was no record"
    assert Follow("post_promote", Reign(master.token, "life 1")) in master.did
    assert not [action for action in master.did if isinstance(action, Close)]


class Taken(Store):
    """One in which somebody else has the lock for a moment, whatever the record says."""

    is_taken = False

    def swap(self, expected: Observation, record: LockRecord) -> Observation:
        return self.observe() if self.is_taken else super().swap(expected, record)


def test_a_claim_that_came_a_moment_too_early_waits_for_the_lock() -> None:
    """Who lets go of a file looks at it once more, and has it locked meanwhile."""
    store = Taken()
    master, heir = NodeContender(store).become_master(), NodeContender(store, name="b")
    token = master.token
    master.feed(Stop(), Dead(token, 0.01))
    store.is_taken = True
    heir.feed(Hint())
    assert heir.machine.is_held_by_another
    store.is_taken = False
    heir.feed(Hint())
    assert heir.token == token + 1
