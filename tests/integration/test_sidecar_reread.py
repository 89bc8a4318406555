"""What the sidecar reads and tries in threads of its own, where a dead mount may hold it up."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from understudy.errors import ConfigurationError
from understudyd.api.words import Order
from understudyd.sidecar import handover, successor, trial
from understudyd.sidecar.handover import Handover
from understudyd.sidecar.phase import Phase
from understudyd.sidecar.reread import Reread, Rereader
from understudyd.sidecar.settings import Settings, read
from understudyd.sidecar.trial import Trial
from understudyd.sidecar.worker import Inbox, are_interruptible
from understudyd.testing.estate import SidecarEstate, eventually, is_alive

pytestmark = pytest.mark.integration


@pytest.fixture
def settings() -> Iterator[Settings]:
    with SidecarEstate(names="a") as estate:
        yield read(estate.file, "orders/a")


def order(id: int) -> Order:
    return Order(id, "reload", "", "a test")


def test_nobody_waits_for_a_reload_and_none_is_lost(settings: Settings) -> None:
    gate, done, times = threading.Event(), list[Reread](), list[int]()

    def reread() -> Settings:
        times.append(1)
        gate.wait(30)
        return settings

    rereader = Rereader(reread, done.append)
    rereader.ask(order(1))
    assert rereader.go_on(settings)
    for id in (2, 3):
        rereader.ask(order(id))
        assert not rereader.go_on(settings)
    gate.set()
    eventually(lambda: len(done) == 1)
    assert rereader.go_on(settings)
    eventually(lambda: len(done) == 2)
    assert rereader.go_on(settings)
    assert [[order.id for order in one.orders] for one in done] == [[1], [2, 3]]
    assert len(times) == 2


def test_a_reload_is_refused_for_what_belongs_to_the_lock(settings: Settings) -> None:
    other = replace(settings.group, timings=replace(settings.group.timings, lease=77.0))
    done: list[Reread] = []
    rereader = Rereader(lambda: replace(settings, group=other), done.append)
    rereader.ask(order(1))
    rereader.go_on(settings)
    eventually(lambda: done)
    assert done[0].settings is None
    assert "can't be changed while the sidecar runs" in done[0].trouble


class Stage:
    """A handover with nothing real but its thread: of a driver that can't hand its broker on."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.inbox: Inbox[Any] = Inbox()
        self.read: list[str] = []
        machine = cast(Any, self)
        self.handover = Handover(
            machine,
            cast(Any, object()),
            cast(Any, None),
            cast(Any, SimpleNamespace(fileno=lambda: 7)),
            cast(Any, SimpleNamespace(are_run=True)),
            self.inbox,
            try_out=self.try_out,
            check_reload=self.check,
            log=logging.getLogger("understudy.test"),
        )
        self.phase = Phase.STANDBY
        self.is_stopping = False
        self.node = cast(Any, self)
        self.broker = cast(Any, self)
        self.driver = "exec"
        self.tenure = SimpleNamespace(pid=None)
        self.group = SimpleNamespace(timings=None)
        self.keeper = None
        self.trials = 0

    def try_out(self) -> Trial:
        self.gate.wait(30)
        self.trials += 1
        return Trial(took=0.1, configuration=b"tried")

    def check(self, content: bytes) -> None:
        assert content == b"tried"
        self.read.append(threading.current_thread().name)
        raise ConfigurationError("another lock")


def test_what_is_tried_and_read_for_a_restart_holds_nobody_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    stage.handover.ask()
    stage.handover.ask()
    assert "an earlier trial of what is installed has not come back" in caplog.text
    stage.gate.set()
    eventually(lambda: stage.inbox.holds(Trial))
    assert stage.inbox.take() == [Trial("another lock")]
    assert stage.read == ["understudy-trial"]


def test_a_trial_that_fails_ends_the_restart_that_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What was good before is not what would be started."""
    stage = Stage()
    stage.handover.hear(Trial(took=0.1))
    stage.handover.hear(Trial("it was built badly"))
    assert "it was built badly" in caplog.text
    assert not stage.handover.turn()


def test_what_was_tried_long_ago_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a restart waits, something else may be installed."""
    stage = Stage()
    stage.gate.set()
    with monkeypatch.context() as patched:
        patched.setattr(handover, "FRESH", 0.0)
        stage.handover.hear(Trial(took=0.1))
        assert not stage.handover.turn()
        assert not stage.handover.turn()  # it is under way
    eventually(lambda: stage.inbox.holds(Trial))
    assert stage.trials == 1
    stage.handover.hear(Trial(took=0.1))
    assert stage.handover.turn()


def test_a_standby_begins_anew_whatever_its_driver_can(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.handover.hear(Trial(took=0.1))
    assert not caplog.text
    stage.phase = Phase.MASTER
    stage.handover.hear(Trial(took=0.1))
    assert "the driver exec can't hand its broker on" in caplog.text


def test_a_restart_that_finds_no_calm_moment_is_given_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "EXPIRY", 0.0)
    stage = Stage()
    stage.handover.hear(Trial(took=0.1))
    assert not stage.handover.turn()
    assert "no calm moment" in caplog.text
    caplog.clear()
    assert not stage.handover.turn()
    assert not caplog.text


@pytest.mark.parametrize(("state", "may"), [(b"S", True), (b"R", True), (b"D", False)])
def test_no_exec_while_a_thread_can_not_be_ended(tmp_path: Path, state: bytes, may: bool) -> None:
    for pid, of in (("7", b"S"), ("8", state)):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "stat").write_bytes(pid.encode() + b" (a) D) " + of + b" 1 1")
    assert are_interruptible(tmp_path) is may


def test_a_trial_that_says_no_object_is_answered(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_run", lambda _: ("[1]", "a\nits last word\n"))
    tried = trial.try_out(settings.estate.path)
    assert tried.trouble == "what is installed does not start: its last word"


def test_a_trial_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it has started."""
    pid = tmp_path / "pid"
    code = (
        "import os, sys, time\n"
        "if child := os.fork(): open(sys.argv[1], 'w').write(str(child))\n"
        "time.sleep(1000)\n"
    )
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", code, str(pid)])
    monkeypatch.setattr(trial, "PATIENCE", 1.0)
    with pytest.raises(subprocess.TimeoutExpired):
        trial._run(b"")
    eventually(lambda: not is_alive(int(pid.read_text())))


SCRIPT = "from understudyd.cli import main; main()"


@pytest.mark.parametrize(
    ("script", "trouble"),
    [
        (SCRIPT, ""),
        (None, "No such file or directory"),
        ("import understudyd.not_there", "No module named 'understudyd.not_there'"),
        (f"{SCRIPT} oops", "SyntaxError: invalid syntax"),
        ("print('I am another program')", "it says nothing"),
    ],
)
def test_the_trial_is_of_the_very_script(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str | None,
    trouble: str,
) -> None:
    """What is exec'd would end at once, and the broker with it."""
    place = tmp_path / "understudy"
    if script is not None:
        place.write_text(script)
    arguments = ["sidecar", "-c", str(settings.estate.path), "--node", "orders/a"]
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, str(place), *arguments])
    tried = trial.try_out(settings.estate.path)
    assert tried.trouble.endswith(trouble)
    assert bool(tried.trouble) is bool(trouble)
    if not trouble:
        assert tried.configuration == settings.estate.path.read_bytes()
        assert "token" not in repr(tried)


def test_a_trial_tells_what_a_start_would_refuse(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = settings.estate.path
    arguments = ["sidecar", "-c", str(file), "--node", "orders/a"]
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", SCRIPT, *arguments])
    good = file.read_text()
    file.write_text("no configuration")
    assert f"{file}: is no valid TOML" in trial.try_out(file).trouble
    file.write_text(good.replace('lock = "', 'lock = "etc'))
    assert "groups.orders.lock: no lock has the scheme" in trial.try_out(file).trouble
    file.unlink()
    assert trial.try_out(file).trouble == f"{file}: can't be read: No such file or directory"


def test_signals_are_heard_where_there_is_no_descriptor_for_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "pipe2", refuse)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(OSError, match="too many"):
        successor.replace(None, b"", lambda: False)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
