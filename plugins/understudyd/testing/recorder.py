"""A proxy in front of a RabbitMQ that keeps what a client sent."""

from __future__ import annotations

import select
import socket
import threading

from understudy.testing.brokers import RabbitMQ

__all__ = ["Recorder"]


class Recorder:
    """For one connection; `uri` is the way through it."""

    def __init__(self, node: RabbitMQ) -> None:
        self._node = (node.host, node.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.uri = node.uri.replace(f"{node.host}:{node.port}", f"127.0.0.1:{port}")
        self._sent = bytearray()
        self._sockets = [self._listener]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def sent_contains(self, data: bytes) -> bool:
        return data in bytes(self._sent)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._thread.join(10)

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(self._node)
        self._sockets += [client, server]
        while True:
            try:
                ready, _, _ = select.select([client, server], [], [], 30)
                for sock in ready:
                    data = sock.recv(1 << 20)
                    if not data:
                        return
                    if sock is client:
                        self._sent += data
                    (server if sock is client else client).sendall(data)
            except (OSError, ValueError):
                return
