"""What a node tells of itself: in the API's snapshot and on the board."""

from __future__ import annotations

import math

import pytest

from understudyd.board.port import Request
from understudyd.guard.words import Dead, Exited
from understudyd.lock.memory import Store
from understudyd.lock.words import Failed
from understudyd.sidecar import view
from understudyd.sidecar.billboard import News
from understudyd.sidecar.words import Asked, Stop
from understudyd.status import FENCING_FAILED, Member, Role
from understudyd.testing.node_contender import NodeContender


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def master(store: Store) -> NodeContender:
    return NodeContender(store).become_master()


@pytest.fixture
def standby(master: NodeContender, store: Store) -> NodeContender:
    """Of a group whose master is there."""
    node = NodeContender(store, name="b")
    node.go_on(1)
    return node


def test_a_master_shows_its_lease(master: NodeContender) -> None:
    machine = master.machine
    assert view.lease(machine) == (machine.keeper.deadline, master.token)
    status = view.status(machine, master.now)
    assert (status.role, status.state, status.master) == (Role.MASTER, "master", "a")
    assert (status.token, status.broker.healthy, status.broker.pid) == (master.token, True, 77)


def test_a_standby_shows_the_master_and_no_lease(
    master: NodeContender, standby: NodeContender
) -> None:
    assert view.lease(standby.machine) == (-math.inf, 0)
    shown = view.snapshot(standby.machine, standby.now, News(), {})
    assert (shown.status.role, shown.status.master, shown.status.token) == ("standby", "a", None)
    assert (shown.cluster.master, shown.cluster.token) == ("a", master.token)
    assert shown.uris[0] == master.machine.node.address
    assert (shown.is_ready, shown.trouble) == (True, "")


def test_who_is_starting_or_stopping_is_no_master(store: Store, master: NodeContender) -> None:
    """Catalogue I6."""
    master.feed(Stop())
    assert view.lease(master.machine) == (-math.inf, 0)
    status = view.status(master.machine, master.now)
    assert (status.role, status.state) == (Role.NONE, "stopping")
    assert not view.member(master.machine, master.now).healthy


def test_nodes_that_nobody_has_heard_of_are_shown_as_unknown(master: NodeContender) -> None:
    b = Member("b", Role.STANDBY, "standby", 3, healthy=True, seen_s=0.5)
    old_word_of_ours = Member("a", Role.STANDBY, "standby", seen_s=0.9)
    shown = view.cluster(master.machine, master.now, [b, old_word_of_ours])
    assert [node.name for node in shown.nodes] == ["a", "b", "c"]
    ours, theirs, unheard = shown.nodes
    assert (ours.role, ours.seen_s) == (Role.MASTER, 0.0)
    assert theirs == b
    assert (unheard.state, unheard.seen_s) == ("unknown", None)


def test_a_node_that_the_lock_does_not_answer_is_not_ready(standby: NodeContender) -> None:
    standby.reaches = False
    standby.go_on(2.5)
    assert view.snapshot(standby.machine, standby.now, News(), {}).is_ready
    standby.go_on(1)
    shown = view.snapshot(standby.machine, standby.now, News(), {})
    assert (shown.is_ready, shown.trouble) == (False, "the lock does not answer")
    standby.feed(Failed(0, "refused"))
    shown = view.snapshot(standby.machine, standby.now, News(), {})
    assert shown.trouble == "the lock does not answer: refused"
    assert shown.status.warnings == (shown.trouble,)


def test_a_broker_that_cannot_be_killed_is_told_to_everybody(master: NodeContender) -> None:
    """Catalogue 17: by `cluster list`, which shows warnings, and by the probes."""
    token = master.token
    master.feed(Exited(token, 1), Dead(token, 0.4, ("java (12)",)))
    shown = view.snapshot(master.machine, master.now, News(), {})
    text = "FENCING FAILED, the lock is kept: java (12) can't be killed"
    assert (shown.is_ready, shown.trouble) == (False, text)
    assert (shown.status.state, shown.status.warnings) == (FENCING_FAILED, (text,))
    master.feed(Dead(token, 9.0))
    assert view.status(master.machine, master.now).warnings == ()


def test_a_node_that_sits_out_is_no_candidate(master: NodeContender) -> None:
    """Catalogue 96: others leave it no head start."""
    token = master.token
    master.feed(Exited(token, 1), Dead(token, 0.01))
    shown = view.member(master.machine, master.now)
    assert (shown.role, shown.healthy) == (Role.STANDBY, False)


def test_a_pause_is_told_with_the_state(master: NodeContender) -> None:
    master.feed(Asked(Request("1", "pause")))
    assert view.status(master.machine, master.now).state == "master (paused)"
    assert view.cluster(master.machine, master.now, ()).is_paused
