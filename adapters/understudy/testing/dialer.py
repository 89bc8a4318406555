"""A dialer without a network: what happens to each endpoint is said by the test.

It keeps the promises of the `Dialer` port, whatever the script says: the conformance suite of the
real dialers runs on it too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from understudy.core.endpoint import Endpoint
from understudy.failover import forking

__all__ = ["FakeConnection", "FakeDialer"]

PATIENCE = 30.0  # s a test may wait for something; far more than any machine needs


class FakeConnection:
    """What `FakeDialer.dial` returns; ``fate`` tells what became of it."""

    def __init__(self, endpoint: Endpoint, number: int, board: _Board) -> None:
        self.endpoint = endpoint
        self.number = number  # counted over all connections of the dialer, from 1
        self.fate = "open"  # then "severed", "discarded" or "abandoned"
        self.is_closed_by_peer = False
        self._board = board

    def __repr__(self) -> str:
        end = ", closed by its peer" if self.is_closed_by_peer else ""
        return f"<FakeConnection {self.number} to {self.endpoint}: {self.fate}{end}>"

    def read(self) -> None:
        """Block as a reader does; raises ConnectionError once the connection is over."""
        with self._board.changed:
            while self.fate == "open" and not self.is_closed_by_peer:
                self._board.changed.wait()
        raise ConnectionError(f"{self!r}")

    def close_by_peer(self) -> None:
        """What a broker does that goes away in good order."""
        with self._board.changed:
            self.is_closed_by_peer = True
            self._board.changed.notify_all()

    def end(self, fate: str) -> None:
        """For the dialer: the first end counts."""
        with self._board.changed:
            if self.fate == "open":
                self.fate = fate
            self._board.changed.notify_all()


class FakeDialer:
    """A scriptable `Dialer`. Endpoints are named by `Endpoint` or its text; unnamed ones succeed.

    Thread-safe; a script may change at any time, and holds for the dials that begin later.
    """

    connection_class: type[FakeConnection] = FakeConnection  # to be replaced in subclasses

    def __init__(self) -> None:
        self.dials: list[str] = []  # every dial, in order
        self.connections: list[FakeConnection] = []  # every one ever made
        self._refusals: dict[str, Exception] = {}
        self._blocked: dict[str, threading.Event] = {}
        self._waiting: list[str] = []
        self._board = _Board()

    def __repr__(self) -> str:
        return f"<FakeDialer: {len(self.dials)} dials, {len(self.open)} connections open>"

    # --- the script -----------------------------------------------------------------------------

    def succeed(self, *endpoints: Endpoint | str) -> None:
        """Dials to these succeed again; those that block there now go on."""
        with self._board.changed:
            for endpoint in map(str, endpoints):
                self._refusals.pop(endpoint, None)
                self._release(endpoint)

    def fail(self, *endpoints: Endpoint | str, error: Exception | None = None) -> None:
        """Dials to these fail; those that block there now fail too."""
        with self._board.changed:
            for endpoint in map(str, endpoints):
                self._refusals[endpoint] = error or ConnectionRefusedError("refused by the script")
                self._release(endpoint)

    def block(self, *endpoints: Endpoint | str) -> None:
        """Dials to these block until `succeed` or `fail`, at most for the timeout of the dial."""
        with self._board.changed:
            for endpoint in map(str, endpoints):
                self._blocked.setdefault(endpoint, threading.Event())

    def _release(self, endpoint: str) -> None:
        event = self._blocked.pop(endpoint, None)
        if event is not None:
            event.set()

    # --- what happened --------------------------------------------------------------------------

    @property
    def open(self) -> list[FakeConnection]:
        """The connections that nobody has ended."""
        with self._board.changed:
            return [connection for connection in self.connections if connection.fate == "open"]

    @property
    def blocked(self) -> list[str]:
        """The endpoints in whose dial a thread is blocked now."""
        with self._board.changed:
            return list(self._waiting)

    def wait_until(self, predicate: Callable[[], object], timeout: float = PATIENCE) -> None:
        """Wait until this holds, looking after every dial and every end of a connection."""
        deadline = time.monotonic() + timeout
        with self._board.changed:
            while not predicate():
                if time.monotonic() > deadline:
                    raise AssertionError(f"not so within {timeout:g} s: {self!r}")
                self._board.changed.wait(0.05)  # the predicate may look at other things too

    # --- the port -------------------------------------------------------------------------------

    def dial(self, endpoint: Endpoint, timeout: float) -> FakeConnection:
        name = str(endpoint)
        with self._board.changed:
            self.dials.append(name)
            self._board.changed.notify_all()
            blocked = self._blocked.get(name)
            if blocked is not None:
                self._waiting.append(name)
        if blocked is not None:
            is_released = blocked.wait(timeout)
            with self._board.changed:
                self._waiting.remove(name)
            if not is_released:
                raise TimeoutError(f"no answer within {timeout:g} s")
        with self._board.changed:
            if name in self._refusals:
                raise self._refusals[name].with_traceback(None)
            connection = self.connection_class(endpoint, len(self.connections) + 1, self._board)
            self.connections.append(connection)
            self._board.changed.notify_all()
        return connection

    def sever(self, connection: FakeConnection) -> None:
        connection.end("severed")

    def abandon(self, connection: FakeConnection) -> None:
        connection.end("abandoned")

    def is_alive(self, connection: FakeConnection) -> bool:
        return connection.fate == "open" and not connection.is_closed_by_peer

    def discard(self, connection: FakeConnection) -> None:
        connection.end("discarded")


class _Board:
    """The lock of a dialer and its connections, known to every fork."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        forking.register(self)

    def hold(self) -> None:
        self.changed.acquire()

    def let_go(self) -> None:
        self.changed.release()

    def abandon(self) -> None:
        self.changed = threading.Condition(threading.RLock())
