"""What `discovery.attach` may expect of every agent (`discovery/agent.py`).

A new agent joins by a `Stand` of its own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from understudy.discovery import ListensOnConnection, make_agent
from understudy.discovery.addresses import MOST
from understudy.discovery.datagram import Announcement
from understudy.discovery.multicast import PAUSE
from understudy.testing import wait_until
from understudy.testing.discovery_stands import (
    FileStand,
    HttpStand,
    MemoryStand,
    MulticastStand,
    Recorder,
    Stand,
)

CYCLES = 100


@pytest.fixture(params=[MemoryStand, FileStand, HttpStand, MulticastStand])
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stand]:
    if request.param is FileStand and not hasattr(os, "mkfifo"):
        pytest.skip("there is no mkfifo here")
    stand = request.param(tmp_path)
    yield stand
    stand.agent.stop()
    assert wait_until(lambda: not threads())
    stand.close()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "understudy-discovery"]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")


# --- what it finds --------------------------------------------------------------------------------


def test_d05_tells_who_is_there_who_comes_and_who_goes(stand: Stand, recorder: Recorder) -> None:
    stand.tell("amqp://a", "amqp://b/vh%2f")
    stand.agent.start(recorder)
    assert recorder.has_last("amqp://a", "amqp://b/vh%2f")
    stand.tell("amqp://a", "amqp://c:1")
    assert recorder.has_last("amqp://a", "amqp://c:1")
    stand.tell("amqp://c:1")
    assert recorder.has_last("amqp://c:1")


def test_d05_the_last_one_can_go_too(stand: Stand, recorder: Recorder) -> None:
    stand.tell("amqp://a")
    stand.agent.start(recorder)
    assert recorder.has_last("amqp://a")
    stand.tell()
    assert recorder.has_last()


def test_a_failing_source_is_told_and_asked_again(stand: Stand, recorder: Recorder) -> None:
    try:
        stand.fail()
    except NotImplementedError as exc:
        pytest.skip(str(exc))
    stand.agent.start(recorder)
    stand.fail()  # the twin tells it to nobody before
    assert recorder.has_failed()
    assert () not in recorder.all[1:]  # "nothing is there" is another thing than "I cannot look"
    stand.tell("amqp://a")
    assert recorder.has_last("amqp://a")


def test_nonsense_harms_nobody(stand: Stand, recorder: Recorder) -> None:
    stand.babble()
    stand.agent.start(recorder)
    wait_until(lambda: len(recorder.all) > 3, 0.3)
    assert all(not isinstance(told, tuple) or "amqp://foreign" not in told for told in recorder.all)
    stand.tell("amqp://a")
    assert recorder.has_last("amqp://a")


def test_a_file_that_is_being_written_says_nothing(tmp_path: Path, recorder: Recorder) -> None:
    path = tmp_path / "uris"
    path.write_text("amqp://a")
    agent = make_agent(f"file:{path}?updateInterval=10")
    agent.start(recorder)
    assert recorder.has_last("amqp://a")
    path.write_text("")
    assert not wait_until(lambda: () in recorder.all, 0.1)  # several readings
    path.write_text("\n")
    assert recorder.has_last()
    agent.stop()
    assert set(recorder.all) == {("amqp://a",), ()}


def test_a_flood_of_forged_announcements_is_bounded(tmp_path: Path, recorder: Recorder) -> None:
    """What was there first stays, and reports come no faster than one can read them."""
    stand = MulticastStand(tmp_path)
    stand.tell("amqp://real")
    stand.agent.start(recorder)
    assert recorder.has_last("amqp://real")
    told = len(recorder.all)
    begin = time.monotonic()
    for number in range(5000):
        stand.send(Announcement("test", f"amqp://forged{number}"))
    assert wait_until(lambda: len(recorder.last or "") > 50)
    reports = len(recorder.all) - told
    assert reports <= (time.monotonic() - begin) / PAUSE + 2
    assert all(len(one) <= MOST + 1 and "amqp://real" in one for one in recorder.all[told:])
    stand.agent.stop()
    stand.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there is no mkfifo here")
def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    """Also in the moment between a look at it and its opening."""
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    regular = os.stat(tmp_path / "file")
    agent = make_agent(f"file:{tmp_path}/pipe?updateInterval=10")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", lambda *_, **__: regular)
            agent.start(recorder)
            assert recorder.has_failed()
    finally:
        agent.stop()
        with contextlib.suppress(OSError):  # whoever waits for a writer has one
            os.close(os.open(tmp_path / "pipe", os.O_WRONLY | os.O_NONBLOCK))
    assert "is no file" in str(recorder.last)


@needs_proc
def test_f41_a_process_without_free_descriptors_listens_once_it_has_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr("understudy.discovery.multicast.RETRY", 0.02)
    stand = MulticastStand(tmp_path)
    stand.tell("amqp://a")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        stand.agent.start(recorder)
        assert recorder.has_failed()
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert recorder.has_last("amqp://a")
    stand.agent.stop()
    assert wait_until(lambda: not threads())
    stand.close()


# --- life -----------------------------------------------------------------------------------------


def test_nobody_waits_for_a_silent_source(
    stand: Stand, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.discovery.http.PATIENCE", 60.0)
    stand.hang()
    begin = time.monotonic()
    stand.agent.start(recorder)
    wait_until(lambda: False, 0.1)  # into the middle of the question
    stand.agent.stop()
    assert time.monotonic() - begin < 20
    assert wait_until(lambda: not threads(), 20)


@needs_proc
def test_f41_cycles_leave_no_thread_and_no_socket(stand: Stand, recorder: Recorder) -> None:
    stand.tell("amqp://a")
    stand.agent.start(recorder)
    assert recorder.has_last("amqp://a")
    stand.agent.stop()
    assert wait_until(lambda: not threads())
    before = descriptors()
    for _ in range(CYCLES):
        stand.agent.start(recorder)
        stand.agent.stop()
    assert wait_until(lambda: not threads())
    assert wait_until(lambda: descriptors() <= before)


def test_starts_again_after_a_stop(stand: Stand, recorder: Recorder) -> None:
    stand.tell("amqp://a")
    stand.agent.start(recorder)
    assert recorder.has_last("amqp://a")
    stand.agent.stop()
    stand.tell("amqp://b")
    other = Recorder()
    stand.agent.start(other)
    assert other.has_last("amqp://b")


@needs_proc
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # on purpose
def test_a_forked_child_keeps_no_socket(stand: Stand, recorder: Recorder) -> None:
    """The parent's agent goes on."""
    before = links(stand)
    stand.tell("amqp://a")
    stand.hang()
    stand.agent.start(recorder)
    if isinstance(stand, HttpStand | MulticastStand):
        assert wait_until(lambda: links(stand) - before)  # in the middle of the question
    inherited = links(stand) - before
    pid = os.fork()
    if pid == 0:
        os._exit(len(links(stand) & inherited))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert links(stand) >= inherited
    if isinstance(stand, MulticastStand):
        stand.tell("amqp://b")
        assert recorder.has_last("amqp://b")


def links(stand: Stand) -> set[str]:
    """The sockets of this process, by inode; without those of the stand's own server."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            link = os.readlink(f"/proc/self/fd/{name}")
            if link.startswith("socket:") and not is_of_server(stand, int(name)):
                found.add(link)
    return found


def is_of_server(stand: Stand, descriptor: int) -> bool:
    if not isinstance(stand, HttpStand):
        return False
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        try:
            peer = sock.getpeername()  # no tuple: a socket pair of somebody else's
            return not isinstance(peer, tuple) or peer[1] != stand.port
        except OSError:
            return True


def test_only_who_can_is_handed_connections(stand: Stand) -> None:
    assert isinstance(stand.agent, ListensOnConnection) is isinstance(stand, MemoryStand)
