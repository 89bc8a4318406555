"""The failover state machine: spares, priority and learned endpoints."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from understudy.core.endpoint import Endpoint
from understudy.core.events import (
    EndpointsChanged,
    Interrupted,
    Resumed,
)
from understudy.core.happenings import (
    Dial,
    Dialed,
    DialFailed,
    Fail,
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
from understudy.core.machine import Machine, State
from understudy.core.options import Options
from understudy.testing.machines import A, B, C, D, connected, fail_pass, machine, told, waits

# --- spares ---------------------------------------------------------------------------------------


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


# --- priority -------------------------------------------------------------------------------------


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


# --- learned endpoints ----------------------------------------------------------------------------


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


def test_f47_f40_a_move_for_the_cluster_begins_with_a_spare_as_any_pass() -> None:
    it = connected(A, B, C)
    it.receive(Lost(1, "cut"))
    it.receive(TimeUp())
    it.receive(Dialed(B))
    it.receive(Spares((C,)))
    actions = it.receive(Listed((D,), True))
    assert fail_pass(it, actions)[0] == [C, A, B, D]


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
