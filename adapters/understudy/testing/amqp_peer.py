"""A tiny AMQP 0-9-1 server that follows a script, for tests of protocol faults.

It routes nothing and stores nothing: it opens connections and channels, says yes to declarations,
records what is published and answers as ``on_publish`` tells it. One thread for listening and one
per connection; it listens on 127.0.0.1 only. Encoding of arguments is py-amqp's.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from types import TracebackType

from understudy.testing.amqp_connection import Answer, PeerConnection, PeerMessage
from understudy.testing.amqp_handshake import HandshakeFault
from understudy.testing.amqp_wire import serialization
from understudy.testing.frames import MethodId

__all__ = ["Answer", "PeerConnection", "PeerMessage", "ScriptedPeer"]

HOST = "127.0.0.1"


def always_ack(connection: PeerConnection, nth: int, message: PeerMessage) -> Answer:
    """The default script."""
    return "ack"


def deal_with_nothing(connection: PeerConnection, channel: int, method: MethodId) -> bool:
    """The default script for all other requests."""
    return False


class ScriptedPeer:
    """The server. ``with ScriptedPeer(...) as peer:`` or ``start()`` and ``close()``.

    ``on_publish(connection, nth, message)`` is called for each message, ``nth`` counting from 1
    over all connections, and answers with an action or with (action, reply code):

    * ``"ack"``, ``"nack"``; ``"ack_multiple"`` confirms the earlier ones too; ``"ignore"``
    * ``"return"`` (312), then the ack
    * ``"close_channel"`` (404), ``"close_connection"`` (320)
    * ``"reset"`` (RST), ``"fin"`` (the socket is closed without a word)

    Anything else it can do itself, by the methods of ``connection``. It runs in the connection's
    thread. ``on_method(connection, channel, method)`` is asked for every other request, and returns
    whether the script has dealt with it. ``handshake`` names a fault of the handshake (see
    ``HandshakeFault``), None is a correct one; it may be changed for connections to come. Without
    publisher confirms acks are not sent.
    """

    def __init__(
        self,
        *,
        on_publish: Callable[[PeerConnection, int, PeerMessage], Answer] = always_ack,
        on_method: Callable[[PeerConnection, int, MethodId], bool] = deal_with_nothing,
        handshake: HandshakeFault | None = None,
        frame_max: int = 131072,  # RabbitMQ's default
        heartbeat: int = 0,  # seconds offered; 0 leaves it to the client
        channel_max: int = 2047,  # RabbitMQ's default
        drip: float = 0.2,  # seconds per byte in "slow_drip": far slower than any client waits
        port: int = 0,
    ) -> None:
        serialization()
        self.on_publish = on_publish
        self.on_method = on_method
        self.handshake = handshake
        self.frame_max = frame_max
        self.heartbeat = heartbeat
        self.channel_max = channel_max
        self.drip = drip
        self.host = HOST
        self.port = port  # the real one once started
        self.accepted = 0  # connections accepted in all
        self.messages: list[PeerMessage] = []
        self.history: list[PeerConnection] = []  # all connections, those that have ended too
        self._connections: list[PeerConnection] = []
        self._lock = threading.Lock()
        self._blocked: str | None = None  # the reason
        self._unblocked = threading.Event()
        self._unblocked.set()
        self._error: Exception | None = None
        self._listener: socket.socket | None = None
        self._is_closing = False
        self._thread = threading.Thread(target=self._accept, name="ScriptedPeer", daemon=True)

    def __repr__(self) -> str:
        script = self.handshake or "correct handshake"
        return f"<ScriptedPeer {self.host}:{self.port}, {script}, {len(self.messages)} messages>"

    def start(self) -> ScriptedPeer:
        """Listen and serve."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, self.port))
            listener.listen()
        except OSError:
            listener.close()
            raise
        self._listener = listener
        self.port = listener.getsockname()[1]
        self._thread.start()
        return self

    def close(self) -> None:
        """Close everything; raises the first error that a connection's thread met."""
        if self._listener is None or self._is_closing:
            return
        self._is_closing = True
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as knock:  # wakes the listener
            knock.connect((HOST, self.port))
            self._thread.join()
        self._listener.close()
        for connection in self.history:
            connection.fin()
            connection.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> ScriptedPeer:
        return self if self._listener is not None else self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """For a client's configuration."""
        return f"amqp://guest:guest@{self.host}:{self.port}//"

    @property
    def connections(self) -> list[PeerConnection]:
        """Those that are open now, in the order of their coming."""
        with self._lock:
            return list(self._connections)

    @property
    def is_holding(self) -> bool:
        """Whether published messages wait for ``unblock()``."""
        return not self._unblocked.is_set()

    def block(self, reason: str = "low on memory", *, hold: bool = True) -> None:
        """Send connection.blocked to all clients, present and to come.

        ``hold`` does what RabbitMQ does: from the next published message on, the connection is not
        read any more until ``unblock()``.
        """
        with self._lock:
            self._blocked = reason
            if hold:
                self._unblocked.clear()
            told = [connection for connection in self._connections if connection.is_ready]
        for connection in told:
            connection.tell_blocked(reason)

    def unblock(self) -> None:
        """Send connection.unblocked and go on with what was held."""
        with self._lock:
            self._blocked = None
            told = [connection for connection in self._connections if connection.is_ready]
        for connection in told:
            connection.tell_blocked(None)
        self._unblocked.set()

    def stop_heartbeats(self) -> None:
        """Let the hearts of all present connections stop; they go on otherwise."""
        for connection in self.connections:
            connection.wire.beats = False

    def send_raw(self, data: bytes) -> None:
        """Send any bytes to all clients."""
        for connection in self.connections:
            connection.send_raw(data)

    def reset(self) -> None:
        """Cut all connections with RST."""
        for connection in self.connections:
            connection.reset()

    def wait_unblocked(self, timeout: float) -> None:
        """For connections: wait while messages are held."""
        self._unblocked.wait(timeout)

    def published(self, connection: PeerConnection, message: PeerMessage) -> Answer:
        """For connections: record a message and ask the script."""
        with self._lock:
            self.messages.append(message)
            nth = len(self.messages)
        return self.on_publish(connection, nth, message)

    def opened(self, connection: PeerConnection) -> None:
        """For connections: the handshake is done."""
        with self._lock:
            connection.is_ready = True
            reason = self._blocked
        if reason is not None:
            connection.tell_blocked(reason)

    def note_error(self, error: Exception) -> None:
        """For connections: the script failed."""
        self._error = self._error or error

    def forget(self, connection: PeerConnection) -> None:
        """For connections: it has ended."""
        with self._lock:
            if connection in self._connections:
                self._connections.remove(connection)

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            client, _ = self._listener.accept()
            if self._is_closing:
                client.close()
                return
            connection = PeerConnection(self, client)
            with self._lock:
                self._connections.append(connection)
                self.history.append(connection)
                self.accepted += 1
            connection.start()
