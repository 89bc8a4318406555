"""The node's machine, event by event: what is asked of it, and what others tell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from understudyd.board.port import Request
from understudyd.guard.words import Dead, Exited
from understudyd.lock.memory import Store
from understudyd.lock.timings import PRESETS
from understudyd.sidecar.phase import Phase
from understudyd.sidecar.words import (
    Action,
    Asked,
    Demote,
    Kill,
    Peers,
    Quit,
    Reply,
    Stop,
)
from understudyd.status import Member, Role
from understudyd.testing.groups import a_group
from understudyd.testing.node_contender import NodeContender, names


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def master(store: Store) -> NodeContender:
    return NodeContender(store).become_master()


def ask(command: str, to: str | None = None) -> Asked:
    return Asked(Request(f"{command}-{to}", command, to))


def a_standby(name: str, weight: int = 1, *, seen_s: float = 0.5, healthy: bool = True) -> Member:
    return Member(name, Role.STANDBY, "standby", weight, healthy=healthy, seen_s=seen_s)


def switch_over(master: NodeContender, to: str | None, *standbys: Member) -> list[Action]:
    """Asked for, and asked for again with the news of a second later: all have spoken."""
    master.feed(Peers(standbys))
    assert master.feed(ask("switchover", to)) == []
    master.go_on(1.0)
    return master.feed(Peers(standbys), ask("switchover", to))


def test_a_pause_stops_what_nodes_do_by_themselves(master: NodeContender, store: Store) -> None:
    """Catalogue 98."""
    token = master.token
    assert names(master.feed(ask("pause"))) == ["Reply"]
    assert master.feed(Exited(token, 1), Dead(token, 0.01)) == []
    assert names(master.go_on(30)) == []
    assert master.machine.phase is Phase.MASTER
    reply = master.feed(ask("switchover", "b"))[0]
    assert isinstance(reply, Reply)
    assert reply.answer.code == 409
    assert "Kill" in names(master.feed(ask("resume")))


@pytest.mark.parametrize("kill_s", [0.1, 9.0])
def test_a_node_whose_timings_are_too_short_for_the_broker_ends_when_it_comes(
    store: Store, kill_s: float
) -> None:
    """Catalogue 6: as a living master says; what is old, and what comes later, is no reason."""
    heavy = Member("b", Role.MASTER, "master", healthy=True, seen_s=0.5, kill_s=kill_s)
    assert names(NodeContender(store).feed(Peers((heavy,)))) == (["Quit"] if kill_s > 1 else [])
    assert names(NodeContender(store).feed(Peers((replace(heavy, seen_s=60.0),)))) == []
    node = NodeContender(store)
    node.feed(Peers(()))
    node.reaches = False
    node.go_on(60)
    assert "Quit" not in names(node.feed(Peers((heavy,))))


def test_exclusion_goes_before_a_pause(master: NodeContender) -> None:
    """Catalogue 98: who loses the lock loses the broker."""
    master.feed(ask("pause"))
    master.reaches = False
    assert "Kill" in names(master.go_on(3))


def test_a_paused_standby_does_not_campaign(store: Store) -> None:
    node = NodeContender(store)
    node.feed(ask("pause"))
    assert node.go_on(30) == []
    assert names(node.feed(ask("resume"))) == ["Reply", "Prepare"]


def test_a_switchover_names_its_heir(master: NodeContender, store: Store) -> None:
    """Catalogue 97: the heir has a lease's head start over the old master."""
    reply, demote = switch_over(master, "b", a_standby("b"), a_standby("c", 5))
    assert isinstance(reply, Reply)
    assert reply.answer.code == 202
    assert isinstance(demote, Demote)
    master.feed(Dead(master.token, 0.01))
    assert store.record is not None
    assert (store.record.released, store.record.heir) == (True, "b")
    assert master.go_on(2.9) == []
    assert names(master.go_on(1)) == ["Prepare"]  # nobody took it


def test_a_candidate_that_has_died_is_not_handed_over_to(master: NodeContender) -> None:
    """Catalogue 97: its last word is young still; nothing is touched until it has another."""
    order = ask("switchover", "b")
    for age in (0.0, 1.0, 2.0, 3.0):
        master.feed(Peers((a_standby("b", seen_s=age), a_standby("c"))))
        assert master.feed(order, order) == []  # from the API and from the board
        master.go_on(1.0)
    (reply,) = master.feed(Peers((a_standby("b", seen_s=4.0), a_standby("c"))), order)
    assert isinstance(reply, Reply)
    assert (reply.answer.code, reply.answer.reason) == (
        409,
        "b could not be master now: it was last heard of 4 s ago",
    )
    assert master.machine.phase is Phase.MASTER


def test_the_next_best_is_the_heir_where_the_best_has_died(
    master: NodeContender, store: Store
) -> None:
    """Catalogue 97: once the best one's last word is too old."""
    order = ask("switchover")
    for age in (0.0, 1.0, 2.0, 3.0):
        master.feed(Peers((a_standby("b"), a_standby("c", 5, seen_s=age))))
        assert master.feed(order) == []
        master.go_on(1.0)
    reply, _ = master.feed(Peers((a_standby("b"), a_standby("c", 5, seen_s=4.0))), order)
    assert isinstance(reply, Reply)
    assert reply.answer.code == 202
    master.feed(Dead(master.token, 0.01))
    assert store.record is not None
    assert store.record.heir == "b"


def test_a_failover_does_not_wait_for_a_word(master: NodeContender) -> None:
    """Catalogue 97: it is for haste."""
    master.feed(Peers((a_standby("b", seen_s=2.0),)))
    reply, kill = master.feed(ask("failover"))
    assert isinstance(reply, Reply)
    assert reply.answer.code == 202
    assert isinstance(kill, Kill)


@pytest.mark.parametrize(
    ("members", "to", "reason"),
    [
        ((), None, "the board can't be read now"),
        ((), "b", "the board can't be read now"),
        ((a_standby("a"),), None, "no other node could be master"),
        ((a_standby("a"),), "b", "it was never heard of"),
        ((), "x", "there is no node 'x'; nodes: a, b, c"),
        ((), "a", "a is master already"),
        ((a_standby("b", seen_s=9.0),), "b", "last heard of 9 s ago"),
        ((a_standby("b", healthy=False),), "b", "it is standby and not ready"),
    ],
)
def test_a_switchover_is_judged_before_it_touches_anything(
    master: NodeContender, members: tuple[Member, ...], to: str | None, reason: str
) -> None:
    """Catalogue 97."""
    master.feed(Peers(members))
    (reply,) = master.feed(ask("switchover", to))
    assert isinstance(reply, Reply)
    assert reply.answer.code == 409
    assert reason in reply.answer.reason
    assert master.machine.phase is Phase.MASTER


def test_the_heaviest_goes_first(store: Store) -> None:
    """Catalogue 89, 90: each better candidate costs a moment; of equals the first by name."""
    node = NodeContender(store)
    node.feed(Peers((a_standby("b", 3), a_standby("c", 2))))
    node.go_on(2.9)
    store.record = None
    light = node.machine.tenure._permit.delay
    node.feed(Peers((a_standby("b"), a_standby("c"))))
    assert light == pytest.approx(0.3)
    assert node.machine.tenure._permit.delay == 0.0


# --- refusals -------------------------------------------------------------------------------------


def live(seconds: float, *nodes: NodeContender) -> None:
    for _ in range(round(seconds * 5)):
        for node in nodes:
            node.go_on(0.2)


def test_a_node_that_does_not_fit_when_it_comes_ends(master: NodeContender, store: Store) -> None:
    """Catalogue 6: its timings are not those of the group."""
    other = NodeContender(store, a_group(timings=PRESETS["normal"]), "b")
    live(12, master, other)
    (end,) = {action for action in other.did if isinstance(action, Quit)}
    assert end.code == 2
    assert "all nodes of a group need the same timings" in end.reason
    assert master.machine.role == Role.MASTER


def test_a_node_that_does_not_fit_any_more_stays_a_standby(store: Store) -> None:
    """Catalogue 6: it did when it came, and will again."""
    other = NodeContender(store, a_group(timings=PRESETS["normal"]), "b")
    other.feed(ask("pause"))
    other.go_on(30)
    master = NodeContender(store)
    master.go_on(3)  # what the other wrote has to be watched for the other's lease
    master.become_master()
    live(15, master, other)
    assert other.machine.keeper.refused
    assert "Quit" not in names(other.did)
    master.feed(Stop(), Dead(master.token, 0.01))
    other.go_on(1)
    assert not other.machine.keeper.refused
