"""The failover state machine: passes, delays, losses and the end."""

from __future__ import annotations

import random
from typing import Any

import pytest

from understudy.core.events import (
    Connected,
    GaveUp,
    Interrupted,
    Resumed,
)
from understudy.core.happenings import (
    Action,
    Closed,
    Dial,
    Dialed,
    DialFailed,
    Fail,
    Hurry,
    Leave,
    Listed,
    Lost,
    Prefer,
    Tell,
    TimeUp,
    Wait,
    Wanted,
)
from understudy.core.machine import PATIENCE_MS, Machine, State
from understudy.core.options import Options
from understudy.errors import Attempt
from understudy.testing.machines import (
    A,
    B,
    C,
    connected,
    fail_pass,
    in_state,
    machine,
    told,
    waits,
)

# --- passes, limits, delays -----------------------------------------------------------------------


def test_f06_no_limit_by_default() -> None:
    it = machine(A)
    assert waits(it, it.receive(Wanted()), 1500)[-1] == 30_000
    assert it.state is State.DIALING


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({"startup_max_reconnect_attempts": 1}, 1),
        ({"startup_max_reconnect_attempts": 3}, 3),
        ({"startup_max_reconnect_attempts": 2, "max_reconnect_attempts": 5}, 2),
        ({"startup_max_reconnect_attempts": 0, "max_reconnect_attempts": 4}, 4),
        ({"startup_max_reconnect_attempts": -1, "max_reconnect_attempts": 4}, 4),
    ],
)
def test_f07_gives_up_on_startup_after_exactly_so_many_passes(
    options: dict[str, int], passes: int
) -> None:
    it = machine(A, B, **options)
    actions = it.receive(Wanted())
    for number in range(passes):
        tried, actions = fail_pass(it, actions)
        assert tried == [A, B]
        if number < passes - 1:
            assert [type(action) for action in actions] == [Wait]
            actions = it.receive(TimeUp())
    reason = f"gave up after {passes} {'pass' if passes == 1 else 'passes'}"
    attempts = (Attempt(str(A), "refused"), Attempt(str(B), "refused"))
    assert actions == [Tell(GaveUp(reason=reason)), Fail(reason, attempts)]
    assert it.receive(TimeUp()) == []


def test_the_startup_limit_is_for_the_very_first_connection_only() -> None:
    it = connected(A, startup_max_reconnect_attempts=1, max_reconnect_attempts=2)
    it.receive(Lost(1, "cut"))
    assert waits(it, it.receive(TimeUp()), 1) == [20]
    _, actions = fail_pass(it, [Dial(A)])
    assert isinstance(actions[-1], Fail)


@pytest.mark.parametrize("limit", [0, -1])
def test_zero_and_minus_one_mean_for_ever(limit: int) -> None:
    it = machine(A, max_reconnect_attempts=limit, startup_max_reconnect_attempts=limit)
    waits(it, it.receive(Wanted()), 50)


def test_f08_without_reconnect_a_loss_is_final_and_told_once() -> None:
    it = connected(A, B, reconnect=False)
    actions = it.receive(Lost(1, "cut"))
    reason = "the connection was lost and reconnect=false: cut"
    assert actions[0] == Leave(1, "cut")
    assert told(actions) == [GaveUp(reason=reason)]
    assert actions[-1] == Fail(reason, (Attempt(str(A), "cut"),))
    for _ in range(2):
        (fail,) = it.receive(Wanted())
        assert fail == Fail("the connection was lost and reconnect=false", it.attempts)
    assert it.receive(TimeUp()) == it.receive(Dialed(A)) == []
    assert it.state is State.GAVE_UP


def test_f08_without_reconnect_nothing_is_left_on_purpose_either() -> None:
    it = connected(A, B, reconnect=False, priority_backup=True)
    assert it.receive(Prefer(B, "it is back")) == []
    assert it.current == A


def test_f08_the_first_connection_is_tried_as_long_as_with_reconnect() -> None:
    it = machine(A, reconnect=False)
    assert len(waits(it, it.receive(Wanted()), 5)) == 5


def test_f09_the_initial_delay_counts_for_reconnections_only() -> None:
    it = machine(A, initial_reconnect_delay=15_000)
    assert it.receive(Wanted()) == [Dial(A)]
    it.receive(Dialed(A))
    assert it.receive(Lost(1, "cut"))[-1] == Wait(15_000)


def test_f10_delays_are_per_pass_and_start_again_after_success() -> None:
    growing = [10.0 * 2**k for k in range(12)] + [30_000, 30_000]
    it = machine(A, B)
    assert waits(it, it.receive(Wanted()), 14) == growing
    for _ in range(2):
        it.receive(Dialed(A))
        first = it.receive(Lost(it.epoch, "cut"))[-1]
        assert [first, *map(Wait, waits(it, it.receive(TimeUp()), 13))] == [*map(Wait, growing)]


def test_f11_constant_delays() -> None:
    it = machine(A, use_exponential_back_off=False, initial_reconnect_delay=70)
    assert waits(it, it.receive(Wanted()), 3) == [70, 70, 70]


def test_f12_listed_order_with_the_failed_one_last() -> None:
    it = connected(A, B, C)
    it.receive(Lost(1, "cut"))
    assert fail_pass(it, it.receive(TimeUp()))[0] == [B, C, A]
    assert it.receive(TimeUp()) == [Dial(B)]
    it.receive(Dialed(B))
    it.receive(Lost(2, "cut"))
    assert fail_pass(it, it.receive(TimeUp()))[0] == [A, C, B]


def test_f13_clients_spread_over_the_brokers() -> None:
    firsts, orders = set(), set()
    for seed in range(20):
        it = Machine((A, B), Options(), random.Random(seed))
        tried, _ = fail_pass(it, it.receive(Wanted()))
        firsts.add(tried[0])
        orders.add(frozenset(tried))
    assert firsts == {A, B}
    assert orders == {frozenset((A, B))}


def test_the_answer_to_an_earlier_dial_changes_no_pass() -> None:
    it = machine(A, B)
    it.receive(Wanted())
    assert it.receive(DialFailed(B, "late")) == []
    assert fail_pass(it, [Dial(A)])[0] == [A, B]


def test_a_warning_every_so_many_failed_passes() -> None:
    it = machine(A, warn_after_reconnect_attempts=2)
    actions = it.receive(Wanted())
    texts = []
    for _ in range(5):
        _, actions = fail_pass(it, actions)
        texts.append([event.reason for event in told(actions)])
        actions = it.receive(TimeUp())
    two, four = (f"{count} passes failed: {A}: refused" for count in (2, 4))
    assert texts == [[], [two], [], [four], []]


def test_warnings_can_be_silenced() -> None:
    it = machine(A, warn_after_reconnect_attempts=0)
    actions = it.receive(Wanted())
    for _ in range(12):
        _, actions = fail_pass(it, actions)
        assert told(actions) == []
        actions = it.receive(TimeUp())


def test_an_empty_list_waits_for_endpoints() -> None:
    it = Machine((), Options(reconnect_delay_jitter=0), random.Random(0))
    assert it.receive(Wanted()) == [Wait(5000)]
    assert [it.receive(TimeUp())[-1] for _ in range(19)][-1] == Wait(5120)
    assert it.receive(Listed((A,)))[-1] == Wait(0)
    assert it.receive(TimeUp()) == [Dial(A)]


# --- losses and epochs ----------------------------------------------------------------------------


def test_ten_connections_dying_together_are_one_loss() -> None:
    it = connected()
    assert told(it.receive(Lost(1, "cut"))) == [Interrupted(str(A), "cut")]
    assert [it.receive(Lost(1, "cut too")) for _ in range(9)] == [[]] * 9
    it.receive(TimeUp())
    it.receive(Dialed(B))
    assert it.receive(Lost(1, "noticed late")) == []
    assert (it.current, it.epoch) == (B, 2)


def test_a_further_connection_that_fails_ends_the_epoch() -> None:
    it = connected()
    assert it.receive(DialFailed(B, "a spare")) == []
    actions = it.receive(DialFailed(A, "refused"))
    reason = "no further connection could be made: refused"
    assert actions[:2] == [Leave(1, reason), Tell(Interrupted(str(A), reason))]


def refuse(it: Machine) -> list[Action]:
    """The current endpoint takes no further connection."""
    assert it.current is not None
    return it.receive(DialFailed(it.current, "connection limit", is_refusal=True))


def test_a_refused_further_connection_concerns_nobody_else() -> None:
    it = connected(warn_after_reconnect_attempts=3)
    assert [refuse(it) for _ in range(2)] == [[Wait(20)], [Wait(40)]]
    assert (it.state, it.current, it.epoch) == (State.CONNECTED, A, 1)
    slow, wait = refuse(it)
    assert ([type(one).__name__ for one in told([slow])], wait) == (["SlowReconnect"], Wait(80))
    assert it.attempts == (Attempt(str(A), "connection limit"),)
    assert it.receive(Wanted()) == [Hurry(PATIENCE_MS)]
    assert it.receive(TimeUp()) == []
    assert it.receive(Dialed(A)) == []
    assert not it.attempts
    assert it.receive(Wanted()) == []
    assert refuse(it) == [Wait(20)]


def test_after_a_refusal_a_loss_begins_an_outage_of_its_own() -> None:
    it = connected()
    for _ in range(4):
        refuse(it)
    assert it.receive(Lost(1, "cut"))[-1] == Wait(10)
    assert it.passes_failed == 0


@pytest.mark.parametrize("options", [{"max_reconnect_attempts": 2}, {"reconnect": False}])
def test_a_further_connection_is_refused_until_the_passes_are_used_up(
    options: dict[str, Any],
) -> None:
    it = connected(**options)
    attempts = (Attempt(str(A), "connection limit"),)
    fail = Fail(f"no further connection to {A}: connection limit", attempts)
    for _ in range(2):  # the next caller begins anew
        if "reconnect" not in options:
            assert refuse(it) == [Wait(20)]
        assert refuse(it) == [fail]
        assert (it.state, it.epoch) == (State.CONNECTED, 1)


def test_f44_interrupted_before_any_attempt_resumed_after_success() -> None:
    it = machine(A, B)
    it.receive(Wanted())
    assert it.receive(Dialed(A)) == [Tell(Connected(str(A)))]
    actions = it.receive(Lost(1, "cut"))
    assert actions == [Leave(1, "cut"), Tell(Interrupted(str(A), "cut")), Wait(10)]
    it.receive(TimeUp())
    assert it.receive(Dialed(B)) == [Tell(Resumed(str(B)))]


def test_f52_after_giving_up_a_new_wish_begins_a_new_round() -> None:
    it = connected(A, B, max_reconnect_attempts=1)
    it.receive(Lost(1, "cut"))
    _, actions = fail_pass(it, it.receive(TimeUp()))
    assert isinstance(actions[-1], Fail)
    actions = it.receive(Wanted())
    assert actions == [Dial(B)]  # at once; the lost one stays last
    assert it.attempts == ()
    assert it.receive(Dialed(B)) == [Tell(Resumed(str(B)))]


def test_the_error_names_each_endpoint_with_its_last_cause() -> None:
    it = connected(A, B, max_reconnect_attempts=1)
    it.receive(Lost(1, "cut"))
    it.receive(TimeUp())
    it.receive(DialFailed(B, "refused"))
    fail = it.receive(DialFailed(A, "no route"))[-1]
    assert isinstance(fail, Fail)
    assert fail.attempts == (Attempt(str(B), "refused"), Attempt(str(A), "no route"))


# --- hurry ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("initial", "most"), [(0, PATIENCE_MS), (10, PATIENCE_MS), (5000, 5000)])
def test_a_new_caller_does_not_pay_for_how_long_it_has_lasted(initial: int, most: int) -> None:
    it = machine(A, initial_reconnect_delay=initial)
    waits(it, it.receive(Wanted()), 12)
    fail_pass(it, [Dial(A)])
    assert it.state is State.WAITING
    assert it.receive(Wanted()) == [Hurry(most)]
    assert it.passes_failed == 13  # it is still the same round


# --- close ----------------------------------------------------------------------------------------


def test_f39_close_fails_those_who_wait_and_all_who_come_later() -> None:
    it = in_state(State.WAITING)
    attempts = it.attempts
    assert it.receive(Closed()) == [Fail("closed", attempts)]
    assert it.receive(Wanted()) == [Fail("closed", attempts)]
    assert it.receive(Dialed(A)) == it.receive(TimeUp()) == it.receive(Closed()) == []
