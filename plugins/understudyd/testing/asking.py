"""Who keeps asking, from several threads, for as long as a test's ``with`` lasts."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TypeVar

__all__ = ["Asking", "operations"]

PAUSE = 0.002  # s between two operations

A = TypeVar("A", bound="Asking")


class Asking:
    """Runs each of ``runs`` in a thread of its own, which has to return once `is_over` is set."""

    def __init__(self, runs: Iterable[Callable[[], object]]) -> None:
        self.is_over = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in runs]

    @property
    def count(self) -> int:
        """How many ask."""
        return len(self._threads)

    def __enter__(self: A) -> A:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.is_over.set()
        for thread in self._threads:
            thread.join()


def operations(
    port: int,
    is_over: threading.Event,
    *,
    timeout: float,
    inside: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Iterator[bytes]:
    """Ask a witness on this machine for one operation after the other: its answers.

    On a connection at a time, and on another one when it has ended; ``timeout`` is for connecting
    and for each answer, in seconds. Each connection is made and used within ``inside()``.
    """
    while not is_over.wait(PAUSE):
        with (
            contextlib.suppress(OSError),
            inside(),
            socket.create_connection(("127.0.0.1", port), timeout) as sock,
            sock.makefile("rwb") as file,
        ):
            while not is_over.wait(PAUSE):
                file.write(b"operation\n")
                file.flush()
                answer = file.readline()
                if not answer.endswith(b"\n"):
                    break
                yield answer
