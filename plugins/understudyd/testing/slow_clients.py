"""``python -m understudyd.testing.slow_clients PORT COUNT``: so many clients that never finish.

Each opens a connection, sends half a request, and then a byte of it about every two seconds
(slowloris). Prints a line when all are connected.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import sys
import time

__all__ = ["main"]

BEGINNING = b"GET /master HTTP/1.1\r\nhost: h\r\nx: "
ROUND = 2.0  # s for a byte from each
STEPS = 100  # pauses in a round


def main() -> None:
    port, count = map(int, sys.argv[1:])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = []
    for _ in range(count):
        clients.append(socket.create_connection(("127.0.0.1", port)))
        clients[-1].sendall(BEGINNING)
    print(len(clients), flush=True)
    while True:
        for step in range(STEPS):
            for client in clients[step::STEPS]:
                with contextlib.suppress(OSError):  # the server has had enough of this one
                    client.send(b"x")
            time.sleep(ROUND / STEPS)


if __name__ == "__main__":
    main()
