"""A sidecar that is replaced in place: its broker runs on, or dies as after any other death."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from understudy.testing.brokers import Redis
from understudyd.testing import witness
from understudyd.testing.estate import (
    PATIENCE,
    QUICK,
    Clients,
    Sidecar,
    SidecarEstate,
    eventually,
    is_alive,
)

pytestmark = pytest.mark.chaos

TIMINGS = {"lease": "6s", "renew": "500ms", "attempt": "300ms", "kill": "400ms"}
LEASE = 6.0  # s; enough for a restart on a machine that is busy with other tests
CAME = "goes on as master"

# run by a node before all else, in the sidecar before as in its successor
FAULTS = """
import os, signal, time
step, _, fault = os.environ["FAULT"].partition(": ")
is_new = "UNDERSTUDY_LEGACY" in os.environ
def guards(pid):
    below = open(f"/proc/{pid}/task/{pid}/children").read().split()
    for one in below:
        if b"understudyd.guard" in open(f"/proc/{one}/cmdline", "rb").read():
            return [int(one), *guards(one)]
    return []
def hit(name):
    if name != step or "STRUCK" in os.environ:
        return
    os.environ["STRUCK"] = "yes"
    if fault == "lose the guards":
        for pid in guards(os.getpid()):
            os.kill(pid, signal.SIGKILL)
    elif fault == "end":
        os.kill(os.getpid(), signal.SIGTERM)  # for another thread: this one holds it back
        time.sleep(0.1)
    elif fault == "raise":
        raise RuntimeError("a test breaks this step")
    else:
        os.kill(os.getpid(), signal.SIGKILL if fault == "die" else signal.SIGSTOP)
def wrap(owner, name, step):
    real = getattr(owner, name)
    def wrapped(*arguments, **more):
        hit(f"before {step}")
        result = real(*arguments, **more)
        hit(f"after {step}")
        return result
    setattr(owner, name, wrapped)
if is_new:
    hit("at the start")
from understudyd.guard.client import Guard
from understudyd.lock.file import FileBackend
from understudyd.sidecar.face import Face
from understudyd.sidecar.locker import Locker
wrap(Face, "pause", "pausing")
wrap(Guard, "expect_restart", "announcing")
wrap(os, "execve", "replacing")
if is_new:
    wrap(FileBackend, "adopt", "adopting the lock")
    wrap(Guard, "adopt", "adopting the guards")
    wrap(Locker, "attempt", "renewing")
from understudyd.cli import main
main()
"""


@contextlib.contextmanager
def running(lock: str | None = None, fault: str = "", **options: Any) -> Iterator[SidecarEstate]:
    with SidecarEstate(lock, **{"timings": TIMINGS, **options}) as estate, Clients(estate):
        for node in estate.nodes.values():
            node.prefix = ("env", f"FAULT={fault}")
            node.program = FAULTS
        yield estate.start()
        assert estate.judge() == []


def _pair(estate: SidecarEstate) -> tuple[Sidecar, Sidecar]:
    master = estate.master()
    standby = estate.other(master)
    standby.until("/readiness")
    return master, standby


@pytest.mark.parametrize("kind", ["file", "redis"])
def test_the_broker_runs_on(kind: str, redis_server: Redis, unique: str) -> None:
    """With its process, its token and its lease; the successor looks after it as the one before,
    is replaced again, hands over when it is told to, and is guarded."""
    uri = f"redis://127.0.0.1:{redis_server.port}/0?key={unique}"
    with running(uri if kind == "redis" else None) as estate:
        master, standby = _pair(estate)
        before = (master.pid, master.token, master.broker, master.guards)
        for count in (1, 2):
            master.signal(signal.SIGUSR2)
            eventually(lambda count=count: len(master.said(CAME)) == count)  # type: ignore[misc]
            master.until("/master")
            assert (master.pid, master.token, master.broker, master.guards) == before
        time.sleep(LEASE + 0.5)
        assert master.is_master
        (row,) = estate.reigns()
        assert row.token == before[1]
        standby.signal(signal.SIGUSR2)
        eventually(lambda: "begins anew" in standby.log)
        eventually(lambda: len(standby.said("started: ")) == 2)
        standby.until("/readiness")
        master.kill()
        standby.until("/master")
        assert before[2] is not None
        assert not is_alive(before[2])


def _witness(node: Sidecar) -> tuple[str, ...]:
    return witness.command(node.port.number, node.estate.book)


STEPS = (
    "before pausing",
    "after pausing",
    "after announcing",
    "before replacing",
    "at the start",
    "after adopting the lock",
    "after adopting the guards",
    "before renewing",
)
SHORT = (
    "after announcing: die",
    "at the start: die",
    "at the start: freeze",
    "after adopting the guards: lose the guards",
)


def _faults() -> Iterator[Any]:
    for step in STEPS:
        for fault in ("die", "freeze", "raise", "lose the guards"):
            name = f"{step}: {fault}"
            yield pytest.param(name, marks=[] if name in SHORT else pytest.mark.slow)


@pytest.mark.parametrize("fault", list(_faults()))
def test_never_two_whatever_happens_at_which_step(fault: str) -> None:
    """The broker dies as after any other death, or at its deadline; then there is one again."""
    with running(fault=fault) as estate:
        master, _ = _pair(estate)
        token, broker = master.token, master.broker
        master.signal(signal.SIGUSR2)
        assert broker is not None
        eventually(lambda: not is_alive(broker))
        eventually(lambda: estate.master().token > token)


def test_a_word_to_end_is_not_lost() -> None:
    """It may come at any moment of a restart."""
    with running() as estate:
        for delay in (0.0, 0.4, 0.6, 0.8):
            master, standby = _pair(estate)
            master.signal(signal.SIGUSR2)
            time.sleep(delay)
            assert master.stop() == 0
            standby.until("/master")
            master.start()


@pytest.mark.parametrize("words", ["USR2 TERM", "TERM USR2"])
def test_a_word_to_end_goes_before_a_restart(words: str) -> None:
    """Also while the broker takes its time to stop, and the trial ends meanwhile."""
    slowly = ["sh", "-c", 'trap "sleep 3" TERM; "$@" & wait; wait', "sh"]
    with running(per_node=lambda node: {"command": [*slowly, *_witness(node)]}) as estate:
        master, standby = _pair(estate)
        for word in words.split():
            master.signal(signal.Signals[f"SIG{word}"])
            time.sleep(0.1)
        assert master.process is not None
        assert master.process.wait(PATIENCE) == 0
        standby.until("/master")


@pytest.mark.parametrize("role", ["master", "standby"])
def test_a_word_to_end_that_another_thread_takes_is_not_lost(role: str) -> None:
    with running(fault="before replacing: end") as estate:
        master, standby = _pair(estate)
        node = master if role == "master" else standby
        node.signal(signal.SIGUSR2)
        assert node.process is not None
        assert node.process.wait(PATIENCE) == 0
        assert len(node.said("started: ")) == 2


def test_a_restart_waits_for_a_hook(tmp_path: Path) -> None:
    """The successor would know nothing of it, and neither end it in time nor reap it. A file that
    is broken meanwhile costs no broker."""
    ready, done = tmp_path / "ready", tmp_path / "done"
    options: dict[str, Any] = {
        "broker": {"health": ["test", "-e", str(ready)]},
        "more": {"hooks": {"post_promote": ["sh", "-c", f"sleep 3; touch {done}"]}},
    }
    with running(names="a", **options) as estate:
        node = estate["a"]
        eventually(lambda: node.broker)
        node.signal(signal.SIGUSR2)
        time.sleep(2.0)  # for the trial
        good = estate.file.read_text()
        estate.file.write_text("what was tried is what it begins with")
        broker = node.broker
        ready.touch()
        eventually(lambda: done.exists() or node.said("gives way"))
        assert done.exists()
        eventually(lambda: node.said(CAME))
        eventually(lambda: node.said("reload refused, everything stays as it is: "))
        node.until("/master")
        assert node.broker == broker
        estate.file.write_text(good)


def test_what_is_installed_is_tried_before() -> None:
    """A program that does not start, or a file that it would refuse, costs no broker."""
    with running() as estate:
        library = estate.folder / "library"
        library.mkdir()
        for node in estate.nodes.values():
            node.stop()
            node.prefix = ("env", "FAULT=", f"PYTHONPATH={library}")
            node.start()
        master, _ = _pair(estate)
        token, broker = master.token, master.broker
        (library / "sitecustomize.py").write_text("raise SystemExit('this was built badly')")
        master.signal(signal.SIGUSR2)
        eventually(lambda: "restart refused, everything stays as it is: what is" in master.log)
        (library / "sitecustomize.py").unlink()
        good = estate.file.read_text()
        for old, new, why in (
            ('"500ms"', '"5s"', "these timings are not safe"),
            ('"6s"', '"7s"', "timings can't be changed while the sidecar runs"),
        ):
            estate.file.write_text(good.replace(old, new))
            master.signal(signal.SIGUSR2)
            eventually(lambda why=why: why in master.log)  # type: ignore[misc]
        assert (master.is_master, master.token, master.broker) == (True, token, broker)


def test_a_sidecar_without_stderr_is_replaced_too() -> None:
    with running() as estate:
        standby = _pair(estate)[1]
        standby.stop()
        standby.prefix = ("sh", "-c", 'exec "$@" 2>&-', "sh", "env", "FAULT=")
        standby.start().until("/readiness")
        before = standby.answerer
        standby.signal(signal.SIGUSR2)
        eventually(lambda: standby.answerer not in (before, None))
        standby.until("/readiness")


def test_a_lease_that_is_too_short_is_told() -> None:
    with running(timings=QUICK) as estate:
        master, _ = _pair(estate)
        master.signal(signal.SIGUSR2)
        eventually(lambda: "use switchover, or timings with a longer lease" in master.log)
        assert master.is_master


def test_commands_hand_no_broker_on() -> None:
    commands = {"promote": "true", "demote": "true", "fence": "true"}
    broker = {"driver": "exec", "command": None, "health": ["true"], **commands}
    with SidecarEstate(names="a", broker=broker) as estate:
        node = estate["a"].start()
        node.until("/master")
        token = node.token
        node.signal(signal.SIGUSR2)
        eventually(lambda: "the driver exec can't hand its broker on" in node.log)
        assert (node.is_master, node.token) == (True, token)
