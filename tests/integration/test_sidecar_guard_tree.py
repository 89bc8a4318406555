"""Processes: who is killed, who is not, and what a broker is given."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from understudyd.clock import now
from understudyd.guard import tree
from understudyd.guard.system import Timer
from understudyd.testing.guarded import Guarded, wait_until

pytestmark = pytest.mark.integration

INTERNAL = 1 << 31 | 1 << 32  # signals 32 and 33, of the C library's own


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "1000"])
    yield child
    child.kill()
    child.wait()


def test_another_process_under_the_same_number_is_no_victim(
    child: subprocess.Popen[bytes],
) -> None:
    """Catalogue 18."""
    found = tree.look(child.pid)
    assert found is not None
    tree.kill([replace(found, started=found.started - 1)])
    assert child.poll() is None
    tree.kill([found])
    assert child.wait(30) == -signal.SIGKILL
    tree.kill([found])  # and it is no error that it is gone


def test_descendants_are_found_whatever_they_call_themselves(tmp_path: Path) -> None:
    program = tmp_path / "a ) S 1 (b"
    shutil.copy("/bin/sleep", program)
    child = subprocess.Popen(["sh", "-c", '"$0" 1000 & wait', program])
    try:
        wait_until(lambda: len(tree.descendants(child.pid)) == 1)
        (grandchild,) = tree.descendants(child.pid)
        wait_until(lambda: tree.descendants(child.pid)[0].name == "a ) S 1 (b")
        assert grandchild.parent == child.pid
        assert not [p for p in tree.descendants(os.getpid(), {child.pid}) if p == grandchild]
    finally:
        tree.kill(tree.descendants(child.pid))
        child.kill()
        child.wait()


def test_only_a_real_epmd_without_the_lock_is_spared(
    child: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    program = tmp_path / "epmd"
    shutil.copy("/bin/sleep", program)
    clean = subprocess.Popen([program, "1000"])
    holder = subprocess.Popen([program, "1000"], pass_fds=[lock])
    try:
        for pid, is_spared in [(clean.pid, True), (holder.pid, False), (child.pid, False)]:
            wait_until(lambda pid=pid: _sleeps(pid))
            process = tree.look(pid)
            assert process is not None
            assert tree.is_spared(process, lock) is is_spared
        assert process is not None
        assert not tree.is_spared(replace(process, name="epmd"), lock)  # it only says so
    finally:
        os.close(lock)
        for process_ in (clean, holder):
            process_.kill()
            process_.wait()


def _sleeps(pid: int) -> bool:
    """Whether the program runs, and not its loader any more, which opens and closes files."""
    status = Path(f"/proc/{pid}/stat").read_text()
    return "(python" not in status and status.rpartition(")")[2].split()[0] == "S"


def test_a_timer_fires_at_a_moment_and_can_be_moved() -> None:
    timer = Timer()
    timer.set(now() + 60)
    assert not select.select([timer.descriptor], [], [], 0.05)[0]
    timer.set(now() + 0.01)
    assert select.select([timer.descriptor], [], [], 30)[0]
    timer.clear()
    assert not select.select([timer.descriptor], [], [], 0.05)[0]
    timer.set(-1.0)  # a moment that has passed fires at once
    assert select.select([timer.descriptor], [], [], 30)[0]
    timer.clear()
    timer.set(float("inf"))
    assert not select.select([timer.descriptor], [], [], 0.05)[0]
    os.close(timer.descriptor)


def test_what_a_broker_is_given(tmp_path: Path) -> None:
    """Catalogue 14: what makes the guards hard to kill is not handed on."""
    with Guarded(f"file:{tmp_path}/lock", tmp_path, ("sleep", "1000")) as control:
        control.tell("launch")
        broker = control.wait("Started")["pid"]
        folder = Path(f"/proc/{broker}")
        wait_until(lambda: "sleep" in (folder / "comm").read_text())
        assert os.getsid(broker) == broker
        assert os.sched_getscheduler(broker) == os.SCHED_OTHER
        mine = Path("/proc/self/oom_score_adj").read_text()
        assert (folder / "oom_score_adj").read_text() == mine
        status = (folder / "status").read_text()
        for kind in ("SigBlk", "SigIgn", "SigCgt"):
            mask = int(status.partition(f"{kind}:\t")[2].partition("\n")[0], 16)
            assert mask & ~INTERNAL == 0


TAKE_OVER = """
import os
from understudyd.guard.custody import Custody, Lost, TakeOver
from understudyd.guard.guard import Children, Post, Surroundings
from understudyd.guard.page import Page, Pulse
from understudyd.guard.system import become_subreaper
from understudyd.guard.wire import Wire
from understudyd.guard.words import Setup

become_subreaper()
children = Children()
broker = os.fork()
if broker == 0:
    os._exit(0)
os.waitid(os.P_PID, broker, os.WEXITED | os.WNOWAIT)  # it is dead, and nobody has reaped it
control, ours = Wire.pair()
around = Surroundings(Setup(None, 5.0, 0.1, 2.0), Page.create(), ours, os.pidfd_open(broker), None)
post = Post(Custody(5.0, 2.0), around, children, Pulse(around.page, "watcher"))
post.feed(TakeOver(7, False))
post.feed(Lost(is_control=True))
post.run()
"""


def test_a_broker_that_dies_while_the_watcher_takes_over_is_reaped() -> None:
    """Its end was told before there was a post to hear of it."""
    path = os.pathsep.join(filter(None, sys.path))
    script = [sys.executable, "-c", TAKE_OVER]
    subprocess.run(script, env={**os.environ, "PYTHONPATH": path}, check=True, timeout=60)


EARLY_DEATH = """
import os
from understudyd.guard.guard import Surroundings
from understudyd.guard.page import Page
from understudyd.guard.watcher import _Watcher
from understudyd.guard.wire import Wire
from understudyd.guard.words import Setup

guard = os.fork()
if guard == 0:
    os._exit(9)
os.waitid(os.P_PID, guard, os.WEXITED | os.WNOWAIT)
control, ours = Wire.pair()
below, _ = Wire.pair()
me = os.pidfd_open(os.getpid())
around = Surroundings(Setup(None, 5.0, 0.1, 2.0), Page.create(), ours, me, None)
watcher = _Watcher(around, below, guard)
control.close()  # control is not there to help it out
watcher.run()
"""


def test_a_guard_that_dies_before_the_watcher_listens_is_noticed() -> None:
    path = os.pathsep.join(filter(None, sys.path))
    script = [sys.executable, "-c", EARLY_DEATH]
    subprocess.run(script, env={**os.environ, "PYTHONPATH": path}, check=True, timeout=60)


LATE = """
import os, sys
from understudyd.guard.watcher import main

dead = os.fork()
if dead == 0:
    os._exit(0)
os.waitpid(dead, 0)
sys.argv[2:] = [str(os.open(os.devnull, os.O_RDWR)) for _ in range(3)] + [str(dead)]
main()
"""


def test_a_watcher_of_a_dead_control_leaves_without_a_word() -> None:
    path = os.pathsep.join(filter(None, sys.path))
    script = [sys.executable, "-c", LATE, "-"]
    done = subprocess.run(
        script, env={**os.environ, "PYTHONPATH": path}, timeout=60, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
