"""A server that no client can use: it accepts, says whatever it was told to, and counts."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import Literal

__all__ = ["Noise"]

Then = Literal["fin", "silence", "flood"]


class Noise:
    """``with Noise(b"hello", then="fin") as server:`` listens on ``host`` and ``port``.

    ``then`` is what follows ``words``: the end of the connection, silence, or the same words again
    until the client leaves. Whatever a client says is read and thrown away.
    """

    def __init__(self, words: bytes = b"", then: Then = "fin") -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.accepted = 0
        self._words = words
        self._then = then
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server((self.host, 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="Noise", daemon=True)

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return len(self._open)

    def __enter__(self) -> Noise:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join()
        self._listener.close()
        for client in list(self._open):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.sendall(self._words)
            while self._then != "fin":
                # a client that left with a full buffer is told apart by its end only
                talking = [client] if self._then == "flood" else []
                readable, writable, _ = select.select([client], talking, [])
                if readable and not client.recv(65536):
                    break
                if writable:
                    client.send(self._words)
        self._open.discard(client)
