"""The supervisor's spares, and its way back to a priority endpoint."""

from __future__ import annotations

import pytest

from understudy.core.events import Connected, Interrupted, Resumed
from understudy.failover import spares
from understudy.testing import wait_until
from understudy.testing.supervisors import (
    LONG,
    A,
    B,
    Bench,
    C,
    User,
    acquire,
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares are looked after all the time."""
    monkeypatch.setattr(spares, "REFILL_PERIOD", 0.001)
    monkeypatch.setattr(spares, "SETTLE_TIME", 0.001)


def test_f40_a_spare_takes_over_without_delay_and_the_pool_is_refilled(bench: Bench) -> None:
    supervisor = bench.supervisor(
        "&backup=true&initialReconnectDelay=600000&maxReconnectDelay=600000"
    )
    user = User()
    supervisor.attach(user)
    one = acquire(supervisor)
    for next_one in (B, A, B):
        assert wait_until(lambda: supervisor._spares.endpoints, LONG)
        dials = bench.dialer.dials.count(str(next_one))
        supervisor.lost(one, "cut")
        one = acquire(supervisor)
        assert one.endpoint == next_one
        assert bench.dialer.dials.count(str(next_one)) == dials
    supervisor.detach(user)


@pytest.mark.usefixtures("quick")
def test_f40_the_pool_is_refilled_until_it_is_full(bench: Bench) -> None:
    supervisor = bench.supervisor("&backup=true&backupPoolSize=2")
    user = User()
    bench.dialer.fail(B, C)
    supervisor.attach(user)
    acquire(supervisor)
    bench.dialer.wait_until(
        lambda: {bench.dialer.dials.count(str(e)) > 2 for e in (B, C)} == {True}
    )
    bench.dialer.succeed(C)
    bench.dialer.wait_until(lambda: len(bench.dialer.open) == 2)
    bench.dialer.succeed(B)
    bench.dialer.wait_until(lambda: len(bench.dialer.open) == 3)


@pytest.mark.usefixtures("quick")
def test_a_spare_that_dies_is_replaced(bench: Bench) -> None:
    supervisor = bench.supervisor("&backup=true")
    user = User()
    supervisor.attach(user)
    acquire(supervisor)
    bench.dialer.wait_until(lambda: len(bench.dialer.open) == 2)
    assert wait_until(lambda: supervisor._spares.endpoints, LONG)
    supervisor.lost(bench.dialer.open[1], "no heartbeat")
    bench.dialer.wait_until(lambda: len(bench.dialer.open) == 2)
    assert [c.fate for c in bench.dialer.connections] == ["open", "severed", "open"]
    assert supervisor.epoch == 1


def test_a_spare_whose_peer_has_left_is_not_handed_out(bench: Bench) -> None:
    supervisor = bench.supervisor("&backup=true")
    user = User()
    supervisor.attach(user)
    one = acquire(supervisor)
    assert wait_until(lambda: supervisor._spares.endpoints, LONG)
    spare = bench.dialer.open[1]
    spare.close_by_peer()
    supervisor.lost(one, "cut")
    other = acquire(supervisor)
    assert other.endpoint == B
    assert other is not spare
    assert spare.fate == "severed"


def test_a_silent_spare_delays_nobody(bench: Bench) -> None:
    supervisor = bench.supervisor("&backup=true")
    user = User()
    bench.dialer.block(B)
    supervisor.attach(user)
    one = acquire(supervisor)
    bench.dialer.wait_until(lambda: bench.dialer.blocked == [str(B)])
    assert acquire(supervisor).endpoint == A
    bench.dialer.fail(A)
    bench.dialer.block(B)
    supervisor.lost(one, "cut")
    bench.dialer.wait_until(lambda: bench.dialer.blocked == [str(B), str(B)])
    bench.dialer.fail(B)  # the spare's and the pass's own
    assert acquire(supervisor).endpoint == C


def test_a_spare_that_arrives_when_it_is_urgent_is_used_at_once(bench: Bench) -> None:
    supervisor = bench.supervisor(
        "&backup=true&initialReconnectDelay=600000&maxReconnectDelay=600000"
    )
    user = User()
    bench.dialer.block(B)
    supervisor.attach(user)
    one = acquire(supervisor)
    bench.dialer.wait_until(lambda: bench.dialer.blocked)
    supervisor.lost(one, "cut")
    bench.dialer.succeed(B)
    assert acquire(supervisor).endpoint == B
    assert bench.dialer.dials.count(str(B)) == 1


def test_close_while_a_spare_is_dialed_leaves_no_connection(bench: Bench) -> None:
    supervisor = bench.supervisor("&backup=true")
    user = User()
    bench.dialer.block(B)
    supervisor.attach(user)
    acquire(supervisor)
    bench.dialer.wait_until(lambda: bench.dialer.blocked)
    supervisor.close()
    bench.dialer.succeed(B)
    bench.dialer.wait_until(lambda: len(bench.dialer.connections) == 2)
    bench.dialer.wait_until(lambda: not bench.dialer.open)


@pytest.mark.usefixtures("quick")
def test_f42_f44_back_to_the_priority_endpoint_once_it_is_stable(bench: Bench) -> None:
    supervisor = bench.supervisor("&priorityBackup=true")
    user = User()
    supervisor.attach(user)
    bench.dialer.fail(A)
    one = acquire(supervisor)
    assert one.endpoint == B
    bench.dialer.wait_until(lambda: bench.dialer.dials.count(str(A)) > 3)
    bench.dialer.succeed(A)
    bench.dialer.wait_until(lambda: one.fate == "severed")
    assert acquire(supervisor).endpoint == A
    assert wait_until(lambda: len(bench.events) == 3, LONG)
    reason = "a priority endpoint is back and stable"
    assert bench.events == [Connected(str(B)), Interrupted(str(B), reason), Resumed(str(A))]


@pytest.mark.usefixtures("quick")
def test_a_priority_endpoint_that_is_away_takes_no_place_in_the_pool(bench: Bench) -> None:
    supervisor = bench.supervisor("&priorityBackup=true&backup=true")
    user = User()
    bench.dialer.fail(A)
    supervisor.attach(user)
    assert acquire(supervisor).endpoint == B
    bench.dialer.wait_until(lambda: [c.endpoint for c in bench.dialer.open] == [B, C])
