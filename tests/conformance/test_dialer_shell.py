"""The supervisor with real threads over a dialer without a network: connections and epochs.

Every test ends with the fixture's own check: once all supervisors are closed, their threads end and
no connection is left open. Nothing here measures time but lower bounds; every wait has an end far
beyond what any machine needs.
"""

from __future__ import annotations

import errno

import pytest

from understudy.core.endpoint import Endpoint
from understudy.core.events import Connected, Interrupted, Resumed
from understudy.core.uri import parse_members
from understudy.errors import Attempt, ConnectFailed
from understudy.failover import notifier, worker
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.testing import FakeDialer, wait_until
from understudy.testing.supervisors import (
    LONG,
    A,
    B,
    Bench,
    C,
    User,
    acquire,
    kinds,
    leave_ready,
    start,
)


def test_takers_get_connections_of_their_own_to_one_endpoint(bench: Bench) -> None:
    supervisor = bench.supervisor()
    one, other = acquire(supervisor), acquire(supervisor)
    assert one is not other
    assert [one.endpoint, other.endpoint] == [A, A]
    assert supervisor.epoch_of(one) == supervisor.epoch_of(other) == supervisor.epoch == 1
    assert repr(supervisor).endswith("<Machine connected amqp://a epoch=1>>")


def test_a_loss_severs_all_connections_of_the_epoch(bench: Bench) -> None:
    supervisor = bench.supervisor()
    one, other = acquire(supervisor), acquire(supervisor)
    supervisor.lost(one, "cut")
    assert [one.fate, other.fate] == ["severed", "severed"]
    assert supervisor.epoch_of(other) == -1
    third = acquire(supervisor)
    assert (third.endpoint, supervisor.epoch) == (B, 2)
    supervisor.lost(other, "noticed late")
    assert (third.fate, supervisor.epoch) == ("open", 2)
    assert bench.dialer.dials == [str(A), str(A), str(B)]


def test_a_connection_that_arrived_late_is_the_next_takers(bench: Bench) -> None:
    supervisor = bench.supervisor()
    user = User()
    supervisor.attach(user)
    one = leave_ready(bench, supervisor)
    assert acquire(supervisor) is one
    assert len(bench.dialer.dials) == 1
    supervisor.detach(user)


def test_what_its_peer_closed_while_nobody_used_it_is_not_handed_out(bench: Bench) -> None:
    supervisor = bench.supervisor()
    user = User()
    supervisor.attach(user)
    one = leave_ready(bench, supervisor)
    one.close_by_peer()
    other = acquire(supervisor)
    assert (one.fate, other.endpoint) == ("severed", B)
    supervisor.detach(user)


def test_a_connection_closed_by_its_taker_is_no_loss(bench: Bench) -> None:
    supervisor = bench.supervisor()
    one, other = acquire(supervisor), acquire(supervisor)
    supervisor.released(one)
    bench.dialer.discard(one)
    supervisor.lost(one, "its socket is closed")
    assert (other.fate, supervisor.epoch) == ("open", 1)


def test_a_further_connection_that_fails_ends_the_epoch(bench: Bench) -> None:
    supervisor = bench.supervisor()
    one = acquire(supervisor)
    bench.dialer.fail(A)
    assert acquire(supervisor).endpoint == B
    assert one.fate == "severed"


class RefusingDialer(FakeDialer):
    """Its brokers say no to a further connection."""

    def is_refusal(self, exc: Exception) -> bool:
        return isinstance(exc, PermissionError)


LIMIT = PermissionError("the connection limit is reached")
NO_DESCRIPTOR = RuntimeError("no socket")
NO_DESCRIPTOR.__cause__ = OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("error", [LIMIT, NO_DESCRIPTOR])
def test_a_further_connection_that_is_refused_concerns_who_asked(
    bench: Bench, error: Exception
) -> None:
    bench.dialer = RefusingDialer()
    supervisor = bench.supervisor()
    one = acquire(supervisor)
    bench.dialer.fail(A, error=error)
    with pytest.raises(DeadlinePassed):
        supervisor.acquire(Deadline(0.05))
    call = start(acquire, supervisor)
    seen = len(bench.dialer.dials)
    bench.dialer.wait_until(lambda: len(bench.dialer.dials) > seen + 2)
    assert (one.fate, supervisor.epoch) == ("open", 1)
    bench.dialer.succeed(A)
    assert call.result(LONG).endpoint == A
    assert set(bench.dialer.dials) == {str(A)}


def test_a_refusal_by_a_broker_that_serves_no_other_connection_has_it_left(bench: Bench) -> None:
    bench.dialer = RefusingDialer()
    supervisor = bench.supervisor()
    one = acquire(supervisor)
    one.close_by_peer()
    bench.dialer.fail(A, error=LIMIT)
    assert acquire(supervisor).endpoint == B


def test_who_is_refused_gets_the_error_after_the_passes(bench: Bench) -> None:
    bench.dialer = RefusingDialer()
    supervisor = bench.supervisor("&maxReconnectAttempts=3")
    one = acquire(supervisor)
    bench.dialer.fail(A, error=LIMIT)
    for _ in range(2):
        with pytest.raises(ConnectFailed, match="no further connection to amqp://a") as caught:
            acquire(supervisor)
        assert caught.value.attempts == (Attempt(str(A), f"PermissionError: {LIMIT}"),)
    assert bench.dialer.dials == [str(A)] * 7
    assert (one.fate, supervisor.epoch) == ("open", 1)


def test_many_takers_at_once_are_on_one_broker(bench: Bench) -> None:
    supervisor = bench.supervisor()
    calls = [start(acquire, supervisor) for _ in range(12)]
    taken = [call.result(LONG) for call in calls]
    assert len(set(map(id, taken))) == 12
    assert len(bench.dialer.dials) == 12  # none too many
    assert {supervisor.epoch_of(connection) for connection in taken} == {1}


def test_takers_and_losses_at_once(bench: Bench) -> None:
    supervisor = bench.supervisor("&maxReconnectAttempts=-1")
    endpoint_of_epoch: dict[int, Endpoint] = {}
    handed_out: list[int] = []
    wrong: list[str] = []

    def work(number: int) -> None:
        for turn in range(25):
            connection = acquire(supervisor)
            handed_out.append(connection.number)
            epoch = supervisor.epoch_of(connection)
            if epoch != -1 and endpoint_of_epoch.setdefault(epoch, connection.endpoint) != (
                connection.endpoint
            ):
                wrong.append(f"two endpoints in epoch {epoch}")
            if (number + turn) % 3 == 0:
                supervisor.lost(connection, "cut")
            else:
                supervisor.released(connection)
                bench.dialer.discard(connection)

    for call in [start(work, number) for number in range(6)]:
        call.result(LONG)
    assert wrong == []
    assert len(handed_out) == len(set(handed_out)) == 150
    told = [kind for kind in kinds(bench.events) if kind is not Connected]
    assert told[::2] == [Interrupted] * len(told[::2])
    assert told[1::2] == [Resumed] * len(told[1::2])


def test_users_that_attach_have_a_lost_connection_replaced_unasked(bench: Bench) -> None:
    supervisor = bench.supervisor()
    user = User()
    supervisor.attach(user)
    supervisor.lost(acquire(supervisor), "cut")
    bench.dialer.wait_until(lambda: [c.endpoint for c in bench.dialer.open] == [B])
    assert acquire(supervisor).number == 2
    supervisor.detach(user)


def test_with_the_last_user_go_all_idle_connections(bench: Bench) -> None:
    supervisor = bench.supervisor("&backup=true")
    user = User()
    supervisor.attach(user)
    leave_ready(bench, supervisor)
    bench.dialer.wait_until(lambda: len(bench.dialer.open) == 2)
    supervisor.detach(user)
    bench.dialer.wait_until(lambda: not bench.dialer.open)  # the spare may arrive only now
    assert [connection.fate for connection in bench.dialer.connections] == ["discarded"] * 2


def test_learned_endpoints_are_used(bench: Bench) -> None:
    bench.dialer.fail(A, B, C)
    supervisor = bench.supervisor()
    call = start(acquire, supervisor)
    (extra,) = parse_members("amqp://extra", schemes={"amqp"})
    supervisor.found((extra,))
    assert call.result(LONG).endpoint == extra


def test_no_more_is_dialed_than_is_taken(bench: Bench) -> None:
    supervisor = bench.supervisor()
    user = User()
    supervisor.attach(user)
    for count in range(1, 100):
        acquire(supervisor)
        assert len(bench.dialer.dials) == count


def test_idle_threads_end_and_come_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "IDLE_TIME", 0.02)
    monkeypatch.setattr(notifier, "IDLE_TIME", 0.02)
    supervisor = bench.supervisor("&backup=true")
    seen = 0
    for turn in range(20):
        user = User()
        supervisor.attach(user)
        one = acquire(supervisor)
        if turn % 2:
            supervisor.lost(one, "cut")
            one = acquire(supervisor)
        supervisor.released(one)
        bench.dialer.discard(one)
        seen += len(bench.threads())  # an idle one may have ended already
        supervisor.detach(user)
        if turn % 5 == 0:
            assert wait_until(lambda: not bench.threads(), LONG)
    assert seen
    assert supervisor.epoch > 1  # still the same one draw
