"""A stand-in for a broker that bears witness, and the judge of what it saw.

Rules
* The witness is in the data path: a tiny TCP server. It writes down each operation that it accepts
  with its token, its process and CLOCK_MONOTONIC, which all processes of a host share, before it
  answers. One line is one write of less than a page to a file opened for appending.
* The judge believes nothing that a sidecar says of itself. Between the first and the last operation
  that a process accepted it was master; no two such intervals may overlap, and who comes later has
  a higher token, or is the same reign restarted in place.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import socketserver
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Interval", "command", "intervals", "judge", "main"]


@dataclass(frozen=True)
class Interval:
    """What one process accepted: first and last, in seconds of CLOCK_MONOTONIC."""

    token: int
    pid: int
    begin: float
    end: float
    count: int


def command(port: int, book: Path, *options: str) -> tuple[str, ...]:
    """What to run as the broker. Options: ``--helper``, ``--deaf``, ``--start SECONDS``."""
    return (sys.executable, "-m", "understudyd.testing.witness", str(port), str(book), *options)


def intervals(book: Path) -> list[Interval]:
    """In the order of their beginning."""
    found: dict[tuple[int, int], list[float]] = {}
    if book.exists():
        for line in book.read_text().splitlines():
            token, pid, moment = line.split()
            found.setdefault((int(token), int(pid)), []).append(float(moment))
    rows = [Interval(*key, min(all_), max(all_), len(all_)) for key, all_ in found.items()]
    return sorted(rows, key=lambda row: row.begin)


def judge(rows: Sequence[Interval]) -> list[str]:
    """What must not be; empty when all is well."""
    wrong = []
    for before, after in itertools.pairwise(rows):
        if after.begin <= before.end:
            wrong.append(f"overlap of {(before.end - after.begin) * 1e3:.3f} ms: {before}, {after}")
        if after.token < before.token:
            wrong.append(f"an older token came later: {before}, {after}")
    return wrong


# --- the stand-in -------------------------------------------------------------------------------


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        for _ in self.rfile:
            line = f"{server.token} {os.getpid()} {time.monotonic():.6f}\n"
            os.write(server.book, line.encode())
            self.wfile.write(line.encode())


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64
    token = ""
    book = -1


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("book", type=Path)
    parser.add_argument("--helper", action="store_true", help="leave a process in its own session")
    parser.add_argument("--deaf", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--start", type=float, default=0.0, help="seconds until it listens")
    options = parser.parse_args(None if arguments is None else list(arguments))
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.deaf else _leave)
    if options.helper:
        subprocess.Popen(["sleep", "3600"], start_new_session=True)
    time.sleep(options.start)
    with _Server(("127.0.0.1", options.port), _Handler) as server:
        server.token = os.environ["UNDERSTUDY_LOCK_TOKEN"]
        server.book = os.open(options.book, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        server.serve_forever()


def _leave(_: int, __: object) -> None:
    os._exit(0)


if __name__ == "__main__":
    main()
