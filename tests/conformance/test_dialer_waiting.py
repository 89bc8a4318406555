"""The supervisor's callers: waiting, deadlines, giving up, close."""

from __future__ import annotations

import threading
import time

import pytest

from understudy.core.events import Connected, GaveUp
from understudy.errors import Attempt, ConnectFailed, ReentrancyError
from understudy.failover import forking
from understudy.failover import supervisor as supervisor_module
from understudy.failover.deadline import Deadline, DeadlinePassed
from understudy.testing import wait_until
from understudy.testing.supervisors import (
    LONG,
    A,
    B,
    Bench,
    C,
    User,
    acquire,
    acquire_in_vain,
    kinds,
    start,
)


def test_f15_a_deadline_passes_while_a_dial_blocks_and_reconnecting_goes_on(bench: Bench) -> None:
    supervisor = bench.supervisor()
    user = User()
    supervisor.attach(user)
    bench.dialer.block(A)
    with pytest.raises(DeadlinePassed):
        acquire_in_vain(bench, supervisor)
    assert bench.dialer.blocked == [str(A)]
    bench.dialer.succeed(A)
    bench.dialer.wait_until(lambda: bench.dialer.open)
    assert acquire(supervisor).number == 1
    supervisor.detach(user)


def test_what_arrives_when_nobody_needs_it_any_more_is_closed(bench: Bench) -> None:
    supervisor = bench.supervisor()
    bench.dialer.block(A)
    with pytest.raises(DeadlinePassed):
        acquire_in_vain(bench, supervisor)
    bench.dialer.succeed(A)
    bench.dialer.wait_until(lambda: bench.dialer.connections)
    bench.dialer.wait_until(lambda: not bench.dialer.open)
    assert acquire(supervisor).endpoint == A


def test_a_signal_handler_does_not_wait_for_what_it_has_interrupted(bench: Bench) -> None:
    """No other thread could bring a connection while it holds the lock."""
    supervisor = bench.supervisor()
    bench.dialer.succeed(A)
    with supervisor._control.lock, pytest.raises(ReentrancyError, match="leave a note"):
        acquire(supervisor)
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
    for _ in range(3 * 20):  # some of these because a caller enters, or a member fails
        assert looks.acquire(timeout=LONG)
    assert time.monotonic() - began > 5 * supervisor_module.SLICE
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
