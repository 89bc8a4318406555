"""For tests of the STOMP adapter: connections that are closed in the end, and who listens there."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import stomp

import understudy.stomp
from understudy.core.events import Event
from understudy.failover.notifier import settle
from understudy.stomp import reader
from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudy.testing.proxy import FaultProxy
from understudy.testing.stomp_peer import StompPeer

__all__ = ["Listener", "StompLab", "noted_readers", "send_until_the_caller_reads", "stomp_address"]

PATIENCE = 30.0  # s a test may wait for something; far more than any machine needs
CALM = {"randomize": "false", "timeout": "20000", "initialReconnectDelay": "10"}

Place = RabbitMQ | ActiveMQ | FaultProxy | StompPeer | str


def stomp_address(place: RabbitMQ | ActiveMQ) -> tuple[str, int]:
    """Host and port where a broker speaks STOMP."""
    port = place.stomp_port if isinstance(place, RabbitMQ) else place.port
    assert port is not None, "start it with stomp=True"
    return place.host, port


class Listener(stomp.ConnectionListener):  # type: ignore[misc]  # untyped
    """Notes what it is told; acknowledges when it is given the connection to do that with."""

    def __init__(self, connection: Any = None) -> None:
        self.calls: list[str] = []
        self.frames: list[Any] = []
        self.errors: list[Any] = []
        self.receipts: list[str] = []
        self._connection = connection
        self._changed = threading.Condition()

    def on_message(self, frame: Any) -> None:
        if self._connection is not None:
            if self._connection.version == "1.1":
                headers = frame.headers
                self._connection.ack(headers["message-id"], headers["subscription"])
            else:
                self._connection.ack(frame.headers["ack"])
        self._note("message", lambda: self.frames.append(frame))

    def on_receipt(self, frame: Any) -> None:
        self._note("receipt", lambda: self.receipts.append(frame.headers["receipt-id"]))

    def on_error(self, frame: Any) -> None:
        self._note("error", lambda: self.errors.append(frame))

    def on_connecting(self, host_and_port: Any) -> None:
        self._note("connecting")

    def on_connected(self, frame: Any) -> None:
        self._note("connected")

    def on_disconnected(self) -> None:
        self._note("disconnected")

    def on_interrupted(self, reason: str) -> None:
        self._note("interrupted")

    def on_resumed(self, frame: Any) -> None:
        self._note("resumed")

    def _note(self, call: str, act: Any = lambda: None) -> None:
        with self._changed:
            self.calls.append(call)
            act()
            self._changed.notify_all()

    @property
    def bodies(self) -> list[Any]:
        return [frame.body for frame in self.frames]

    def wait_until(self, is_so: Any, what: str = "that") -> None:
        """Until ``is_so(self)``; fails the test when it never is."""
        with self._changed:
            assert self._changed.wait_for(lambda: is_so(self), PATIENCE), (
                f"{what} did not come: {self.calls[-20:]}, {len(self.frames)} messages"
            )

    def wait_for_bodies(self, *bodies: Any) -> None:
        wanted = set(bodies)
        self.wait_until(lambda self: wanted <= set(self.bodies), f"all of {sorted(wanted)[:10]}")


class StompLab:
    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stack = contextlib.ExitStack()
        self._made: list[Any] = []

    def __enter__(self) -> StompLab:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        late = [one for one in self._made if not closes(one)]
        self._stack.close()
        assert not late, "disconnect() hangs"

    @property
    def events(self) -> list[Event]:
        """Everything told before now, though another thread tells it."""
        assert settle(PATIENCE)
        return self._events

    def proxy(self, broker: RabbitMQ | ActiveMQ) -> FaultProxy:
        """A network in front of a broker."""
        return self._stack.enter_context(FaultProxy(*stomp_address(broker)))

    def peer(self, *behaviours: Any) -> StompPeer:
        return self._stack.enter_context(StompPeer(*behaviours))

    def uri(self, *places: Place, **options: Any) -> str:
        members = ",".join(map(self._member, places))
        query = "&".join(f"{name}={value}" for name, value in {**CALM, **options}.items())
        return f"failover:({members})?{query}"

    def _member(self, place: Place) -> str:
        if isinstance(place, str):
            return place
        known = isinstance(place, RabbitMQ | ActiveMQ)
        host, port = stomp_address(place) if known else (place.host, place.port)  # type: ignore[arg-type]
        return f"stomp://guest:guest@{host}:{port}"

    def connection(self, *places: Place, version: str = "1.2", **options: Any) -> Any:
        """Not yet connected."""
        made = understudy.stomp.Connection(
            self.uri(*places, **options), version=version, on_event=self._events.append
        )
        self._made.append(made)
        return made

    def connect(self, *places: Place, version: str = "1.2", **options: Any) -> Any:
        connection = self.connection(*places, version=version, **options)
        connection.connect(wait=True)
        return connection

    def wait_for_event(self, name: str) -> None:
        """Until such an event was told."""
        self._wait_for(lambda: self._count(name) > 0)

    def wait_until_resumed(self) -> None:
        """Until each of the interruptions, at least one, has its end."""
        self._wait_for(lambda: 0 < self._count("Interrupted") == self._count("Resumed"))

    def _count(self, name: str) -> int:
        return [type(event).__name__ for event in self.events].count(name)

    def _wait_for(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < deadline, self.events
            time.sleep(0.005)

    def take_all(self, broker: RabbitMQ | ActiveMQ, queue: str, count: int) -> list[Any]:
        """So many frames out of a queue, and not one more."""
        connection = self.connect(broker)
        listener = Listener(connection)
        connection.set_listener("", listener)
        connection.subscribe(queue, id="take", ack="client-individual")
        listener.wait_until(lambda self: len(self.frames) >= count, f"{count} messages")
        time.sleep(0.2)  # for one that should not come
        connection.disconnect()
        assert len(listener.frames) == count, listener.bodies
        return listener.frames


def closes(connection: Any) -> bool:
    """Whether disconnect() ends."""
    thread = threading.Thread(target=connection.disconnect, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return not thread.is_alive()


@contextlib.contextmanager
def noted_readers() -> Iterator[list[int]]:
    """The threads that have read from a broker, in order."""
    threads: list[int] = []
    read = reader.Reader._read

    def noted(self: reader.Reader, inner: Any) -> None:
        threads.append(threading.get_ident())
        read(self, inner)

    reader.Reader._read = noted  # type: ignore[method-assign]
    try:
        yield threads
    finally:
        reader.Reader._read = read  # type: ignore[method-assign]


def send_until_the_caller_reads(connection: Any, readers: list[int], queue: str) -> None:
    """``readers`` is of `noted_readers`."""
    deadline = time.monotonic() + PATIENCE
    readers.clear()
    while readers[-5:] != [threading.get_ident()] * 5:
        assert time.monotonic() < deadline, readers[-5:]
        connection.send(queue, "x")
