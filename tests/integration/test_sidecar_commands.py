"""Commands of the operator's, with real processes: hooks, health checks and those of a fencer."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from understudyd.config.model import BrokerConfig, Command
from understudyd.drivers import command
from understudyd.drivers import fencer as fencing
from understudyd.drivers.command import run
from understudyd.drivers.plan import Plan
from understudyd.guard.launch import identity, look_up
from understudyd.guard.words import Lock
from understudyd.testing.estate import command_line, eventually

pytestmark = pytest.mark.integration

BOUND = 30.0  # s
PATH = {"PATH": os.environ["PATH"]}


def test_a_command_that_hangs_is_killed_with_its_group(tmp_path: Path) -> None:
    """Catalogue 93, 94."""
    pid = tmp_path / "pid"
    script = f"echo begun; sleep 100 & echo $! > {pid}; sleep 100"
    outcome = run(Command(("sh", "-c", script), 3.0), PATH)
    assert not outcome.ok
    assert outcome.detail == "no end in time: begun"
    eventually(lambda: not command.children())
    eventually(lambda: command_line(int(pid.read_text())) == "")


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo out; echo err >&2; exit 3", "exit code 3: out err"),
        ("kill -9 $$", "signal 9"),
        ("exec /no/such", "exit code 127"),
    ],
)
def test_how_a_command_failed(script: str, told: str) -> None:
    outcome = run(Command(("sh", "-c", script)), PATH)
    assert not outcome.ok
    assert told in outcome.detail
    assert "null" in run(Command(("true",)), {"OLD": "a\0b"}).detail  # as a record may say
    missing = run(Command(("/no/such/program",)), {})
    assert missing.detail == "can't run /no/such/program: No such file or directory"


def test_what_a_command_leaves_in_the_background_goes_on(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    assert run(Command(("sh", "-c", f"sleep 100 & echo $! > {pid}")), PATH).ok
    os.kill(int(pid.read_text()), 9)  # it is there


def test_a_command_that_cannot_be_killed_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with sudo, or on a dead mount: fencing must go on."""

    def refuse(*_: int) -> None:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(os, "killpg", refuse)
        running = command.Running(("sleep", "1000"), PATH)
        assert not running.end().ok
    assert running.process.pid in command.children()  # no orphan of a broker's
    running.process.kill()
    running.process.wait(BOUND)


def test_a_command_ends_whose_fencer_died_before_it_was_bound_to_it() -> None:
    for parent, is_ended in ((os.getpid(), False), (1, True)):
        running = command.Running(("true",), PATH, before=partial(fencing._begin, parent, None, 0))
        assert running.wait(BOUND)
        assert running.end().ok is not is_ended


def test_no_user_is_looked_up_when_it_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory service may not answer, just when the broker has to be fenced."""
    ids = look_up("nobody")

    def hang(_: str) -> None:
        raise AssertionError

    monkeypatch.setattr(pwd, "getpwnam", hang)
    some = Command(("true",), 1.0)
    config = BrokerConfig(driver="exec", user="nobody", promote=some, demote=some, fence=some)
    plan = Plan.of(config, PATH, Lock(f"file:{tmp_path}/lock", "orders", "a-1", 1.0))
    assert Plan.of_descriptor(plan.hidden()) == plan
    assert plan.ids == identity("nobody") == ids


def test_a_look_at_processes_that_hangs_keeps_nothing_from_the_fence(
    tmp_path: Path,
) -> None:
    """As /proc/PID/environ of a process that waits for a dead mount may."""
    some = Command(("true",), 1.0)
    config = BrokerConfig(driver="exec", promote=some, demote=some, fence=some)
    plan = Plan.of(config, PATH, Lock(f"file:{tmp_path}/lock", "orders", "a-1", 1.0))
    code = (
        "import sys, time\n"
        "from understudyd.drivers import fencer, fencing\n"
        "from understudyd.drivers.plan import Plan\n"
        "from understudyd.guard import tree\n"
        "from understudyd.guard.page import Page\n"
        "tree.marked = lambda _: time.sleep(1000)\n"
        "plan = Plan.of_descriptor(int(sys.argv[1]))\n"
        "fencer.Fencer(plan, Page.create(), 0, None)._sweep(fencing.Sweep())\n"
    )
    hidden = plan.hidden()
    argv = [sys.executable, "-c", code, str(hidden)]
    assert subprocess.run(argv, pass_fds=[hidden], timeout=BOUND).returncode == 0
    os.close(hidden)
