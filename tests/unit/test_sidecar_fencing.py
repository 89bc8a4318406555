"""The fencer's machine: what happens in, what to do out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudyd.drivers.fencing import (
    Abort,
    Action,
    Ended,
    EndSidecar,
    Event,
    Fencing,
    LetGo,
    Lost,
    Quit,
    Release,
    Run,
    State,
    Sweep,
    TakeOver,
    Tell,
    Tick,
    Warn,
)
from understudyd.guard.words import Dead, Exited, Kill, Launch, Lease, Seen, Started, Stop

LEASE = Lease(token=7, deadline=100.0)
OK = Ended(True, "")
FAILED = Ended(False, "exit code 1")


def launch(token: int = 7) -> Launch:
    return Launch(token, (), {}, "/", 0o022, None, has_lock=False)


def fencing(*events: Event) -> Fencing:
    """One to which these happened at 10 s."""
    it = Fencing()
    for event in events:
        it.receive(event, LEASE, 10.0)
    return it


PROMOTING = (launch(),)
RUNNING = (launch(), OK)
DEMOTING = (*RUNNING, Stop(7, 0, 50.0))
FENCING = (*RUNNING, Kill(7, "a test orders it"))
NOT_FENCED = (*FENCING, FAILED)
FENCED = (*FENCING, OK)


@pytest.mark.parametrize(
    ("before", "event", "actions"),
    [
        ((), launch(), [Run("promote")]),
        ((), launch(8), [Tell(Dead(8, 0.0, cause="its lease was over"))]),
        ((), Kill(7, ""), [Tell(Dead(7, 0.0, cause="nothing was running"))]),
        ((), TakeOver(7), [Sweep(), Run("fence")]),
        (PROMOTING, OK, [Tell(Started(7, 0))]),
        (PROMOTING, Kill(7, ""), [Abort(), Sweep(), Run("fence")]),
        (PROMOTING, Lost(), [Abort(), Sweep(), Run("fence")]),
        (RUNNING, Stop(7, 0, 50.0), [Run("demote", 50.0)]),
        (RUNNING, Kill(7, ""), [Run("fence")]),
        (RUNNING, Lost(), [Run("fence")]),
        (DEMOTING, OK, [LetGo(), Tell(Dead(7, 0.0, cause="demote succeeded"))]),
        (DEMOTING, FAILED, [Abort(), Run("fence")]),
        (DEMOTING, Kill(7, ""), [Abort(), Run("fence")]),
        (FENCING, Kill(7, ""), []),
        (FENCING, OK, [LetGo(), Tell(Dead(7, 0.0, cause="fence succeeded"))]),
        ((*FENCING, Lost()), OK, [Release(7), Quit()]),
        (
            (*FENCING, Lost()),
            FAILED,
            [Warn("the lock is kept, as the sidecar is dead and fence failed: exit code 1")],
        ),
        ((*NOT_FENCED, Lost()), Tick(), []),
        (FENCED, Lost(), [Release(7), Quit()]),
    ],
)
def test_what_it_does(before: tuple[Event, ...], event: Event, actions: list[Action]) -> None:
    assert fencing(*before).receive(event, LEASE, 10.0) == actions


def test_what_a_failed_promote_left_is_killed_before_it_is_fenced() -> None:
    told = Tell(Exited(7, 1, "promote failed: exit code 1"))
    assert fencing(*PROMOTING).receive(FAILED, LEASE, 10.0) == [
        told,
        Abort(),
        Sweep(),
        Run("fence"),
    ]


@pytest.mark.parametrize("before", [PROMOTING, RUNNING, DEMOTING])
def test_it_fences_at_the_deadline_of_its_own_reign(before: tuple[Event, ...]) -> None:
    it = fencing(*before)
    assert it.due(LEASE) == 100.0
    assert it.receive(Tick(), LEASE, 99.9) == []
    assert it.receive(Tick(), Lease(7, 200.0), 150.0) == []
    assert it.receive(Tick(), LEASE, 100.0)[-1] == Run("fence")
    assert fencing(*before).receive(Tick(), Lease(8, 200.0), 10.0)[-1] == Run("fence")


def test_a_fence_that_failed_is_told_and_tried_again() -> None:
    it = fencing(*FENCING)
    told = it.receive(FAILED, LEASE, 12.0)
    assert told == [Tell(Dead(7, 2.0, ("the broker (fence failed: exit code 1)",)))]
    assert it.receive(Tick(), LEASE, it.due(LEASE)) == [Run("fence")]


def test_a_sidecar_that_does_not_notice_is_ended_once() -> None:
    it = fencing(*FENCED)
    due = it.due(LEASE)
    assert it.receive(Tick(), LEASE, due) == [EndSidecar()]
    assert it.receive(Tick(), LEASE, due + 100) == []
    assert fencing(*FENCED, Seen(7)).receive(Tick(), LEASE, due) == []


def test_what_control_died_before_launching_is_let_go_of() -> None:
    assert fencing().receive(Lost(), LEASE, 10.0) == [Release(7), Quit()]
    assert fencing().receive(Lost(), Lease(), 10.0) == [Quit()]


EVENTS = st.sampled_from(
    [launch(), Stop(7, 0, 50.0), Kill(7, ""), Seen(7), OK, FAILED, Lost(), TakeOver(7), Tick()]
)


@given(events=st.lists(st.tuples(EVENTS, st.integers(0, 150)), max_size=12))
def test_the_lock_is_never_let_go_while_a_broker_may_live(events: list[tuple[Event, int]]) -> None:
    it = Fencing()
    may_live = False
    moment = 0.0
    for event, pause in events:
        moment += pause / 10
        was = it.state
        for action in it.receive(event, LEASE, moment):
            if isinstance(action, Run) and action.command == "promote":
                assert not may_live
                may_live = True
            if action == Tell(Started(7, 0)):
                assert was is State.PROMOTING
            if isinstance(action, (LetGo, Release)):
                assert event == OK or was is State.IDLE
                assert it.state is State.IDLE
        if event == OK and was in (State.DEMOTING, State.FENCING):
            may_live = False
        if may_live:
            assert it.state is not State.IDLE
