"""What a bench needs of an ActiveMQ that sends or receives: filling a queue, counting what arrives,
and the network connectors that are the peers of a bridge there.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

from understudy.testing.brokers import ActiveMQ
from understudy.wire.stomp import FrameParser, encode

__all__ = ["Arrivals", "connected", "connectors", "fill_activemq"]

PATIENCE = 120.0  # s
GROUP = 200  # messages for one receipt
READ = 1 << 18  # bytes
MARK = b"MESSAGE\n"  # bodies of a bench do not hold it
EVERYTHING = 1_000_000  # messages without an acknowledgement

_IDS = re.compile(rb"\nack:([^\n]+)\n")


def connectors(target: ActiveMQ, count: int, **options: str) -> str:
    """As many network connectors to a broker, for `ActiveMQ`'s ``extra_xml``."""
    said = "".join(f' {name}="{value}"' for name, value in options.items())
    each = f'<networkConnector name="{{}}" uri="static:({target.openwire_uri})"{said}/>'
    lines = "".join(each.format(f"to-{number}") for number in range(count))
    return f"<networkConnectors>{lines}</networkConnectors>"


@contextmanager
def connected(broker: ActiveMQ) -> Iterator[socket.socket]:
    """Logged in, until the end."""
    with closing(socket.create_connection((broker.host, broker.port), PATIENCE)) as sock:
        sock.sendall(encode("CONNECT", {"accept-version": "1.2", "host": "/"}))
        assert _answer(sock) == "CONNECTED"
        yield sock


def fill_activemq(broker: ActiveMQ, queue: str, body: bytes, count: int) -> None:
    """Send persistent messages to the queue; returns when all are in it."""
    head = {"destination": f"/queue/{queue}", "persistent": "true", "content-length": len(body)}
    plain, asking = encode("SEND", head, body), encode("SEND", {**head, "receipt": "1"}, body)
    with connected(broker) as sock:
        for _ in range(count // GROUP):
            sock.sendall(plain * (GROUP - 1) + asking)
            assert _answer(sock) == "RECEIPT"


class Arrivals:
    """A consumer of a queue that counts what it gets.

    One that ``waits`` acknowledges nothing before it is told to: that would cost its broker as much
    as the move. It gets what comes while it is there; of what is there before, one page alone.
    """

    def __init__(self, sock: socket.socket, queue: str, *, waits: bool) -> None:
        self.count = 0
        self._sock = sock
        self._end = b""
        self._last = b""  # what an acknowledgement of the last one says
        ack = "client" if waits else "auto"
        told = {"destination": f"/queue/{queue}", "id": "1", "ack": ack}
        sock.sendall(encode("SUBSCRIBE", {**told, "activemq.prefetchSize": EVERYTHING}))

    def wait(self) -> int:
        """Until more has come; how many there were in all."""
        before = self.count
        while self.count == before:
            self._read()
        return self.count

    def settle(self) -> None:
        """Acknowledge what has come; returns when it is gone."""
        while not self._last:
            self._read()
        self._sock.sendall(b"ACK\nid:%b\nreceipt:settled\n\n\0" % self._last)
        while b"RECEIPT\n" not in self._read():
            pass

    def _read(self) -> bytes:
        data = self._sock.recv(READ)
        assert data, "the target has closed the connection"
        text = self._end + data
        self.count += text.count(MARK)
        if ids := _IDS.findall(text):
            self._last = ids[-1]
        self._end = text[-len(MARK) + 1 :]
        return text


def _answer(sock: socket.socket) -> str:
    """The command of the next frame."""
    parser = FrameParser()
    while True:
        for frame in parser.feed(sock.recv(READ)):
            if frame.command != "HEARTBEAT":
                return frame.command
