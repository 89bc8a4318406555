"""What `discovery.attach` may expect of every agent (`discovery/agent.py`).

A new agent joins by a `Stand` of its own: the agent, and a source that says what it is told to.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from understudy.discovery import DiscoveryAgent, ListensOnConnection, MemoryAgent, make_agent
from understudy.discovery.addresses import MOST
from understudy.discovery.datagram import Announcement
from understudy.discovery.multicast import PAUSE
from understudy.testing import wait_until
from understudy.testing.brokers.ports import free_port

MULTICAST = "239.255.2.3"
CYCLES = 100


class Stand(Protocol):
    @property
    def agent(self) -> DiscoveryAgent: ...

    def tell(self, *addresses: str) -> None:
        """From now on the source knows exactly these."""

    def fail(self) -> None:
        """It cannot be asked until it is told something again."""

    def hang(self) -> None:
        """It takes every question and answers none."""

    def babble(self) -> None:
        """It says what is no list, until it is told something again."""


class Recorder:
    """What an agent reports."""

    def __init__(self) -> None:
        self.all: list[tuple[str, ...] | str] = []

    def found(
        self, addresses: Iterable[str], *, rebalance: bool = False, move_to: str | None = None
    ) -> None:
        self.all.append(tuple(addresses))

    def failed(self, cause: str) -> None:
        self.all.append(cause)

    @property
    def last(self) -> tuple[str, ...] | str | None:
        return self.all[-1] if self.all else None

    def has_last(self, *addresses: str) -> bool:
        """Wait for that."""
        return wait_until(lambda: isinstance(self.last, tuple) and {*self.last} == {*addresses})

    def has_failed(self) -> bool:
        return wait_until(lambda: isinstance(self.last, str))


class MemoryStand:
    def __init__(self, _: Path) -> None:
        self.agent = MemoryAgent()

    def tell(self, *addresses: str) -> None:
        self.agent.announce(*addresses)

    def fail(self) -> None:
        self.agent.fail("by the script")

    def hang(self) -> None:
        pass

    def babble(self) -> None:
        self.agent.announce("?", "")

    def close(self) -> None:
        pass


class FileStand:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "uris, all.txt"
        place = str(self._path).replace(" ", "%20").replace(",", "%2C")
        self.agent = make_agent(f"file:{place}?updateInterval=20")

    def tell(self, *addresses: str) -> None:
        other = self._path.with_suffix(".new")
        other.write_text("\n".join(addresses) or "# none")
        other.replace(self._path)

    def fail(self) -> None:
        self._path.unlink(missing_ok=True)

    def hang(self) -> None:
        self._path.unlink(missing_ok=True)
        os.mkfifo(self._path)  # which a plain open would wait for

    def babble(self) -> None:
        self._path.write_bytes(b"\xff\xfe\0")

    def close(self) -> None:
        pass


class Page(http.server.BaseHTTPRequestHandler):
    stand: HttpStand

    def do_GET(self) -> None:
        stand = self.stand
        if stand.hangs:
            stand.over.wait(30)
        elif stand.body is None:
            self.send_error(503)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(stand.body)

    def log_message(self, *_: Any) -> None:
        pass


class HttpStand:
    def __init__(self, _: Path) -> None:
        self.body: bytes | None = b"# none"
        self.hangs = False
        self.over = threading.Event()
        handler = type("Handler", (Page,), {"stand": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.port = self._server.server_address[1]
        self.agent = make_agent(f"http://127.0.0.1:{self.port}/uris?updateInterval=20&x=1")

    def tell(self, *addresses: str) -> None:
        self.body = ",".join(addresses).encode() or b"# none"

    def fail(self) -> None:
        self.body = None

    def hang(self) -> None:
        self.hangs = True

    def babble(self) -> None:
        self.body = b"\xff" * 100_000

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


class MulticastStand:
    """Announces on the loopback interface, as ActiveMQ does, but ten times as often."""

    def __init__(self, _: Path) -> None:
        self._port = free_port()
        self._addresses: tuple[str, ...] = ()
        self._noise: tuple[bytes, ...] = ()
        self._over = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        loopback = socket.inet_aton("127.0.0.1")
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
        self._thread = threading.Thread(target=self._announce, daemon=True)
        self._thread.start()
        options = "group=test&keepAliveInterval=50&joinNetworkInterface=lo"
        self.agent = make_agent(f"multicast://{MULTICAST}:{self._port}?{options}")

    def _announce(self) -> None:
        while not self._over.wait(0.02):
            for data in self._noise:
                self._socket.sendto(data, (MULTICAST, self._port))
            for address in self._addresses:
                self.send(Announcement("test", address))

    def send(self, announcement: Announcement) -> None:
        self._socket.sendto(announcement.encode(), (MULTICAST, self._port))

    def tell(self, *addresses: str) -> None:
        self._addresses, self._noise = addresses, ()

    def fail(self) -> None:
        pytest.skip("a multicast has no source that could fail; silence means that nobody is there")

    def hang(self) -> None:
        self._addresses = ()

    def babble(self) -> None:
        other = Announcement("other", "amqp://foreign").encode()
        self._noise = (b"", b"\xff" * 100, b"x" * 9000, other, b"test.ActiveMQ-4.alive.%")

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()


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
    stand.fail()
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
