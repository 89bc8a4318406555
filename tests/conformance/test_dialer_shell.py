"""The supervisor with real threads over a dialer without a network.

Every test ends with the fixture's own check: once all supervisors are closed, their threads end and
no connection is left open. Nothing here measures time but lower bounds; every wait has an end far
beyond what any machine needs.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest

from understudy.core.endpoint import Endpoint
from understudy.core.events import Connected, Event, GaveUp, Interrupted, Resumed
from understudy.core.uri import parse, parse_members
from understudy.errors import Attempt, ConnectFailed
from understudy.failover import forking, notifier, spares, worker
from understudy.failover import supervisor as supervisor_module
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.failover.supervisor import Supervisor
from understudy.testing import FakeConnection, FakeDialer, wait_until

T = TypeVar("T")

A, B, C = parse_members("amqp://a,amqp://b,amqp://c", schemes={"amqp"})
OWN_THREADS = {"understudy-supervisor", "understudy-spares", "understudy-events"}
LONG = 30.0  # s


class Bench:
    """Makes supervisors over one dialer, and closes them."""

    def __init__(self) -> None:
        self.dialer = FakeDialer()
        self.events: list[Event] = []
        self.supervisors: list[Supervisor[FakeConnection]] = []
        self._before = set(own_threads())  # of adapters that other tests have used

    def threads(self) -> list[threading.Thread]:
        """Those of our supervisors."""
        return [thread for thread in own_threads() if thread not in self._before]

    def supervisor(
        self, options: str = "", *, on_event: Callable[[Event], object] | None = None
    ) -> Supervisor[FakeConnection]:
        uri = parse(
            f"failover:(amqp://a,amqp://b,amqp://c)?randomize=false{options}",
            options={
                "connectTimeout": 60_000,
                "initialReconnectDelay": 0,
                "maxReconnectDelay": 1,
            },
        )
        it = Supervisor(uri, self.dialer, on_event=on_event or self.events.append)
        self.supervisors.append(it)
        return it

    def close(self) -> None:
        for supervisor in self.supervisors:
            supervisor.close()
        self.dialer.fail(A, B, C)
        assert wait_until(lambda: not self.threads(), LONG), self.threads()
        assert self.dialer.open == []


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in OWN_THREADS]


@pytest.fixture
def bench() -> Iterator[Bench]:
    it = Bench()
    yield it
    it.close()


def acquire(supervisor: Supervisor[FakeConnection], **more: Any) -> FakeConnection:
    return supervisor.acquire(Deadline(LONG), **more)


def start(function: Callable[..., T], *args: Any, **options: Any) -> Future[T]:
    """Run it in a thread of its own."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **options))
        except BaseException as exc:
            future.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return future


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(event) for event in events]


class User:
    """What `attach` gets."""


def leave_ready(bench: Bench, supervisor: Supervisor[FakeConnection]) -> FakeConnection:
    """A connection to A that waits for a taker, as who asked for it has left. Needs a user."""
    bench.dialer.block(A)
    with pytest.raises(DeadlinePassed):
        supervisor.acquire(Deadline(0.01))
    bench.dialer.wait_until(lambda: bench.dialer.blocked == [str(A)])
    bench.dialer.succeed(A)
    assert wait_until(lambda: supervisor._connections.ready == 1, LONG)
    return bench.dialer.connections[-1]


# --- connections and epochs ---------------------------------------------------------------------


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
    for turn in range(20):
        user = User()
        supervisor.attach(user)
        one = acquire(supervisor)
        if turn % 2:
            supervisor.lost(one, "cut")
            one = acquire(supervisor)
        supervisor.released(one)
        bench.dialer.discard(one)
        assert len(bench.threads()) >= 1
        supervisor.detach(user)
        if turn % 5 == 0:
            assert wait_until(lambda: not bench.threads(), LONG)
    assert supervisor.epoch > 1  # still the same one draw


# --- waiting, deadlines, giving up, close -------------------------------------------------------


def test_f15_a_deadline_passes_while_a_dial_blocks_and_reconnecting_goes_on(bench: Bench) -> None:
    supervisor = bench.supervisor()
    user = User()
    supervisor.attach(user)
    bench.dialer.block(A)
    with pytest.raises(DeadlinePassed):
        supervisor.acquire(Deadline(0.01))
    bench.dialer.wait_until(lambda: bench.dialer.blocked == [str(A)])
    bench.dialer.succeed(A)
    bench.dialer.wait_until(lambda: bench.dialer.open)
    assert acquire(supervisor).number == 1
    supervisor.detach(user)


def test_what_arrives_when_nobody_needs_it_any_more_is_closed(bench: Bench) -> None:
    supervisor = bench.supervisor()
    bench.dialer.block(A)
    with pytest.raises(DeadlinePassed):
        supervisor.acquire(Deadline(0.01))
    bench.dialer.wait_until(lambda: bench.dialer.blocked)
    bench.dialer.succeed(A)
    bench.dialer.wait_until(lambda: bench.dialer.connections)
    bench.dialer.wait_until(lambda: not bench.dialer.open)
    assert acquire(supervisor).endpoint == A


def test_what_on_wait_raises_ends_the_wait(bench: Bench) -> None:
    supervisor = bench.supervisor()
    bench.dialer.block(A)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        acquire(supervisor, on_wait=stop)


def test_several_who_wait_with_a_deadline_do_not_wake_each_other(bench: Bench) -> None:
    supervisor = bench.supervisor("&maxReconnectDelay=60000&initialReconnectDelay=60000")
    bench.dialer.fail(A, B, C)
    looks = threading.Semaphore(0)

    def on_wait() -> None:
        looks.release()

    began = time.monotonic()
    calls = [start(acquire, supervisor, on_wait=on_wait) for _ in range(3)]
    for _ in range(3 * 6):  # their entering may wake the others, so count generously
        assert looks.acquire(timeout=LONG)
    assert time.monotonic() - began > 2 * supervisor_module.SLICE
    supervisor.close()
    for call in calls:
        with pytest.raises(ConnectFailed):
            call.result(LONG)


def test_f07_f52_giving_up_and_a_new_round(bench: Bench) -> None:
    supervisor = bench.supervisor("&startupMaxReconnectAttempts=2")
    bench.dialer.fail(A, C)
    bench.dialer.fail(B, error=OSError("no route, password=secret"))
    calls = [start(acquire, supervisor) for _ in range(3)]
    for call in calls:
        with pytest.raises(ConnectFailed, match="gave up after 2 passes") as caught:
            call.result(LONG)
        assert caught.value.attempts[0] == Attempt(
            str(A), "ConnectionRefusedError: refused by the script"
        )
        assert "secret" not in str(caught.value)
    assert set(kinds(bench.events)) <= {GaveUp}
    bench.dialer.succeed(B)
    assert acquire(supervisor).endpoint == B


def test_f08_without_reconnect_a_loss_is_final(bench: Bench) -> None:
    supervisor = bench.supervisor("&reconnect=false&backup=true&priorityBackup=true")
    user = User()
    supervisor.attach(user)
    supervisor.lost(acquire(supervisor), "cut")
    for _ in range(2):
        with pytest.raises(ConnectFailed, match="reconnect=false"):
            acquire(supervisor)
    assert bench.dialer.dials == [str(A)]
    supervisor.close()
    assert wait_until(lambda: not bench.threads(), LONG)
    assert kinds(bench.events) == [Connected, GaveUp]


def test_f39_close_while_dialing_returns_at_once(bench: Bench) -> None:
    supervisor = bench.supervisor()
    bench.dialer.block(A)
    calls = [start(acquire, supervisor), start(supervisor.acquire, Deadline(None))]
    bench.dialer.wait_until(lambda: bench.dialer.blocked)
    supervisor.close()
    for call in calls:
        with pytest.raises(ConnectFailed, match="closed"):
            call.result(LONG)
    assert bench.dialer.blocked == [str(A)]  # it still blocks: nobody waited for it
    bench.dialer.succeed(A)
    bench.dialer.wait_until(lambda: bench.dialer.connections)
    bench.dialer.wait_until(lambda: not bench.dialer.open)


def test_f39_close_during_a_delay(bench: Bench) -> None:
    supervisor = bench.supervisor("&initialReconnectDelay=600000&maxReconnectDelay=600000")
    supervisor.lost(acquire(supervisor), "cut")
    waiting = threading.Event()
    call = start(supervisor.acquire, Deadline(None), waiting.set)
    assert waiting.wait(LONG)
    supervisor.close()
    with pytest.raises(ConnectFailed, match="closed"):
        call.result(LONG)


@pytest.mark.parametrize("seconds", [LONG, None])
def test_who_comes_after_close_is_told_so(bench: Bench, seconds: float | None) -> None:
    supervisor = bench.supervisor()
    one = acquire(supervisor)
    supervisor.close()
    supervisor.close()
    assert one.fate == "severed"
    with pytest.raises(ConnectFailed, match="closed"):
        start(supervisor.acquire, Deadline(seconds)).result(LONG)


def test_f41_a_hundred_lives_leave_nothing(bench: Bench) -> None:
    user = User()
    for turn in range(100):
        supervisor = bench.supervisor("&backup=true&priorityBackup=true&backupPoolSize=2")
        supervisor.attach(user)
        acquire(supervisor)
        if turn % 2:
            bench.dialer.wait_until(lambda: len(bench.dialer.open) == 3)
        supervisor.close()
        bench.dialer.wait_until(lambda: not bench.dialer.open)
    assert wait_until(lambda: not bench.threads(), LONG)


def test_where_no_thread_can_be_started_the_caller_does_the_work(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forking, "start_thread", lambda name, target: None)
    supervisor = bench.supervisor("&backup=true")
    bench.dialer.fail(A)
    one = acquire(supervisor)
    supervisor.lost(one, "cut")
    assert acquire(supervisor).endpoint == C


# --- spares and priority ------------------------------------------------------------------------


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


# --- what is told -------------------------------------------------------------------------------


class PublishingHandler(logging.Handler):
    """A log handler that sends what is logged through us."""

    def __init__(self) -> None:
        super().__init__()
        self.send: Callable[[], object] = lambda: None
        self.sent: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.send()
        self.sent.append(record.getMessage())


def test_a_log_handler_may_use_the_supervisor(bench: Bench) -> None:
    """Its lock is held by who logs, and no thread of ours that he waits for may want it."""
    supervisor = bench.supervisor()
    handler = PublishingHandler()
    handler.send = lambda: supervisor.released(acquire(supervisor))
    log = logging.getLogger("understudy")
    log.addHandler(handler)
    try:
        bench.dialer.fail(A)
        theirs = start(log.warning, "the application's own")
        supervisor.lost(acquire(supervisor), "cut")
        theirs.result(LONG)
        assert wait_until(lambda: any("interrupted" in line for line in handler.sent), LONG)
    finally:
        log.removeHandler(handler)
    assert f"cannot connect to {A}: ConnectionRefusedError: refused by the script" in handler.sent
    for connection in bench.dialer.open:
        bench.dialer.discard(connection)


def test_each_cause_is_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    supervisor = bench.supervisor()
    bench.dialer.fail(A, B, C)
    with caplog.at_level(logging.WARNING, "understudy"):
        call = start(acquire, supervisor)
        bench.dialer.wait_until(lambda: len(bench.dialer.dials) > 10)
        bench.dialer.fail(A, error=OSError("no route"))
        seen = len(bench.dialer.dials)
        bench.dialer.wait_until(lambda: len(bench.dialer.dials) > seen + 10)
        bench.dialer.succeed(C)
        one = call.result(LONG)
        bench.dialer.fail(C)
        before = bench.dialer.dials.count(str(C))
        supervisor.lost(one, "cut")
        call = start(acquire, supervisor)
        bench.dialer.wait_until(lambda: bench.dialer.dials.count(str(C)) > before + 1)
        bench.dialer.succeed(A)
        call.result(LONG)
    assert supervisor.notifier.settle(LONG)
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("cannot")]
    refused = "ConnectionRefusedError: refused by the script"
    assert lines == [
        f"cannot connect to {A}: {refused}",
        f"cannot connect to {B}: {refused}",
        f"cannot connect to {C}: {refused}",
        f"cannot connect to {A}: OSError: no route",
        f"cannot connect to {C}: {refused}",
    ]


def test_callbacks_run_in_order_on_their_own_thread_and_may_fail(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    threads: set[str] = set()
    told: list[Event] = []

    def on_event(event: Event) -> None:
        threads.add(threading.current_thread().name)
        told.append(event)
        raise RuntimeError("a bug of the application")

    supervisor = bench.supervisor(on_event=on_event)
    for _ in range(3):
        supervisor.lost(acquire(supervisor), "cut")
    acquire(supervisor)
    assert wait_until(lambda: len(told) == 7, LONG)
    assert threads == {"understudy-events"}
    assert kinds(told) == [Connected] + [Interrupted, Resumed] * 3
    assert [event.endpoint for event in told] == [str(e) for e in (A, A, B, B, A, A, B)]
    assert all(event.time > 0 for event in told)
    assert "a bug of the application" in caplog.text


def test_callbacks_run_under_no_lock_and_may_use_the_supervisor(bench: Bench) -> None:
    done: Future[FakeConnection] = Future()

    def on_event(event: Event) -> None:
        if isinstance(event, Resumed):
            start(supervisor.hurry).result(LONG)  # no lock is held here, or this would hang
            done.set_result(acquire(supervisor))

    supervisor = bench.supervisor(on_event=on_event)
    supervisor.lost(acquire(supervisor), "cut")
    acquire(supervisor)
    assert done.result(LONG).endpoint == B
