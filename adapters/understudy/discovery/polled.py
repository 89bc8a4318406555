"""Agents that read a list again and again: what a file and a web page have in common.

A list of no characters at all changes nothing: that is a file which is just being written anew.
"No brokers" is an empty line or a comment. (ActiveMQ passes over empty lists too.)
"""

from __future__ import annotations

import threading
from typing import Protocol

from understudy.discovery.addresses import read_list
from understudy.discovery.agent import Reports
from understudy.failover import forking

__all__ = ["LARGEST", "PolledAgent", "Reader"]

LARGEST = 65536  # bytes of a list: a thousand addresses, as in a URI


class Reader(Protocol):
    """One reading of the source."""

    def read(self) -> bytes:
        """The list, at most `LARGEST` bytes of it and one more; raises any Exception."""

    def cut(self) -> None:
        """Have `read` end soon, from another thread."""


class PolledAgent:
    """Reads in a thread of its own; subclasses say how."""

    def __init__(self, interval: float) -> None:
        """``interval`` in seconds, from the end of one reading to the beginning of the next."""
        self._interval = interval
        self._over = threading.Event()
        self._reader: Reader | None = None

    def reader(self) -> Reader:
        """What reads the source once."""
        raise NotImplementedError

    def start(self, reports: Reports) -> None:
        over = self._over = threading.Event()
        forking.start_thread("understudy-discovery", lambda: self._run(reports, over))

    def stop(self) -> None:
        self._over.set()
        reader = self._reader
        if reader is not None:
            reader.cut()

    def _run(self, reports: Reports, over: threading.Event) -> None:
        while not over.is_set():
            reader = self._reader = self.reader()
            if over.is_set():  # stop() may not have seen this reader any more
                return
            try:
                text = _text(reader.read())
            except Exception as exc:  # whatever is wrong with the source, it is asked again
                if not over.is_set():
                    reports.failed(f"{type(exc).__name__}: {exc}" if str(exc) else repr(exc))
            else:
                if text:
                    reports.found(read_list(text))
            over.wait(self._interval)


def _text(data: bytes) -> str:
    if len(data) > LARGEST:
        raise ValueError(f"the list is longer than {LARGEST} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError("the list is not UTF-8 text") from None
