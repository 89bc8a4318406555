"""The node's machine, event by event: what it orders, and what it does not."""

from __future__ import annotations

import itertools
import random

import pytest

from understudyd.board.port import Request
from understudyd.config.model import Command, Group
from understudyd.drivers.port import Reign
from understudyd.guard.words import Dead, Exited, Started
from understudyd.health.port import Health
from understudyd.lock.keeper import Keeper
from understudyd.lock.memory import Store
from understudyd.lock.words import Extend, Read, Seen, Swap, Tick
from understudyd.sidecar.node import Machine
from understudyd.sidecar.tenure import Phase
from understudyd.sidecar.words import (
    Action,
    Asked,
    Check,
    Checked,
    Close,
    Demote,
    Event,
    Follow,
    Kill,
    Launch,
    Note,
    Peers,
    Prepare,
    Prepared,
    Quit,
    Reply,
    Say,
    Slept,
    Stop,
)
from understudyd.status import Member, Role
from understudyd.testing.groups import a_group


class Contender:
    """A machine whose lock is a store in memory, which answers at once while `reaches`."""

    def __init__(self, store: Store, group: Group | None = None, name: str = "a") -> None:
        group = group or a_group()
        keeper = Keeper("g", name, f"{name}-1", group.timings)
        self.store = store
        self.machine = Machine(group, group.nodes[name], keeper, random.Random(1))
        self.now = 1000.0
        self.reaches = True
        self.did: list[Action] = []
        self.said: list[str] = []
        self.feed(Peers(()))

    def feed(self, *events: Event) -> list[Action]:
        """What was ordered, without the talk to the store."""
        before = len(self.did)
        for event in events:
            for action in self.machine.receive(event, self.now):
                self._obey(action)
        return self.did[before:]

    def _obey(self, action: Action) -> None:
        match action:
            case Read(attempt) if self.reaches:
                self.feed(Seen(attempt, self.store.observe()))
            case Swap(attempt, expected, record) if self.reaches:
                self.feed(Seen(attempt, self.store.swap(expected, record)))
            case Say(_, text):
                self.said.append(text)
            case Read() | Swap():
                pass
            case _:
                self.did.append(action)

    def go_on(self, seconds: float) -> list[Action]:
        before = len(self.did)
        end = self.now + seconds
        while self.machine.due <= end:
            self.now = max(self.now, self.machine.due)
            self.feed(Tick())
        self.now = end
        return self.did[before:]

    @property
    def token(self) -> int:
        assert self.machine.token is not None
        return self.machine.token

    def check(self, ok: bool) -> list[Action]:
        """Answer the health check under way, or the next one."""
        checks = [action for action in self.did if isinstance(action, Check)]
        return self.feed(Checked(checks[-1].number, Health(ok, "so it is")))

    def become_master(self) -> Contender:
        self.go_on(5)
        self.feed(Prepared(self.token), Started(self.token, 77))
        self.check(True)
        assert self.machine.phase is Phase.MASTER
        return self


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def master(store: Store) -> Contender:
    return Contender(store).become_master()


def names(actions: list[Action]) -> list[str]:
    return [type(action).__name__ for action in actions if not isinstance(action, Extend)]


def ask(command: str, to: str | None = None) -> Asked:
    return Asked(Request(f"{command}-{to}", command, to))


def a_standby(name: str, weight: int = 1, *, seen_s: float = 0.5, healthy: bool = True) -> Member:
    return Member(name, Role.STANDBY, "standby", weight, healthy=healthy, seen_s=seen_s)


def switch_over(master: Contender, to: str | None, *standbys: Member) -> list[Action]:
    """Asked for, and asked for again with the news of a second later: all have spoken."""
    master.feed(Peers(standbys))
    assert master.feed(ask("switchover", to)) == []
    master.go_on(1.0)
    return master.feed(Peers(standbys), ask("switchover", to))


def test_the_order_of_a_promotion(store: Store) -> None:
    """Catalogue I6: the lock, then hooks and stamp, then the broker, then master."""
    node = Contender(store)
    assert node.go_on(5) == [Prepare(Reign(node.token, "life 1"), "")]
    (launch,) = node.feed(Prepared(node.token))
    assert isinstance(launch, Launch)
    assert launch.deadline == node.machine.keeper.deadline
    assert node.machine.role == Role.NONE
    assert names(node.feed(Started(node.token, 77))) == ["Check"]
    assert names(node.check(True)) == ["Note", "Follow"]
    assert node.machine.role == Role.MASTER
    assert node.machine.tenure.pid == 77


def test_the_order_of_a_hand_over(master: Contender, store: Store) -> None:
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


def test_an_unkillable_broker_keeps_the_lock(master: Contender, store: Store) -> None:
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


def test_a_crash_hands_over_at_once_and_sits_out(master: Contender, store: Store) -> None:
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
    node = Contender(store)
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
    node = Contender(store, a_group(local_restarts=1)).become_master()
    token = node.token
    (launch,) = node.feed(Exited(token, 1), Dead(token, 0.01))
    assert isinstance(launch, Launch)
    assert launch.reign.token == token
    node.feed(Started(token, 78))
    node.check(True)
    assert names(node.feed(Exited(token, 1), Dead(token, 0.01)))[0] == "Close"


def test_nothing_is_begun_for_an_earlier_token(store: Store) -> None:
    """Catalogue 29: an answer that comes after the reign is over."""
    node = Contender(store)
    node.go_on(5)
    token = node.token
    node.reaches = False
    node.go_on(10)
    assert node.machine.phase in (Phase.RELEASING, Phase.STANDBY)
    assert node.feed(Prepared(token)) == []


def test_an_answer_after_the_deadline_starts_nothing(store: Store) -> None:
    """Catalogue 29: frozen between the lock and the hook's answer."""
    node = Contender(store)
    node.go_on(5)
    token = node.token
    node.reaches = False
    node.now += 60  # frozen
    assert "Launch" not in names(node.feed(Prepared(token)))


def test_a_lost_deadline_kills(master: Contender) -> None:
    """Catalogue 38."""
    master.reaches = False
    assert "Kill" in names(master.go_on(3))
    assert master.machine.role == Role.NONE


def test_a_stop_that_takes_too_long_for_the_lease_becomes_a_kill(master: Contender) -> None:
    """Catalogue 16, 30."""
    master.feed(Stop())
    master.reaches = False
    assert names(master.go_on(3)) == ["Kill"]


def test_health_is_lost_only_after_some_failures(master: Contender) -> None:
    """Catalogue 25, 44."""
    for ok in (False, False, True, False, False):
        master.go_on(1.01)
        assert master.check(ok) == []
    master.go_on(1.01)
    assert names(master.check(False)) == ["Kill"]


def test_a_check_that_does_not_come_back_is_a_failure(master: Contender) -> None:
    assert "Kill" in names(master.go_on(30))


def test_a_machine_that_slept_fences_first(master: Contender) -> None:
    """Catalogue 37."""
    assert names(master.feed(Slept(2.0))) == ["Kill"]


def test_a_broker_that_does_not_get_healthy(store: Store) -> None:
    """Catalogue 96."""
    node = Contender(store, a_group(start_timeout=4.0))
    node.go_on(5)
    node.feed(Prepared(node.token), Started(node.token, 1))
    node.check(False)
    assert node.said[-1] == "health check: so it is"
    assert "Kill" in names(node.go_on(5))
    assert any(text.endswith("not healthy within 4 s: so it is") for text in node.said)


def test_says_why_a_broker_is_not_healthy_yet_or_still(master: Contender) -> None:
    """Once for a reason, until it is healthy again."""
    for ok in (False, False, True, False):
        master.go_on(1.01)
        master.check(ok)
    assert master.said.count("health check: so it is") == 2


def test_a_broker_that_ended_when_told_was_not_killed(master: Contender) -> None:
    token = master.token
    assert "Demote" in names(master.feed(Stop()))
    master.feed(Dead(token, 0.0))
    assert "the broker has ended" in master.said
    assert not any("dead" in text for text in master.said)


def test_a_pause_stops_what_nodes_do_by_themselves(master: Contender, store: Store) -> None:
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


def test_exclusion_goes_before_a_pause(master: Contender) -> None:
    """Catalogue 98: who loses the lock loses the broker."""
    master.feed(ask("pause"))
    master.reaches = False
    assert "Kill" in names(master.go_on(3))


def test_a_paused_standby_does_not_campaign(store: Store) -> None:
    node = Contender(store)
    node.feed(ask("pause"))
    assert node.go_on(30) == []
    assert names(node.feed(ask("resume"))) == ["Reply", "Prepare"]


def test_a_switchover_names_its_heir(master: Contender, store: Store) -> None:
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


def test_a_candidate_that_has_died_is_not_handed_over_to(master: Contender) -> None:
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


def test_a_failover_does_not_wait_for_a_word(master: Contender) -> None:
    """Catalogue 97: it is for haste."""
    master.feed(Peers((a_standby("b", seen_s=2.0),)))
    reply, kill = master.feed(ask("failover"))
    assert isinstance(reply, Reply)
    assert reply.answer.code == 202
    assert isinstance(kill, Kill)


@pytest.mark.parametrize(
    ("members", "to", "reason"),
    [
        ((), None, "no other node could be master"),
        ((), "b", "it was never heard of"),
        ((), "x", "there is no node 'x'; nodes: a, b, c"),
        ((), "a", "a is master already"),
        ((a_standby("b", seen_s=9.0),), "b", "last heard of 9 s ago"),
        ((a_standby("b", healthy=False),), "b", "it is standby and not ready"),
    ],
)
def test_a_switchover_is_judged_before_it_touches_anything(
    master: Contender, members: tuple[Member, ...], to: str | None, reason: str
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
    node = Contender(store)
    node.feed(Peers((a_standby("b", 3), a_standby("c", 2))))
    node.go_on(2.9)
    store.record = None
    light = node.machine.tenure._permit.delay
    node.feed(Peers((a_standby("b"), a_standby("c"))))
    assert light == pytest.approx(0.3)
    assert node.machine.tenure._permit.delay == 0.0


def test_hooks_that_hang_veto(store: Store) -> None:
    """Catalogue 93."""
    node = Contender(store, a_group(hooks={"pre_promote": Command(("x",), 2.0)}))
    node.go_on(5)
    node.go_on(8)
    causes = [action.cause for action in node.did if isinstance(action, Note)]
    assert causes == ["the store or a hook did not answer in time"]
    assert "Launch" not in names(node.did)


def test_a_store_that_knows_more_is_learnt_from(store: Store) -> None:
    node = Contender(store)
    node.go_on(5)
    node.feed(Prepared(node.token, "the store has the stamp of token 5000, of z", 5000))
    node.go_on(1)
    assert node.token > 5000


def test_the_old_holder_is_fenced_where_only_the_lease_says_that_it_is_dead(store: Store) -> None:
    """Catalogue 95."""
    master = Contender(store).become_master()
    other = Contender(store, name="b")
    (prepare,) = other.go_on(5)
    assert isinstance(prepare, Prepare)
    assert prepare.old == "a"
    assert prepare.reign.token > master.token


def test_follow_and_note_name_what_happened(master: Contender) -> None:
    notes = [action for action in master.did if isinstance(action, Note)]
    assert [(note.token, note.role) for note in notes] == [(master.token, Role.MASTER)]
    assert notes[0].cause == "there was no record"
    assert Follow("post_promote", Reign(master.token, "life 1")) in master.did
    assert not [action for action in master.did if isinstance(action, Close)]
