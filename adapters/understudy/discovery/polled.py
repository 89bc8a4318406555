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


class Run:
    """What one start() owns: the thread of the one before may still be ending."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.reader: Reader | None = None


class PolledAgent:
    """Reads in a thread of its own; subclasses say how."""

    def __init__(self, interval: float) -> None:
        """``interval`` in seconds, from the end of one reading to the beginning of the next."""
        self._interval = interval
        self._run: Run | None = None  # the latest
        self._runs: set[Run] = set()  # whose threads have not ended

    def reader(self) -> Reader:
        """What reads the source once."""
        raise NotImplementedError

    def start(self, reports: Reports) -> None:
        run = self._run = Run()
        forking.start_thread("understudy-discovery", lambda: self._poll(reports, run))

    def stop(self) -> None:
        run = self._run
        if run is None:
            return
        run.over.set()
        reader = run.reader
        if reader is not None:
            reader.cut()

    def _poll(self, reports: Reports, run: Run) -> None:
        self._runs.add(run)
        try:
            while not run.over.is_set():
                reader = run.reader = self.reader()
                if run.over.is_set():  # stop() may not have seen this reader any more
                    return
                self._ask(reports, run, reader)
                run.over.wait(self._interval)
        finally:
            self._runs.discard(run)

    def _ask(self, reports: Reports, run: Run, reader: Reader) -> None:
        try:
            text = _text(reader.read())
        except Exception as exc:  # whatever is wrong with the source, it is asked again
            if not run.over.is_set():
                reports.failed(f"{type(exc).__name__}: {exc}" if str(exc) else repr(exc))
        else:
            if text:
                reports.found(read_list(text))


def _text(data: bytes) -> str:
    if len(data) > LARGEST:
        raise ValueError(f"the list is longer than {LARGEST} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError("the list is not UTF-8 text") from None
