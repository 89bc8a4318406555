"""The sidecar's parts with real threads, processes and files."""

from __future__ import annotations

import contextlib
import http.server
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudy.testing.brokers.ports import Port
from understudyd.config.model import BrokerConfig, Health, Node, Place, Secret
from understudyd.drivers import stamp
from understudyd.health.checks import make
from understudyd.health.port import Health as Answered
from understudyd.lock.memory import MemoryBackend, Store
from understudyd.lock.port import Observation, Unavailable
from understudyd.lock.record import RecordError
from understudyd.lock.words import Failed, Hint, Read, Seen
from understudyd.sidecar.face import Face
from understudyd.sidecar.locker import Locker
from understudyd.sidecar.settings import read
from understudyd.sidecar.worker import Inbox, Worker
from understudyd.testing.estate import SidecarEstate, eventually

pytestmark = pytest.mark.integration


class Stuck(MemoryBackend):
    """A backend whose calls come back when they are let go."""

    def __init__(self) -> None:
        super().__init__(Store())
        self.gate = threading.Event()
        self.calls = 0

    def read(self) -> Observation:
        self.calls += 1
        self.gate.wait(30)
        return super().read()


def test_a_stuck_lock_costs_one_thread_and_its_late_answer_is_dropped() -> None:
    """Catalogue 42, 55."""
    backend = Stuck()
    answers: list[Seen | Failed | Hint] = []
    locker = Locker(backend, answers.append)
    before = threading.active_count()
    for attempt in range(1, 6):
        locker.attempt(Read(attempt))
    assert answers == [Failed(n, "no answer in time") for n in range(1, 5)]
    eventually(lambda: threading.active_count() <= before + 1)
    backend.gate.set()
    eventually(lambda: len(answers) == 5)  # begun when the first came back
    locker.attempt(Read(6))
    eventually(lambda: len(answers) == 6)
    assert [answer.attempt for answer in answers if isinstance(answer, Seen)] == [5, 6]
    assert backend.calls == 3


def test_what_was_wanted_before_a_close_is_not_begun_after_it() -> None:
    """A renewal that had to wait would be a claim then."""
    backend = Stuck()
    answers: list[Seen | Failed | Hint] = []
    locker = Locker(backend, answers.append)
    locker.attempt(Read(1))
    eventually(lambda: backend.calls)
    locker.attempt(Read(2))
    locker.close()
    backend.gate.set()
    eventually(lambda: locker._worker.wait(0.1))
    locker.attempt(Read(3))
    eventually(lambda: len(answers) == 2)
    assert answers[0] == Failed(1, "no answer in time")
    assert isinstance(answers[1], Seen)
    assert (answers[1].attempt, backend.calls) == (3, 2)


@pytest.mark.parametrize("error", [Unavailable("gone"), RecordError("no record"), KeyError("x")])
def test_whatever_a_backend_raises_is_no_answer(error: Exception) -> None:
    class Broken(MemoryBackend):
        def read(self) -> Observation:
            raise error

    answers: list[Seen | Failed | Hint] = []
    Locker(Broken(Store()), answers.append).attempt(Read(1))
    eventually(lambda: answers)
    assert isinstance(answers[0], Failed)


def test_a_backend_that_hints_without_a_reason_is_asked_less_and_less() -> None:
    class Nervous(MemoryBackend):
        def await_change(self) -> None:
            """At once."""

    hints: list[object] = []
    locker = Locker(Nervous(Store()), hints.append)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        locker.wait_for_change(0.2)
        time.sleep(0.001)
    assert 2 <= len(hints) <= 14


def test_an_inbox_wakes_whoever_waits() -> None:
    inbox: Inbox[int] = Inbox()
    threads = [threading.Thread(target=inbox.put, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    found: list[int] = []
    for thread in threads:
        thread.join()
    found += inbox.take()
    assert sorted(found) == list(range(50))
    inbox.close()


def test_a_worker_is_free_when_its_answer_is_told() -> None:
    done: list[bool] = []
    worker: Worker[int] = Worker("test", lambda _: done.append(worker.wait(0)))
    for number in range(200):
        assert worker.do(lambda number=number: number)  # type: ignore[misc]
        eventually(lambda number=number: len(done) == number + 1)  # type: ignore[misc]
    assert all(done)


def test_a_job_that_raises_does_not_end_its_worker(caplog: pytest.LogCaptureFixture) -> None:
    """Else what comes after it would wait for ever."""
    done: list[int] = []
    worker: Worker[int] = Worker("test", done.append)
    for _ in range(2):
        assert worker.do(lambda: 1 // 0)
        assert worker.wait(30)
    assert worker.do(lambda: 7)
    eventually(lambda: done == [7])
    (said,) = (line for line in caplog.messages if "test failed, and goes on" in line)  # for both
    assert "ZeroDivisionError" in said
    assert "lambda: 1 // 0" in said


def test_a_thread_that_fails_ends_the_sidecar() -> None:
    """It would wait for that thread for ever, and its guards know what to do."""
    script = (
        "import logging, threading\n"
        "from understudyd.sidecar import service\n"
        "threading.excepthook = lambda failed: service._end(logging.getLogger('test'), failed)\n"
        "threading.Thread(target=lambda: 1 // 0, name='a-thread').start()\n"
        "threading.Event().wait(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "a-thread has failed, so this sidecar ends: ZeroDivisionError" in done.stderr


# --- commands -----------------------------------------------------------------------------------


def test_an_api_that_ends_again_at_once_is_started_again_all_the_same() -> None:
    """Before control has heard that it is up, nothing is made of its end; a reload is not lost."""
    with SidecarEstate(names="a") as estate:
        settings = read(estate.file, "orders/a")
        up = threading.Semaphore(0)
        with contextlib.closing(Face(settings, logging.getLogger("test"), up.release)) as face:
            face.start()
            end_of_api(face)
            eventually(lambda: face.orders() or face.fileno() is None)
            new = Port()
            node = replace(settings.node, listen=Place("127.0.0.1", new.number))
            face.configure(replace(settings, node=node))
            assert up.acquire(timeout=30)
            end_of_api(face)
            assert face.orders() == []
            assert face.fileno() is None
            face.came_up()
            eventually(lambda: face.orders() or face.fileno() is None)
            assert up.acquire(timeout=30)
            face.came_up()
            assert select.select([face.fileno() or 0], [], [], 30)[0]
            assert face.orders() == []
            socket.create_connection(("127.0.0.1", new.number)).close()


def end_of_api(face: Face) -> None:
    (pid,) = face.pids
    process = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([process], [], [], 30)[0]
    os.close(process)


# --- the stamp ----------------------------------------------------------------------------------


def test_the_stamp_only_rises(tmp_path: Path) -> None:
    assert stamp.read(tmp_path) == stamp.Stamp()
    assert stamp.put(tmp_path, stamp.Stamp(7, "a")) == stamp.Stamp(7, "a")
    assert stamp.put(tmp_path, stamp.Stamp(1234, "b")).token == 1234
    assert stamp.put(tmp_path, stamp.Stamp(99, "a")) == stamp.Stamp(1234, "b")
    assert stamp.put(tmp_path, stamp.Stamp(1235, "a")).node == "a"
    assert stamp.read(tmp_path) == stamp.Stamp(1235, "a")


def test_one_token_is_one_reigns_stamp(tmp_path: Path) -> None:
    """Two locks, by mistake, may give the same token; so may one that forgot."""
    first = stamp.Stamp(1000, "a", "a-1")
    assert stamp.put(tmp_path, first) == first
    assert stamp.put(tmp_path, stamp.Stamp(1000, "b", "b-1")) == first
    assert stamp.put(tmp_path, stamp.Stamp(1000, "a", "a-2")) == first
    assert stamp.put(tmp_path, first) == first
    assert stamp.read(tmp_path) == first


def test_the_stamp_of_an_older_version_names_no_instance(tmp_path: Path) -> None:
    (tmp_path / stamp.FILE).write_text('{"token": 7, "node": "a"}')
    assert stamp.put(tmp_path, stamp.Stamp(7, "a", "a-1")) == stamp.Stamp(7, "a")
    assert stamp.put(tmp_path, stamp.Stamp(8, "a", "a-1")) == stamp.Stamp(8, "a", "a-1")


@pytest.mark.parametrize("text", ["{}", "7", '{"token": Infinity, "node": "a"}', "[" * 4000])
def test_what_is_no_stamp_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / stamp.FILE).write_text(text)
    with pytest.raises(RecordError, match="holds no stamp"):
        stamp.put(tmp_path, stamp.Stamp(1, "a"))


def test_a_stamp_that_no_lock_can_have_given_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """Redis would mix up so large a token with the next one."""
    (tmp_path / stamp.FILE).write_text(f'{{"token": {2**53 + 1}, "node": "a"}}')
    with pytest.raises(RecordError, match=r"until that file is put right, or taken away"):
        stamp.put(tmp_path, stamp.Stamp(1, "a"))


# --- health -------------------------------------------------------------------------------------


def a_node(uri: str, health: Health) -> Node:
    broker = BrokerConfig("process", ("x",), health=health)
    place = Place("127.0.0.1", 1)
    return Node("a", Secret(uri), place, place, broker)


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port where connections are taken and nothing is answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_real_brokers_are_healthy(rabbit_a: RabbitMQ, activemq: ActiveMQ) -> None:
    for uri, kind in ((rabbit_a.uri, "amqp"), (activemq.uri, "stomp"), (activemq.uri, "tcp")):
        health = make(a_node(uri, Health(kind))).check(30)
        assert health.ok, health


@pytest.mark.parametrize("kind", ["amqp", "stomp"])
def test_a_broker_that_does_not_answer_is_ill(deaf: int, kind: str) -> None:
    """Catalogue 25."""
    uri = f"{kind}://app:secret@127.0.0.1:{deaf}"
    health = make(a_node(uri, Health(kind))).check(0.3)
    assert not health.ok
    assert "secret" not in health.detail


def test_a_closed_port_is_ill(deaf: int) -> None:
    assert make(a_node(f"tcp://127.0.0.1:{deaf}", Health("tcp"))).check(10).ok
    assert not make(a_node("tcp://127.0.0.1:9", Health("tcp"))).check(1).ok


class Answering(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_http_and_commands(deaf: int) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def ask(url: str, patience: float = 10.0) -> bool:
        return make(a_node("tcp://127.0.0.1:9", Health("http", url=url))).check(patience).ok

    try:
        base = f"http://127.0.0.1:{server.server_port}"
        assert ask(f"{base}/200")
        assert not ask(f"{base}/503")
        assert not ask(f"http://127.0.0.1:{deaf}/", 0.5)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert make(a_node("tcp://127.0.0.1:9", Health("command", argv=("true",)))).check(30).ok
    assert not make(a_node("tcp://127.0.0.1:9", Health("command", argv=("false",)))).check(30).ok


def test_a_health_command_runs_in_the_brokers_folder(tmp_path: Path) -> None:
    node = a_node("tcp://127.0.0.1:9", Health("command", argv=("pwd",)))
    there = replace(node, broker=replace(node.broker, cwd=tmp_path))
    assert make(there).check(30) == Answered(True, str(tmp_path))
    assert make(node).check(30) == Answered(True, "/")
