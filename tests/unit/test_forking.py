from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from understudy.failover import forking

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),  # on purpose
]


class Recorder:
    """An owner that writes down what it is asked to do."""

    def __init__(self, name: str, record: list[str], *, pause: float = 0.0) -> None:
        self._name = name
        self._record = record
        self._pause = pause
        forking.register(self)

    def hold(self) -> None:
        self._record.append(f"hold {self._name}")
        time.sleep(self._pause)  # gives another fork its chance to come between

    def let_go(self) -> None:
        self._record.append(f"let go {self._name}")

    def abandon(self) -> None:
        self._record.append(f"abandon {self._name}")


def fork(record: list[str] | None = None) -> list[str]:
    """Fork; the child's record."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        os.write(writing, "\n".join(record or []).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = pipe.read().decode().splitlines()
    assert os.waitpid(pid, 0)[1] == 0
    return told


def test_locks_are_taken_in_the_order_in_which_owners_nest_them() -> None:
    record: list[str] = []
    owners = [Recorder(name, record) for name in ("inner", "middle", "outer")]
    in_child = fork(record)
    held = ["hold outer", "hold middle", "hold inner"]
    assert record == [*held, "let go inner", "let go middle", "let go outer"]
    assert in_child == [*held, "abandon inner", "abandon middle", "abandon outer"]
    del owners


def test_two_forks_at_once_come_one_after_the_other() -> None:
    record: list[str] = []
    owner = Recorder("it", record, pause=0.002)
    both = threading.Barrier(2)

    def forks() -> None:
        for _ in range(5):
            both.wait(60)
            fork()

    with ThreadPoolExecutor(2) as pool:
        for call in [pool.submit(forks) for _ in range(2)]:
            call.result(60)
    assert record == ["hold it", "let go it"] * 10
    del owner


def test_a_fork_makes_another_generation() -> None:
    generation = forking.generation()
    pid = os.fork()
    if pid == 0:
        os._exit(forking.generation() - generation)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert forking.generation() == generation


def test_a_thread_that_cannot_be_started_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert forking.start_thread("any", lambda: None) is None
