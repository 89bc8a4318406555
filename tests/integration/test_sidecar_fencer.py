"""The exec driver in this process, with real commands, and a fencer that dies or stands still."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from understudyd.clock import now
from understudyd.config.model import BrokerConfig, Command
from understudyd.drivers import exec as exec_driver
from understudyd.drivers.exec import ExecDriver
from understudyd.drivers.port import Event, Reign
from understudyd.guard.words import Dead, GuardLost, Lock, Started
from understudyd.lock.timings import Timings
from understudyd.testing.estate import children, command_line, eventually

pytestmark = pytest.mark.integration

BOUND = 30.0  # s
TIMINGS = Timings(lease=10, renew=1, attempt=1, kill=5)
PATH = {"PATH": os.environ["PATH"]}

Make = Callable[..., ExecDriver]


@pytest.fixture
def drivers() -> Iterator[list[ExecDriver]]:
    """To be closed in the end."""
    made: list[ExecDriver] = []
    yield made
    for driver in made:
        driver.close()


@pytest.fixture(autouse=True)
def sidecar(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed instead of this one, when this one is taken to stand still."""
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        monkeypatch.setattr(exec_driver, "_ourselves", lambda: os.pidfd_open(sleeper.pid))
        yield sleeper
        sleeper.kill()


@pytest.fixture
def make(drivers: list[ExecDriver], tmp_path: Path) -> Make:
    """A driver of a broker that is a file: promote makes it, demote and fence take it away."""

    def make(
        promote: str = "touch broker",
        fence: str = "rm -f broker",
        *,
        limit: float = 20.0,
        user: str | None = None,
    ) -> ExecDriver:
        config = BrokerConfig(
            driver="exec",
            cwd=tmp_path,
            user=user,
            env={"WHO": "orders"},
            promote=Command(("sh", "-c", promote), limit),
            demote=Command(("sh", "-c", fence), 20.0),
            fence=Command(("sh", "-c", fence), 2.0),
        )
        lock = Lock(f"file:{tmp_path}/lock", "orders", "a-1", 1.0)
        driver = ExecDriver(config, lock, timings=TIMINGS, owned=lambda: ())
        drivers.append(driver)
        driver.start()
        return driver

    return make


def until(driver: ExecDriver, kind: type[Event]) -> list[Event]:
    events: list[Event] = []
    deadline = time.monotonic() + BOUND
    while not any(isinstance(event, kind) for event in events):
        assert time.monotonic() < deadline, events
        select.select([driver], [], [], 0.2)
        driver.beat()
        events += driver.events()
    return events


def promote(driver: ExecDriver, *descriptors: int) -> None:
    driver.promote(Reign(7, ""), now() + 600, descriptors)


def fencer() -> int:
    (pid,) = (pid for pid in children(os.getpid()) if "drivers.fencer" in command_line(pid))
    return pid


def test_nobody_can_read_the_locks_password_in_a_list_of_processes(make: Make) -> None:
    make()
    assert "file:" not in command_line(fencer())


def test_nobody_waits_for_a_new_fencer(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease has to be renewed meanwhile, or another node is promoted beside the broker."""
    driver = make()
    promote(driver)
    until(driver, Started)
    gate = tmp_path / "gate"
    gate.touch()
    slow = tmp_path / "python"
    slow.write_text(
        f'#!/bin/sh\nwhile test -e {gate}; do sleep 0.01; done\nexec {sys.executable} "$@"\n'
    )
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    os.kill(fencer(), signal.SIGKILL)
    assert not any(isinstance(event, Dead) for event in until(driver, GuardLost))
    assert (tmp_path / "broker").exists()
    gate.unlink()
    dead = until(driver, Dead)[-1]
    assert isinstance(dead, Dead)
    assert not dead.left
    assert not (tmp_path / "broker").exists()


def test_a_fencer_that_does_not_come_up_raises_the_alarm_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = make()
    promote(driver)
    until(driver, Started)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/bin/false")
        os.kill(fencer(), signal.SIGKILL)
        until(driver, GuardLost)
        alarms = until(driver, Dead) + until(driver, GuardLost)
    assert [event.left != () for event in alarms if isinstance(event, Dead)] == [True]
    dead = until(driver, Dead)[-1]
    assert isinstance(dead, Dead)
    assert not dead.left


def test_a_frozen_fencer_is_replaced_and_its_promotion_ends_with_it(
    make: Make, tmp_path: Path
) -> None:
    """Else the broker would start after it was fenced."""
    driver = make(promote="echo $$ > pid; exec sleep 1000")
    promote(driver)
    eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    pid = int((tmp_path / "pid").read_text())
    os.kill(fencer(), signal.SIGSTOP)
    until(driver, Dead)
    eventually(lambda: "sleep" not in command_line(pid))


def test_what_promote_put_elsewhere_before_its_fencer_died_starts_no_broker(
    make: Make, tmp_path: Path
) -> None:
    """Nor when it is in a session of its own, and nobody's child: it is ended before the fence."""
    late = "while ! test -e fenced; do sleep 0.01; done; touch broker; sleep 1000"
    elsewhere = f"setsid sh -c '{late}' & echo $! > late; sleep 1000"
    driver = make(elsewhere, "rm -f broker; touch fenced")
    promote(driver)
    eventually(lambda: (tmp_path / "late").exists() and (tmp_path / "late").read_text())
    pid = int((tmp_path / "late").read_text())
    eventually(lambda: "touch broker" in command_line(pid))
    os.kill(fencer(), signal.SIGKILL)
    dead = until(driver, Dead)[-1]
    assert isinstance(dead, Dead)
    assert not dead.left
    assert command_line(pid) == ""
    assert (tmp_path / "fenced").exists()
    assert not (tmp_path / "broker").exists()


def test_a_fence_is_never_run_twice_at_once(
    make: Make, tmp_path: Path, sidecar: subprocess.Popen[bytes]
) -> None:
    """The next fencer is at it when the sidecar dies, which the deputy of the first waits for."""
    driver = make(fence="mkdir fencing || touch twice; sleep 1.5; rmdir fencing; rm -f broker")
    promote(driver)
    until(driver, Started)
    os.kill(fencer(), signal.SIGKILL)
    until(driver, GuardLost)
    eventually((tmp_path / "fencing").exists)
    sidecar.kill()
    dead = until(driver, Dead)[-1]
    assert isinstance(dead, Dead)
    assert not dead.left
    assert not (tmp_path / "twice").exists()
    assert not (tmp_path / "fencing").exists()


def test_only_what_promote_starts_keeps_the_lock(make: Make, tmp_path: Path) -> None:
    show = "readlink /proc/self/fd/* > {}; true"
    driver = make(promote=show.format("promoted"), fence=show.format("fenced"))
    with open(tmp_path / "held", "w") as held:
        promote(driver, held.fileno())
        until(driver, Started)
        driver.fence("a test orders it")
        until(driver, Dead)
    assert str(tmp_path / "held") in (tmp_path / "promoted").read_text()
    assert str(tmp_path / "held") not in (tmp_path / "fenced").read_text()


def test_what_a_promote_that_took_too_long_left_starts_no_broker(
    make: Make, tmp_path: Path
) -> None:
    """It is fenced by then."""
    late = "while test -e fenced; do sleep 0.01; done; touch broker; sleep 1000"
    promoting = f"touch fenced; setsid sh -c '{late}' & echo $! > pid; sleep 1000"
    driver = make(promoting, "rm -f broker fenced", limit=3.0)
    promote(driver)
    until(driver, Dead)
    late_pid = int((tmp_path / "pid").read_text())
    eventually(lambda: command_line(late_pid) == "")
    assert not (tmp_path / "broker").exists()


def test_what_a_promote_that_succeeded_left_is_for_the_commands_to_end(
    make: Make, tmp_path: Path
) -> None:
    show = "kill -0 $(cat pid) && touch lived; kill -9 $(cat pid)"
    wait = "while kill -0 $(cat pid); do sleep 0.01; done"  # which needs it to be reaped
    driver = make("setsid sleep 1000 & echo $! > pid", f"{show}; {wait}")
    promote(driver)
    until(driver, Started)
    driver.fence("a test orders it")
    dead = until(driver, Dead)[-1]
    assert isinstance(dead, Dead)
    assert not dead.left
    assert (tmp_path / "lived").exists()


def test_a_broker_ignores_no_signal_that_its_fencer_does_not_heed(
    make: Make, tmp_path: Path
) -> None:
    """Java would not end by SIGTERM."""
    driver = make("grep SigIgn /proc/self/status > ignored")
    promote(driver)
    until(driver, Started)
    ignored = int((tmp_path / "ignored").read_text().split()[1], 16)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    assert not [number for number in numbers if ignored >> (number - 1) & 1]


def test_another_fencer_has_the_configured_environment_too(make: Make, tmp_path: Path) -> None:
    driver = make(fence='echo "$WHO $UNDERSTUDY_LOCK_TOKEN" > env')
    promote(driver)
    until(driver, Started)
    os.kill(fencer(), signal.SIGKILL)
    until(driver, Dead)
    assert (tmp_path / "env").read_text() == "orders 7\n"


def test_a_fencer_is_as_hard_to_kill_as_a_guard(make: Make, tmp_path: Path) -> None:
    """Catalogue 14: and so is its deputy, but not what they start."""
    driver = make("cat /proc/self/oom_score_adj > score; sleep 1000")
    promote(driver)
    eventually(lambda: (tmp_path / "score").exists() and (tmp_path / "score").read_text())
    mine = Path("/proc/self/oom_score_adj").read_text()
    assert (tmp_path / "score").read_text() == mine
    below = children(fencer())
    (deputy,) = (pid for pid in below if "drivers.fencer" in command_line(pid))
    (promoting,) = (pid for pid in below if pid != deputy)
    assert os.sched_getscheduler(promoting) == os.SCHED_OTHER
    assert "VmLck:\t       0 kB" in Path(f"/proc/{promoting}/status").read_text()
    code = "import os; from understudyd.guard.system import harden; harden(); "
    allowed = subprocess.run(
        [sys.executable, "-c", code + "print(os.sched_getscheduler(0))"], capture_output=True
    )
    for pid in (fencer(), deputy):
        eventually(lambda pid=pid: os.sched_getscheduler(pid) == int(allowed.stdout))  # type: ignore[misc]
        assert "VmLck:\t       0 kB" not in Path(f"/proc/{pid}/status").read_text()


def test_a_command_runs_as_the_brokers_user(make: Make, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    tmp_path.chmod(0o777)
    driver = make("id -nu > who; cat /proc/self/oom_score_adj >> who", user="nobody")
    promote(driver)
    until(driver, Started)
    mine = Path("/proc/self/oom_score_adj").read_text()
    assert (tmp_path / "who").read_text() == f"nobody\n{mine}"


def test_a_fence_that_fails_when_the_sidecar_is_dead_is_logged(
    make: Make, drivers: list[ExecDriver], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nobody else would tell why the lock is kept; it is tried until it succeeds."""
    failing = "test -e tried || { touch tried; echo the switch is off; exit 3; }; rm -f broker"
    driver = make(fence=failing)
    promote(driver)
    until(driver, Started)
    drivers.pop().close()
    told = capfd.readouterr().err
    assert "CRITICAL fencer the lock is kept" in told
    assert "fence failed: exit code 3: the switch is off" in told
    assert not (tmp_path / "broker").exists()


def test_a_deputy_that_dies_is_replaced(make: Make) -> None:
    driver = make()
    promote(driver)
    until(driver, Started)
    (first,) = children(fencer())
    os.kill(first, signal.SIGKILL)
    eventually(lambda: children(fencer()) and children(fencer()) != [first])


def test_a_fencer_takes_its_deputy_along_when_it_leaves(
    make: Make, drivers: list[ExecDriver]
) -> None:
    driver = make()
    promote(driver)
    until(driver, Started)
    (deputy,) = children(fencer())
    drivers.pop().close()
    assert command_line(deputy) == ""


def test_the_deputy_of_a_fencer_that_was_replaced_leaves_too(
    make: Make, drivers: list[ExecDriver]
) -> None:
    """Else it would fence, when the sidecar has ended, what the next one has promoted."""
    driver = make()
    promote(driver)
    until(driver, Started)
    (deputy,) = children(fencer())
    os.kill(fencer(), signal.SIGKILL)
    until(driver, Dead)
    assert command_line(deputy)
    drivers.pop().close()
    eventually(lambda: command_line(deputy) == "")


def test_the_next_promotion_runs_the_commands_of_a_reload(make: Make, tmp_path: Path) -> None:
    """And what fences until then is the command of the broker that lives."""
    driver = make()
    promote(driver)
    until(driver, Started)
    others = [Command(("touch", str(tmp_path / name)), 1.0) for name in ("promoted", "fenced")]
    config = BrokerConfig(driver="exec", promote=others[0], demote=others[1], fence=others[1])
    driver.configure(config)
    driver.fence("a test orders it")
    until(driver, Dead)
    assert not (tmp_path / "broker").exists()
    promote(driver)
    until(driver, Started)
    driver.fence("a test orders it")
    until(driver, Dead)
    assert (tmp_path / "promoted").exists()
    assert (tmp_path / "fenced").exists()
