"""The failover state machine: examples for the scenarios, properties for everything else."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from understudy.core.endpoint import Endpoint
from understudy.core.events import (
    Connected,
    EndpointsChanged,
    Event,
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
    Happening,
    Hurry,
    Leave,
    Listed,
    Lost,
    Prefer,
    Spares,
    Tell,
    TimeUp,
    Wait,
    Wanted,
)
from understudy.core.machine import PATIENCE_MS, TRANSITIONS, Machine, State
from understudy.core.options import Options
from understudy.errors import Attempt


def at(host: str) -> Endpoint:
    uri = f"amqp://{host}:5672"
    return Endpoint(uri, uri, "amqp", host, 5672)


A, B, C, D = (at(host) for host in "abcd")


def machine(*endpoints: Endpoint, **options: Any) -> Machine:
    """Listed order and exact delays unless asked for otherwise."""
    exact = {"randomize": False, "reconnect_delay_jitter": 0, **options}
    return Machine(endpoints or (A, B, C), Options(**exact), random.Random(0))


def connected(*endpoints: Endpoint, **options: Any) -> Machine:
    """On the first endpoint."""
    it = machine(*endpoints, **options)
    (dial,) = it.receive(Wanted())
    assert isinstance(dial, Dial)
    it.receive(Dialed(dial.endpoint))
    return it


def fail_pass(it: Machine, actions: list[Action]) -> tuple[list[Endpoint], list[Action]]:
    """Refuse every dial of the pass that begins in ``actions``: what was tried, what came then."""
    tried = []
    while actions and isinstance(actions[-1], Dial):
        endpoint = actions[-1].endpoint
        tried.append(endpoint)
        actions = it.receive(DialFailed(endpoint, "refused"))
    return tried, actions


def waits(it: Machine, actions: list[Action], count: int) -> list[float]:
    """The delays of ``count`` failing passes; ``actions`` begin the first pass or its delay."""
    delays = []
    for _ in range(count):
        _, actions = fail_pass(it, actions)
        assert isinstance(actions[-1], Wait)
        delays.append(actions[-1].ms)
        actions = it.receive(TimeUp())
    return delays


def told(actions: list[Action]) -> list[Event]:
    return [action.event for action in actions if isinstance(action, Tell)]


# --- the table ----------------------------------------------------------------------------------


def in_state(state: State) -> Machine:
    it = machine(A, B, max_reconnect_attempts=1) if state is State.GAVE_UP else machine(A, B)
    if state is State.IDLE:
        return it
    actions = it.receive(Wanted())
    match state:
        case State.CONNECTED:
            it.receive(Dialed(A))
        case State.WAITING | State.GAVE_UP:
            fail_pass(it, actions)
        case State.CLOSED:
            it.receive(Closed())
    assert it.state is state
    return it


ONE_OF_EACH: list[Happening] = [
    Wanted(),
    Dialed(A),
    DialFailed(A, "refused"),
    Lost(1, "cut"),
    TimeUp(),
    Listed((C,)),
    Spares((B,)),
    Prefer(B, "it is back"),
    Closed(),
]

REACTIONS: dict[tuple[State, type], tuple[State, list[type]]] = {
    (State.IDLE, Wanted): (State.DIALING, [Dial]),
    (State.IDLE, Listed): (State.IDLE, [Tell]),
    (State.IDLE, Spares): (State.IDLE, []),
    (State.IDLE, Closed): (State.CLOSED, [Fail]),
    (State.DIALING, Dialed): (State.CONNECTED, [Tell]),
    (State.DIALING, DialFailed): (State.DIALING, [Dial]),
    (State.DIALING, Listed): (State.DIALING, [Tell]),
    (State.DIALING, Spares): (State.DIALING, []),
    (State.DIALING, Closed): (State.CLOSED, [Fail]),
    (State.WAITING, Wanted): (State.WAITING, [Hurry]),
    (State.WAITING, TimeUp): (State.DIALING, [Dial]),
    (State.WAITING, Listed): (State.WAITING, [Tell, Wait]),
    (State.WAITING, Spares): (State.WAITING, [Wait]),
    (State.WAITING, Closed): (State.CLOSED, [Fail]),
    (State.CONNECTED, Wanted): (State.CONNECTED, []),
    (State.CONNECTED, Dialed): (State.CONNECTED, []),
    (State.CONNECTED, DialFailed): (State.WAITING, [Leave, Tell, Wait]),
    (State.CONNECTED, Lost): (State.WAITING, [Leave, Tell, Wait]),
    (State.CONNECTED, Listed): (State.CONNECTED, [Tell]),
    (State.CONNECTED, Spares): (State.CONNECTED, []),
    (State.CONNECTED, Prefer): (State.DIALING, [Leave, Tell, Dial]),
    (State.CONNECTED, Closed): (State.CLOSED, [Leave, Fail]),
    (State.GAVE_UP, Wanted): (State.DIALING, [Dial]),
    (State.GAVE_UP, Listed): (State.GAVE_UP, [Tell]),
    (State.GAVE_UP, Spares): (State.GAVE_UP, []),
    (State.GAVE_UP, Closed): (State.CLOSED, [Fail]),
    (State.CLOSED, Wanted): (State.CLOSED, [Fail]),
}


def test_the_table_names_every_reaction() -> None:
    assert set(TRANSITIONS) == set(REACTIONS)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("happening", ONE_OF_EACH, ids=lambda one: type(one).__name__)
def test_each_transition(state: State, happening: Happening) -> None:
    it = in_state(state)
    before = repr(vars(it))
    actions = it.receive(happening)
    after, kinds = REACTIONS.get((state, type(happening)), (state, []))
    assert it.state is after
    assert [type(action) for action in actions] == kinds
    if (state, type(happening)) not in REACTIONS:
        assert repr(vars(it)) == before


def test_repr_is_a_status_report() -> None:
    it = machine(A)
    assert repr(it) == "<Machine idle epoch=0>"
    it.receive(Wanted())
    it.receive(Dialed(A))
    assert repr(it) == "<Machine connected amqp://a:5672 epoch=1>"


# --- passes, limits, delays ---------------------------------------------------------------------


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


# --- losses and epochs --------------------------------------------------------------------------


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


# --- hurry --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("initial", "most"), [(0, PATIENCE_MS), (10, PATIENCE_MS), (5000, 5000)])
def test_a_new_caller_does_not_pay_for_how_long_it_has_lasted(initial: int, most: int) -> None:
    it = machine(A, initial_reconnect_delay=initial)
    waits(it, it.receive(Wanted()), 12)
    fail_pass(it, [Dial(A)])
    assert it.state is State.WAITING
    assert it.receive(Wanted()) == [Hurry(most)]
    assert it.passes_failed == 13  # it is still the same round


# --- spares -------------------------------------------------------------------------------------


def test_f40_with_a_usable_spare_there_is_no_wait_and_the_order_is_kept() -> None:
    it = connected(A, B, C)
    it.receive(Spares((C,)))
    actions = it.receive(Lost(1, "cut"))
    assert [type(action) for action in actions] == [Leave, Tell, Dial]
    assert fail_pass(it, actions)[0] == [C, B, A]


def test_f40_two_spares_are_tried_in_their_order() -> None:
    it = connected(A, B, C, D)
    it.receive(Spares((C, B)))
    assert fail_pass(it, it.receive(Lost(1, "cut")))[0] == [C, B, D, A]


def test_f40_a_spare_to_the_lost_endpoint_is_no_help() -> None:
    it = connected(A, B)
    it.receive(Spares((A,)))
    assert it.receive(Lost(1, "cut"))[-1] == Wait(10)
    assert fail_pass(it, it.receive(TimeUp()))[0] == [B, A]


def test_f40_a_spare_that_gets_ready_during_the_delay_ends_it() -> None:
    it = connected(A, B, initial_reconnect_delay=15_000)
    it.receive(Lost(1, "cut"))
    assert it.receive(Spares((A,))) == []
    assert it.receive(Spares((B,))) == [Wait(0)]
    assert it.receive(TimeUp()) == [Dial(B)]


def test_a_failed_pass_over_spares_counts_as_a_pass() -> None:
    it = connected(A, B)
    it.receive(Spares((B,)))
    assert fail_pass(it, it.receive(Lost(1, "cut")))[1] == [Wait(20)]


# --- priority -----------------------------------------------------------------------------------


def test_f42_priority_is_the_first_of_the_list_unless_named() -> None:
    assert machine(A, B).priority == ()
    assert machine(A, B, priority_backup=True).priority == (A,)
    assert machine(A, B, priority_backup=True, priority_uris=("amqp://b",)).priority == (B,)
    assert machine(A, B, C, priority_backup=True, priority_uris=("amqp://C:5672",)).priority == (C,)


def test_f42_priority_endpoints_are_tried_first_but_not_if_just_lost() -> None:
    options = {"priority_backup": True, "priority_uris": ("amqp://b",), "randomize": True}
    it = machine(A, B, C, **options)
    assert it.receive(Wanted()) == [Dial(B)]
    it.receive(Dialed(B))
    it.receive(Lost(1, "cut"))
    assert fail_pass(it, it.receive(TimeUp()))[0][-1] == B


@pytest.mark.parametrize("preferred", [A, C])
def test_f42_f44_a_move_on_purpose_is_told_as_a_pair(preferred: Endpoint) -> None:
    it = connected(B, A, C)
    actions = it.receive(Prefer(preferred, "it is back"))
    assert actions == [
        Leave(1, "it is back"),
        Tell(Interrupted(str(B), "it is back")),
        Dial(preferred),
    ]
    assert it.receive(Dialed(preferred)) == [Tell(Resumed(str(preferred)))]
    assert it.epoch == 2


def test_f42_the_endpoint_left_on_purpose_is_not_put_last() -> None:
    it = connected(B, A, C)
    assert fail_pass(it, it.receive(Prefer(C, "it is back")))[0] == [C, B, A]


def test_f43_a_wish_for_the_current_or_an_unknown_endpoint_changes_nothing() -> None:
    it = connected(A, B)
    assert it.receive(Prefer(A, "rebalance")) == []
    assert it.receive(Prefer(D, "rebalance")) == []
    assert it.current == A


# --- learned endpoints --------------------------------------------------------------------------


def test_f46_learned_endpoints_are_added_and_the_configured_ones_stay() -> None:
    it = machine(A, B)
    assert told(it.receive(Listed((C, A)))) == [EndpointsChanged(reason=f"{A}, {B}, {C}")]
    assert fail_pass(it, it.receive(Wanted()))[0] == [A, B, C]
    it.receive(Listed((D,)))
    assert it.endpoints == (A, B, D)
    assert fail_pass(it, it.receive(TimeUp()))[0] == [A, B, D]
    it.receive(Listed(()))
    assert list(it.endpoints) == [A, B]


def test_f46_only_a_change_of_the_set_is_told() -> None:
    it = machine(A, B)
    it.receive(Listed((C, D)))
    assert it.receive(Listed((D, C, A))) == []


def test_f46_a_new_address_is_tried_at_once_a_missing_one_is_no_reason() -> None:
    it = machine(A)
    it.receive(Listed((B,)))
    waits(it, it.receive(Wanted()), 8)
    fail_pass(it, [Dial(A)])
    assert [type(action) for action in it.receive(Listed(()))] == [Tell]
    assert it.receive(Listed((C,)))[-1] == Wait(0)


def test_f46_losing_the_current_address_from_the_list_breaks_nothing() -> None:
    it = machine(A)
    it.receive(Listed((B,)))
    fail_pass(it, it.receive(Wanted()))
    it.receive(TimeUp())
    it.receive(DialFailed(A, "refused"))
    it.receive(Dialed(B))
    it.receive(Listed(()))
    assert it.current == B
    it.receive(Lost(1, "cut"))
    assert fail_pass(it, it.receive(TimeUp()))[0] == [A]


def test_f45_an_empty_list_waits_for_a_first_address() -> None:
    """Each empty pass lasts connectTimeout, then counts as one; an address ends it at once."""
    it = Machine((), Options(max_reconnect_attempts=2, connect_timeout=700), random.Random(0))
    assert it.receive(Wanted()) == [Wait(700)]
    assert it.passes_failed == 0
    (delay,) = it.receive(TimeUp())
    assert isinstance(delay, Wait)
    assert delay.ms < 700
    assert it.receive(TimeUp()) == [Wait(700)]
    assert it.receive(Listed((A,)))[-1] == Wait(0)
    assert it.receive(TimeUp()) == [Dial(A)]
    it.receive(Listed(()))
    assert isinstance(it.receive(DialFailed(A, "refused"))[-1], Fail)


def test_d02_an_empty_list_gives_up_after_its_passes() -> None:
    it = Machine((), Options(max_reconnect_attempts=1), random.Random(0))
    it.receive(Wanted())
    assert isinstance(it.receive(TimeUp())[-1], Fail)
    assert it.state is State.GAVE_UP


@pytest.mark.parametrize("rebalance", [False, True])
def test_f47_only_a_wish_to_rebalance_moves_a_connection_that_works(rebalance: bool) -> None:
    it = connected(A)
    it.receive(Listed((B,)))
    it.receive(Lost(1, "cut"))
    it.receive(TimeUp())
    it.receive(Dialed(B))
    actions = it.receive(Listed((B, C), rebalance))
    assert [type(action) for action in actions] == [Tell] + [Leave, Tell, Dial] * rebalance
    assert it.receive(Listed((C, B), rebalance)) == []  # no change


def test_f47_who_is_first_already_stays() -> None:
    it = connected(A)
    assert [type(action) for action in it.receive(Listed((B,), True))] == [Tell]


def test_f47_clients_spread_over_a_new_list() -> None:
    chosen = Counter()  # type: Counter[Endpoint]
    for seed in range(300):
        it = Machine((A,), Options(), random.Random(seed))
        it.receive(Wanted())
        it.receive(Dialed(A))
        last = it.receive(Listed((B, C), True))[-1]
        chosen[last.endpoint if isinstance(last, Dial) else A] += 1
    assert set(chosen) == {A, B, C}
    assert min(chosen.values()) > 60  # of 100 each


def test_f43_a_priority_endpoint_is_not_left_on_a_wish() -> None:
    it = connected(B, A, priority_backup=True)
    assert [type(action) for action in it.receive(Listed((C,), True))] == [Tell]
    assert it.receive(Prefer(A, "go there")) == []
    assert it.current == B


# --- close --------------------------------------------------------------------------------------


def test_f39_close_fails_those_who_wait_and_all_who_come_later() -> None:
    it = in_state(State.WAITING)
    attempts = it.attempts
    assert it.receive(Closed()) == [Fail("closed", attempts)]
    assert it.receive(Wanted()) == [Fail("closed", attempts)]
    assert it.receive(Dialed(A)) == it.receive(TimeUp()) == it.receive(Closed()) == []
