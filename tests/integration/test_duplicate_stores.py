"""The stores of a duplicate window in trouble: forks, processes, a server that is gone."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from understudy.duplicates import DuplicateWindow, MemoryStore, SQLiteStore, Store
from understudy.duplicates.redis import RedisStore
from understudy.duplicates.window import LONGEST_REST
from understudy.errors import ConfigurationError
from understudy.testing import FaultProxy
from understudy.testing.brokers import Redis, Server

pytestmark = pytest.mark.integration

CHILD = """
import sys
from understudy.duplicates import DuplicateWindow, SQLiteStore
window = DuplicateWindow(SQLiteStore(sys.argv[1]))
for number in range(200):
    with window.processing(str(number)) as is_new:
        if is_new:
            print(number)
"""


class Hand:
    """A clock that the test moves: past the rest of a store that has failed."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def skip_rest(self) -> None:
        self.now += LONGEST_REST


def works(window: DuplicateWindow, message: str) -> bool:
    with window.processing(message) as is_new:
        return bool(is_new)


def test_processes_share_a_file(tmp_path: Path) -> None:
    """Also when all of them make it at once."""
    command = [sys.executable, "-c", CHILD, str(tmp_path / "window.db")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = [child.communicate(timeout=240)[0] for child in children]
    assert [child.returncode for child in children] == [0] * 4
    done = sorted(int(line) for output in outputs for line in output.split())
    assert done == list(range(200))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
def test_a_forked_child_goes_on_with_what_is_done(
    kind: str, tmp_path: Path, redis_server: Redis, unique: str
) -> None:
    stores: dict[str, Callable[[], Store]] = {
        "memory": MemoryStore,
        "sqlite": lambda: SQLiteStore(tmp_path / "window.db"),
        "redis": lambda: RedisStore(redis_server.uri, unique),
    }
    window = DuplicateWindow(stores[kind](), lease=60)
    assert works(window, "a")
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends a child that hangs
        try:
            os._exit(0 if [works(window, "a"), works(window, "b")] == [False, True] else 1)
        except BaseException:
            traceback.print_exc()
        os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert works(window, "b") == (kind == "memory")  # the child's work is known to files and Redis
    assert not works(window, "a")
    window.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_does_not_wait_for_a_locked_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.duplicates.sqlite.BUSY_TIMEOUT", 60.0)
    path = tmp_path / "window.db"
    window = DuplicateWindow(SQLiteStore(path))
    assert works(window, "a")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    found: list[bool] = []
    waiting = [threading.Thread(target=lambda: found.append(window.is_done("a"))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert time.monotonic() - begin < 30
    assert found == []
    other.execute("ROLLBACK")
    other.close()
    for thread in waiting:
        thread.join(60)
    assert found == [True] * 3
    window.close()


def test_a_file_that_cannot_be_opened_makes_every_message_new(tmp_path: Path) -> None:
    clock, folder = Hand(), tmp_path / "unmounted"
    with pytest.raises(ConfigurationError, match="unmounted does not exist"):
        SQLiteStore(folder / "window.db")
    folder.mkdir()
    window = DuplicateWindow(SQLiteStore(folder / "window.db"), clock=clock)
    folder.rmdir()
    assert [works(window, "a"), works(window, "a")] == [True, True]
    folder.mkdir()
    clock.skip_rest()
    assert [works(window, "a"), works(window, "a")] == [True, False]
    window.close()


def test_a_file_that_is_locked_or_no_database_makes_every_message_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.duplicates.sqlite.BUSY_TIMEOUT", 0.01)
    path = tmp_path / "window.db"
    clock = Hand()
    window = DuplicateWindow(SQLiteStore(path), clock=clock)
    assert [works(window, "a"), works(window, "a")] == [True, False]
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert works(window, "a")
    other.execute("ROLLBACK")
    other.close()
    clock.skip_rest()
    assert not works(window, "a")
    window.close()
    path.write_bytes(b"no database" * 100)
    assert works(window, "a")


def test_a_redis_that_is_killed_and_comes_back(
    launch: Callable[[Redis], Redis], installed: Callable[[Server], None]
) -> None:
    server = launch(Redis(password="geheim", appendonly=True))
    clock = Hand()
    window = DuplicateWindow(RedisStore(server.uri, "orders"), clock=clock)
    assert "geheim" not in repr(window)
    assert [works(window, "a"), works(window, "a")] == [True, False]
    server.kill()
    assert [works(window, "a"), works(window, "b")] == [True, True]
    server.restart()
    clock.skip_rest()
    assert [works(window, "a"), works(window, "b"), works(window, "b")] == [False, True, False]
    window.close()


def test_a_redis_that_is_silent_is_asked_once_and_then_left_alone(
    redis_server: Redis, unique: str
) -> None:
    with FaultProxy(redis_server.host, redis_server.port) as proxy:
        clock = Hand()
        store = RedisStore(f"redis://{proxy.host}:{proxy.port}/0", unique)
        window = DuplicateWindow(store, clock=clock)
        assert works(window, "a")
        dialed = proxy.accepted
        proxy.black_hole()
        assert [works(window, key) for key in "aabbcc"] == [True] * 6
        assert proxy.accepted == dialed  # the question was not repeated on another connection
        proxy.heal(drop=True)
        clock.skip_rest()
        assert not works(window, "a")
        window.close()


def test_an_idle_connection_to_redis_that_died_is_no_failure(
    redis_server: Redis, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultProxy(redis_server.host, redis_server.port) as proxy:
        window = DuplicateWindow(RedisStore(f"redis://{proxy.host}:{proxy.port}/0", unique))
        assert works(window, "a")
        proxy.reset()
        assert not works(window, "a")
        window.close()
    assert "DuplicateWindow" not in caplog.text


@pytest.mark.parametrize("url", ["http://host", "redis//host", "failover:(redis://a)"])
def test_what_is_no_redis_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="no Redis URL"):
        RedisStore(url, "orders")


def test_windows_of_other_names_know_nothing_of_each_other(
    redis_server: Redis, unique: str
) -> None:
    one, other = (RedisStore(redis_server.uri, f"{unique}-{n}") for n in range(2))
    one.done("a", "")
    assert (one.is_done("a"), other.is_done("a")) == (True, False)
    one.close()
    other.close()
