"""The guard's machine: what happens in, what to do out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudyd.guard.acts import (
    Action,
    Alive,
    Empty,
    EndControl,
    Ended,
    Event,
    KillAll,
    LetGo,
    Look,
    Lost,
    Quit,
    Release,
    Signal,
    Slept,
    Start,
    TakeOver,
    Tell,
    Tick,
)
from understudyd.guard.custody import Custody, State
from understudyd.guard.words import (
    Dead,
    Exited,
    Fencing,
    Kill,
    Launch,
    Lease,
    Leave,
    Seen,
    Stop,
)

LEASE = Lease(token=7, deadline=100.0)
KILL = 0.5
PATIENCE = 2.0


def launch(token: int = 7, *, has_lock: bool = False) -> Launch:
    return Launch(token, ("broker",), {}, "/", 0o022, None, has_lock)


def custody(*events: Event, has_lock: bool = False) -> Custody:
    """One with a broker, to which these happened at 10 s."""
    it = Custody(KILL, PATIENCE)
    it.receive(launch(has_lock=has_lock), LEASE, 1.0)
    for event in events:
        it.receive(event, LEASE, 10.0)
    return it


def dead(actions: list[Action]) -> list[Dead]:
    return [a.report for a in actions if isinstance(a, Tell) and isinstance(a.report, Dead)]


def test_a_broker_is_started_within_its_reign() -> None:
    it = Custody(KILL, PATIENCE)
    assert it.receive(launch(), LEASE, 1.0) == [Start(launch())]
    assert it.state is State.RUNNING
    assert it.due(LEASE) == 100.0


@pytest.mark.parametrize("lease", [Lease(7, 1.0), Lease(8, 100.0), Lease()])
def test_no_broker_is_started_when_its_deadline_has_passed(lease: Lease) -> None:
    """Catalogue 29."""
    it = Custody(KILL, PATIENCE)
    (told,) = dead(it.receive(launch(), lease, 1.0))
    assert told.cause == "refused: the deadline has passed"
    (told,) = dead(it.receive(launch(), LEASE, 1.0))
    assert told.cause == "refused: this reign has been ended"


def test_the_deadline_kills_and_all_must_be_dead_before_it_is_told() -> None:
    it = custody()
    assert it.receive(Tick(), LEASE, 99.9) == []
    actions = it.receive(Tick(), LEASE, 100.0)
    assert actions == [KillAll(), Tell(Fencing(7, "the deadline has passed"))]
    assert it.receive(Alive(("x",)), LEASE, 100.1) == []
    assert it.receive(Ended(-9), LEASE, 100.1) == [Tell(Exited(7, -9))]
    told = Dead(7, 0.25, cause="the deadline has passed")
    assert it.receive(Empty(), LEASE, 100.25) == [LetGo(), Tell(told)]
    assert it.state is State.IDLE


def test_a_raised_deadline_is_obeyed_without_a_word() -> None:
    it = custody()
    assert it.receive(Tick(), Lease(7, 101.0), 100.0) == []
    assert it.due(Lease(7, 101.0)) == 101.0


def test_what_is_of_another_reign_does_not_protect_this_one() -> None:
    assert KillAll() in custody().receive(Tick(), Lease(8, 1000.0), 10.0)
    assert KillAll() in custody().receive(Tick(), Lease(), 10.0)


def test_stopping_has_its_own_bound_and_never_one_beyond_the_deadline() -> None:
    it = custody()
    assert it.receive(Stop(7, 15, 20.0), LEASE, 10.0) == [Signal(15)]
    assert it.due(LEASE) == 20.0
    actions = it.receive(Tick(), LEASE, 20.0)
    assert actions == [KillAll(), Tell(Fencing(7, "it did not stop in time"))]
    it = custody(Stop(7, 15, 200.0))
    assert it.due(LEASE) == 100.0
    assert Tell(Fencing(7, "the deadline has passed")) in it.receive(Tick(), LEASE, 100.0)


def test_one_that_was_asked_to_stop_may_end_piece_by_piece() -> None:
    """Behind a wrapper, which ends first."""
    it = custody(Stop(7, 15, 20.0))
    assert it.receive(Ended(-15), LEASE, 10.0) == [Tell(Exited(7, -15)), Look()]
    assert it.receive(Alive(("java (pid 9)",)), LEASE, 10.0) == []
    assert it.due(LEASE) == 20.0
    assert dead(it.receive(Empty(), LEASE, 12.0)) == [Dead(7, 0.0, cause="it stopped")]
    it = custody(Stop(7, 15, 20.0), Ended(-15), Alive(("java (pid 9)",)))
    assert KillAll() in it.receive(Tick(), LEASE, 20.0)


def test_helpers_that_were_not_asked_to_stop_do_not_cost_the_whole_time() -> None:
    """A daemon that the broker started, say, which lives in a session of its own."""
    helper = Alive(("epmd (pid 9)",), is_asked=False)
    it = custody(Stop(7, 15, 50.0), Ended(0), Alive(("sh (pid 8)", "epmd (pid 9)")))
    assert it.due(LEASE) == 50.0
    assert it.receive(helper, LEASE, 11.0) == []
    assert it.receive(helper, LEASE, 12.0) == []  # no time anew
    due = it.due(LEASE)
    assert 11.0 < due < 20.0
    cause = "it stopped, but not what it had started"
    assert it.receive(Tick(), LEASE, due) == [KillAll(), Tell(Fencing(7, cause))]


def test_what_a_broker_leaves_behind_is_killed() -> None:
    it = custody()
    assert it.receive(Ended(1), LEASE, 10.0) == [Tell(Exited(7, 1)), KillAll()]
    assert dead(it.receive(Empty(), LEASE, 10.5)) == [Dead(7, 0.5, cause="it ended")]
    assert it.receive(launch(), LEASE, 11.0) == [Start(launch())]  # in place


def test_a_reign_that_was_ended_starts_no_broker_any_more() -> None:
    it = custody(Kill(7, "ordered"), Empty())
    (told,) = dead(it.receive(launch(), LEASE, 11.0))
    assert told.cause == "refused: this reign has been ended"
    assert it.receive(launch(8), Lease(8, 100.0), 12.0) == [Start(launch(8))]


@pytest.mark.parametrize("order", [Kill(7, "x"), Stop(7, 15, 9.0)])
def test_an_order_to_kill_what_does_not_run_is_answered(order: Kill | Stop) -> None:
    it = Custody(KILL, PATIENCE)
    assert len(dead(it.receive(order, LEASE, 1.0))) == 1
    assert len(dead(it.receive(order, LEASE, 1.0))) == 1
    (told,) = dead(it.receive(launch(), LEASE, 1.0))
    assert told.cause == "refused: this reign has been ended"


@pytest.mark.parametrize("order", [Kill(6, "x"), Stop(6, 15, 11.0)])
def test_orders_for_another_reign_are_not_for_this_broker(order: Kill | Stop) -> None:
    assert custody().receive(order, LEASE, 10.0) == []


def test_what_cannot_be_killed_is_told_once_and_again_when_it_is_dead() -> None:
    """Catalogue 17."""
    it = custody(Kill(7, "ordered"), Alive(("stuck (pid 9)",)))
    (told,) = dead(it.receive(Tick(), LEASE, 10.5))
    assert told == Dead(7, 0.5, ("stuck (pid 9)",), "ordered")
    assert it.receive(Tick(), LEASE, 11.5) == [KillAll()]
    assert it.receive(Lost(is_control=True), LEASE, 12.0) == []  # nothing is released
    assert it.receive(Empty(), LEASE, 13.0) == [Release(7), Quit()]


@pytest.mark.parametrize("state", ["running", "stopping", "killing"])
def test_with_control_dead_the_lock_is_let_go_after_the_broker(state: str) -> None:
    before: dict[str, Event] = {"stopping": Stop(7, 15, 50.0), "killing": Kill(7, "x")}
    it = custody(*([before[state]] if state in before else []))
    actions = it.receive(Lost(is_control=True), LEASE, 10.0)
    assert actions == ([] if state == "killing" else [KillAll()])
    assert it.receive(Empty(), LEASE, 10.1) == [Release(7), Quit()]


def test_with_control_dead_and_no_broker_the_lock_is_let_go_at_once() -> None:
    it = Custody(KILL, PATIENCE)
    assert it.receive(Lost(is_control=True), LEASE, 1.0) == [Release(7), Quit()]
    assert it.receive(Lost(is_control=True), Lease(), 1.0) == [LetGo(), Quit()]


def test_without_a_watcher_it_waits_to_be_sent_away() -> None:
    """Control may be dying in the same moment."""
    it = custody(Lost(is_control=False))
    assert it.state is State.KILLING
    assert len(dead(it.receive(Empty(), LEASE, 10.1))) == 1
    assert "watcher" in dead(it.receive(launch(8), Lease(8, 100.0), 11.0))[0].cause
    assert it.receive(Leave(), LEASE, 12.0) == [LetGo(), Quit()]
    it = custody(Lost(is_control=False), Empty())
    assert it.receive(Lost(is_control=True), LEASE, 12.0) == [Release(7), Quit()]


def test_the_watcher_takes_over_what_the_guard_had() -> None:
    it = Custody(KILL, PATIENCE)
    actions = it.receive(TakeOver(7, has_lock=True), LEASE, 10.0)
    assert actions == [KillAll(), Tell(Fencing(7, "its guard was lost"))]
    assert len(dead(it.receive(Empty(), LEASE, 10.1))) == 1
    nothing = Custody(KILL, PATIENCE)
    assert nothing.receive(TakeOver(0, has_lock=False), Lease(), 10.0) == [KillAll()]
    assert nothing.receive(Empty(), Lease(), 10.1) == [LetGo()]


def test_a_launch_that_the_guard_did_not_live_to_read_is_told_to_be_over() -> None:
    it = Custody(KILL, PATIENCE)
    it.receive(TakeOver(0, has_lock=False), LEASE, 10.0)
    (told,) = dead(it.receive(Empty(), LEASE, 10.1))
    assert (told.token, told.left) == (7, ())


def test_a_machine_that_slept_fences_first() -> None:
    """Catalogue 37."""
    assert KillAll() in custody().receive(Slept(), LEASE, 10.0)
    assert KillAll() in custody(Stop(7, 15, 50.0)).receive(Slept(), LEASE, 10.0)


def test_a_control_that_notices_nothing_is_ended_where_it_keeps_the_lock() -> None:
    it = custody(Kill(7, "x"), Empty(), has_lock=True)
    assert it.due(LEASE) == 100.0 + PATIENCE
    assert it.receive(Tick(), LEASE, 102.0) == [EndControl()]
    it = custody(Kill(7, "x"), Empty(), Seen(7), has_lock=True)
    assert it.due(LEASE) == math.inf
    it = custody(Kill(7, "x"), Empty(), has_lock=False)
    assert it.due(LEASE) == math.inf


EVENTS = st.one_of(
    st.sampled_from([launch(7, has_lock=True), launch(8), Kill(7, "x"), Kill(8, "x")]),
    st.sampled_from([Stop(7, 15, 30.0), Seen(7), Leave(), Tick(), Ended(0), Alive(("x",))]),
    st.sampled_from([Empty(), Slept(), Lost(is_control=True), Lost(is_control=False)]),
)
LEASES = st.sampled_from([LEASE, Lease(7, 5.0), Lease(8, 200.0), Lease()])


@given(st.lists(st.tuples(EVENTS, LEASES, st.floats(0, 60)), max_size=30))
def test_no_broker_is_forgotten_and_none_outlives_its_deadline(
    story: list[tuple[Event, Lease, float]],
) -> None:
    it = Custody(KILL, PATIENCE)
    now, is_alive = 0.0, False
    for event, lease, later in story:
        now += later
        if isinstance(event, Empty) and it.state not in (State.KILLING, State.STOPPING):
            continue  # only told of in answer to KillAll and Look
        is_alive &= not isinstance(event, Empty)
        for action in it.receive(event, lease, now):
            if isinstance(action, Start):
                assert not is_alive
                assert lease.token == action.launch.token
                assert now < lease.deadline
                is_alive = True
            if isinstance(action, (Release, LetGo, Quit)):
                assert not is_alive
            if isinstance(action, Quit):
                return
        if is_alive:
            assert it.state is not State.IDLE
            is_over = lease.token != it.token or now >= lease.deadline
            assert it.state is State.KILLING or not is_over
        assert it.due(lease) > now or math.isinf(it.due(lease))
