"""Control's end of the guards, in this process."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from understudy.errors import ConfigurationError, UnderstudyError
from understudyd.clock import now
from understudyd.guard import acts, client
from understudyd.guard.client import Guard
from understudyd.guard.end import FROZEN, End
from understudyd.guard.guard import Post
from understudyd.guard.launch import start
from understudyd.guard.wire import Wire
from understudyd.guard.words import Command, Dead, Event, Exited, GuardLost, Launch, Started
from understudyd.testing.estate import is_alive
from understudyd.testing.guarded import wait_until

pytestmark = pytest.mark.integration

BOUND = 30.0  # s
SLEEPER = Command(("sleep", "1000"), {"PATH": os.environ["PATH"]})


@pytest.fixture
def guard() -> Iterator[Guard]:
    with Guard(None, kill=5.0) as guard:
        yield guard


def until(guard: Guard, kind: type[Event]) -> list[Event]:
    """What came, the last of this kind."""
    events: list[Event] = []
    deadline = time.monotonic() + BOUND
    while not any(isinstance(event, kind) for event in events):
        assert time.monotonic() < deadline, events
        select.select([guard], [], [], 1)
        events += guard.events()
    return events


def test_orders_wait_for_guards_that_are_on_their_way(guard: Guard) -> None:
    guard.begin()
    assert not guard.is_ready
    guard.extend(now() + 60, 1)
    guard.launch(SLEEPER, 1)
    until(guard, Started)
    guard.kill("a test orders it")
    until(guard, Dead)


def test_guards_that_do_not_come_up(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UnderstudyError, match="the guards did not start"):
        guard.start()
    guard.begin()
    guard.extend(now() + 60, 1)
    guard.launch(SLEEPER, 1)
    events = until(guard, GuardLost)
    assert isinstance(events[-1], GuardLost)
    assert not events[-1].were_up


def test_guards_that_hang_while_they_come_up_are_ended(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every order would wait for them, and the lock with it."""
    pids = tmp_path / "pids"
    slow = tmp_path / "python"
    slow.write_text(f"#!/bin/sh\nsleep 1000 &\necho $$ $! > {pids}\nexec sleep 1000\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    guard.begin()
    guard.extend(now() + 60, 1)
    guard.launch(SLEEPER, 1)
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    guard.beat()
    assert guard.is_begun
    monkeypatch.setattr(client, "START", 0.0)
    guard.beat()
    lost = until(guard, GuardLost)[-1]
    assert isinstance(lost, GuardLost)
    assert "did not come up within" in lost.cause
    for pid in pids.read_text().split():
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}/exe").exists())


def test_what_cannot_be_started_says_why(guard: Guard) -> None:
    guard.start()
    guard.extend(now() + 60, 1)
    for command, reason in [
        (Command(("nonesuch",), SLEEPER.env), "No such file or directory: 'nonesuch'"),
        (Command(("sleep", "1"), SLEEPER.env, cwd="/nonesuch"), "directory: '/nonesuch'"),
    ]:
        guard.launch(command, 1)
        events = until(guard, Dead)
        exited = [event for event in events if isinstance(event, Exited)]
        assert exited[0].status == 127
        assert reason in exited[0].reason
    with pytest.raises(ConfigurationError, match="no user 'nonesuch'"):
        guard.launch(Command(("sleep", "1"), {}, user="nonesuch"), 1)


def test_one_broker_at_a_time_and_never_without_guards(guard: Guard) -> None:
    with pytest.raises(UnderstudyError, match="not there"):
        guard.launch(SLEEPER, 1)
    guard.start()
    guard.extend(now() + 60, 1)
    guard.launch(SLEEPER, 1)
    with pytest.raises(UnderstudyError, match="token 1 is not dead yet"):
        guard.launch(SLEEPER, 1)
    guard.kill("x")
    until(guard, Dead)


def test_every_order_to_kill_is_answered(guard: Guard) -> None:
    guard.extend(now() + 60, 1)
    guard.kill("nothing is there to do it")
    until(guard, Dead)
    guard.start()
    for _ in range(2):
        guard.kill("nothing runs")
        until(guard, Dead)


def test_a_large_environment_and_many_arguments_arrive(guard: Guard, tmp_path: Path) -> None:
    guard.start()
    guard.extend(now() + 60, 1)
    out = tmp_path / "out"
    env = {**SLEEPER.env, **{f"NAME{n}": "x" * 1000 for n in range(300)}}
    script = f'echo "$# $NAME299" > {out}'
    guard.launch(Command(("sh", "-c", script, "sh", *map(str, range(1000))), env), 1)
    until(guard, Dead)
    assert out.read_text() == f"1000 {'x' * 1000}\n"


def test_nothing_of_ours_is_left_open_in_a_broker(guard: Guard, tmp_path: Path) -> None:
    guard.extend(now() + 60, 1)
    with open(tmp_path / "lock", "w") as lock, open(tmp_path / "leak", "w") as leak:
        os.set_inheritable(leak.fileno(), True)
        guard.start()
        script = f"touch {tmp_path}/up; sleep 1000; true"
        guard.launch(Command(("sh", "-c", script), SLEEPER.env), 1, [lock.fileno()])
        started = until(guard, Started)[-1]
        assert isinstance(started, Started)
        wait_until((tmp_path / "up").exists)
        folder = Path(f"/proc/{started.pid}/fd")
        open_now = {fd.name: os.readlink(fd) for fd in folder.iterdir()}
    assert open_now.pop("0") == "/dev/null"
    del open_now["1"], open_now["2"]
    assert list(open_now.values()) == [str(tmp_path / "lock")]
    guard.kill("x")
    until(guard, Dead)


def test_no_descriptor_and_no_process_is_left_behind() -> None:
    def ours() -> set[str]:
        return {os.readlink(f"/proc/self/fd/{fd}") for fd in list_fds()}

    def list_fds() -> list[str]:
        return [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]

    with Guard(None, kill=5.0) as guard:
        guard.start()
    before = len(list_fds()), ours()
    for _ in range(3):
        with Guard(None, kill=5.0) as guard:
            guard.start()
            watcher, below = guard.pids
        for pid in (watcher, below):
            wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}/exe"))
    wait_until(lambda: len(list_fds()) <= before[0] and ours() <= before[1])


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_guard_without_a_broker_keeps_nobody_from_ending(frozen: int) -> None:
    guard = Guard(None, kill=BOUND)
    guard.start()
    pids = guard.pids
    os.kill(pids[frozen], signal.SIGSTOP)
    guard.close()
    assert not any(map(is_alive, pids))


def test_a_watcher_that_could_not_listen_is_sent_away_all_the_same(guard: Guard) -> None:
    """Else it would stay for ever, and keep new guards from being started."""
    guard.start()
    watcher, below = guard.pids
    os.kill(watcher, signal.SIGSTOP)
    os.kill(below, signal.SIGKILL)
    while guard.is_begun:
        select.select([guard], [], [], 1)
        guard.events()
    os.kill(watcher, signal.SIGCONT)
    until(guard, GuardLost)
    guard.start()


def test_who_was_frozen_itself_does_not_blame_the_guard() -> None:
    """For the time that both may have stood still."""
    ours, theirs = Wire.pair()
    with subprocess.Popen(["sleep", "1000"]) as sleeper, contextlib.ExitStack() as stack:
        stack.callback(sleeper.kill)
        end = End("guard", ours, sleeper.pid, os.pidfd_open(sleeper.pid))
        end.is_up = True
        for sign, moment in ((b"1", 0.0), (b"1", 0.9), (b"2", 1.8), (b"2", 9.0), (b"2", 9.9)):
            end.doubt(sign, moment * FROZEN)
            assert not end.cause
        end.doubt(b"2", 10.1 * FROZEN)
        assert "was frozen" in end.cause
        assert sleeper.wait(BOUND) == -signal.SIGKILL
        with select.epoll() as poll:
            end.register(poll)
            end.look(poll)
            end.close(poll)
    theirs.close()


def test_a_broker_that_we_may_not_signal_ends_no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's by sudo. What is left alive is told, and the alarm raised."""

    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "killpg", refuse)
    heard: list[object] = []
    post: Any = SimpleNamespace(
        _broker=4711,
        _group=None,
        _speak=lambda _: None,
        _left=lambda **_: "what is left",
        feed=heard.append,
    )
    Post._signal(post, acts.Signal(signal.SIGTERM))
    Post._kill_all(post, acts.KillAll())
    assert heard == ["what is left"]


def test_a_broker_that_cannot_be_forked_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> int:
        raise BlockingIOError("too many processes")

    monkeypatch.setattr(os, "fork", refuse)
    before = os.listdir("/proc/self/fd")
    launch = Launch(1, ("true",), {}, "/", 0o022, None, has_lock=False)
    with pytest.raises(BlockingIOError):
        start(launch, (), None, 0)
    assert os.listdir("/proc/self/fd") == before
