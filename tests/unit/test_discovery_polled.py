"""Starting and stopping an agent that polls, faster than its threads end."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from understudy.discovery.polled import PolledAgent

PATIENCE = 10.0  # s; nothing here takes that long unless it hangs


class Silent:
    """A source that answers nothing until it is cut off."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.is_cut = threading.Event()

    def read(self) -> bytes:
        self.asked.set()
        self.is_cut.wait(PATIENCE)
        return b""

    def cut(self) -> None:
        self.is_cut.set()


class Agent(PolledAgent):
    def __init__(self) -> None:
        super().__init__(0.01)
        self.readers = [Silent(), Silent()]
        self.first_waits = threading.Event()
        self.first_goes_on = threading.Event()
        self._numbers = iter(range(2))

    def reader(self) -> Silent:
        reader = self.readers[next(self._numbers)]
        if reader is self.readers[0]:
            self.first_waits.set()
            self.first_goes_on.wait(PATIENCE)
        return reader


class Reports:
    def found(
        self, addresses: Iterable[str], *, rebalance: bool = False, move_to: str | None = None
    ) -> None: ...

    def failed(self, cause: str) -> None: ...


def test_a_stop_cuts_off_the_reader_of_its_own_start() -> None:
    """The thread of the start before comes late, with a reader of its own."""
    agent = Agent()
    before = set(threading.enumerate())
    agent.start(Reports())
    assert agent.first_waits.wait(PATIENCE)
    (first_thread,) = set(threading.enumerate()) - before
    agent.stop()
    agent.start(Reports())
    assert agent.readers[1].asked.wait(PATIENCE)
    agent.first_goes_on.set()
    first_thread.join(PATIENCE)
    agent.stop()
    assert agent.readers[1].is_cut.is_set()
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
