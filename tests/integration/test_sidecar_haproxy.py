"""A group behind HAProxy, which asks the role API: its clients reach the master and nobody else."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from understudy.testing.brokers import Redis, Server
from understudyd.testing.asking import Asking, operations
from understudyd.testing.estate import (
    SidecarEstate,
    children,
    eventually,
)
from understudyd.testing.haproxy import HAProxy

pytestmark = pytest.mark.integration


class Clients(Asking):
    """Keep asking for operations at one address, each on a connection at a time.

    ``answers``: when each was accepted, and the token of the master that did.
    """

    def __init__(self, port: int, count: int = 4) -> None:
        self.answers: list[tuple[float, int]] = []
        self._port = port
        super().__init__([self._run] * count)

    @property
    def changes(self) -> list[int]:
        """The token of each change of master, in the order of what was accepted."""
        return [token for token, _ in itertools.groupby(token for _, token in sorted(self.answers))]

    def next(self) -> int:
        """The token of an answer from now on; raises TimeoutError."""
        count = len(self.answers)
        eventually(lambda: len(self.answers) > count + self.count)
        return self.answers[-1][1]

    def _run(self) -> None:
        for answer in operations(self._port, self.is_over, timeout=1.0):
            token, _, moment = answer.split()
            self.answers.append((float(moment), int(token)))


@contextlib.contextmanager
def running(lock: str | None = None, **options: Any) -> Iterator[tuple[SidecarEstate, Clients]]:
    with SidecarEstate(lock, **options) as estate, HAProxy(estate) as proxy:
        with Clients(proxy.port) as clients:
            yield estate.start(), clients
        assert clients.changes == sorted(set(clients.changes)), "an older master answered later"


@pytest.fixture(autouse=True)
def _haproxy(installed: Callable[[Server], None]) -> None:
    with SidecarEstate() as nobody:
        installed(HAProxy(nobody))


def test_clients_follow_the_master(unique: str) -> None:
    """Catalogue 49, 97, 10: an API that can't be reached costs its clients, and no reign; after a
    switchover and after a kill they are with the next master."""
    with running() as (estate, clients):
        master = estate.master()
        other = estate.other(master)
        token = master.token
        assert clients.next() == token
        other.until("/readiness")
        api = master.answerer
        assert api is not None
        os.kill(api, signal.SIGSTOP)
        eventually(lambda: _is_silent(clients))
        os.kill(api, signal.SIGCONT)
        assert clients.next() == token
        eventually(lambda: master.is_master)
        master.move(other)
        eventually(lambda: clients.next() > token)
        eventually(lambda: other.is_master)
        token = other.token
        master.until("/readiness")
        other.kill()
        eventually(lambda: clients.next() > token)
        assert master.is_master
        assert len(clients.changes) == 3


def _is_silent(clients: Clients) -> bool:
    count = len(clients.answers)
    time.sleep(0.2)
    return len(clients.answers) == count


def test_a_machine_that_was_paused_reaches_no_client(redis_server: Redis, unique: str) -> None:
    """Catalogue 24, with an outer gate: all that could fence stood still beside the broker, and was
    taken over meanwhile; when it goes on no client gets an answer of the old broker any more."""
    lock = f"redis://127.0.0.1:{redis_server.port}/0?key={unique}"
    with running(lock) as (estate, clients):
        master = estate.master()
        other = estate.other(master)
        token = clients.next()
        other.until("/readiness")
        broker = master.broker
        assert broker is not None
        paused = [master.pid, *children(master.pid), *master.guards, broker]
        for pid in paused:
            os.kill(pid, signal.SIGSTOP)
        eventually(lambda: clients.next() > token)
        for pid in paused:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        eventually(lambda: not os.path.exists(f"/proc/{broker}"))
        master.until("/standby")
        assert clients.next() > token
        assert len(clients.changes) == 2
