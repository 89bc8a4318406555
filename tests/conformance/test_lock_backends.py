"""What every lock backend owes to the keeper, over all of them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from understudy.testing.brokers import Redis
from understudyd.lock.file import FileBackend
from understudyd.lock.memory import MemoryBackend, Store
from understudyd.lock.open import open_backend
from understudyd.lock.port import LockBackend, Observation, Unavailable, Waitable
from understudyd.lock.record import LockRecord
from understudyd.lock.redis import RedisBackend
from understudyd.testing.sentinels import Sentinels

TIMEOUT = 5.0  # s
PATIENCE = 60.0  # s, for a failover

RECORD = LockRecord("g", "a", "a-1", token=1, sequence=1, lease=3.0)


class Lab:
    """One store, and how to reach it and to hurt it."""

    def __init__(
        self,
        open_backend: Callable[[], LockBackend],
        restart: Callable[[], object],
        stop: Callable[[], object],
    ) -> None:
        self._open = open_backend
        self.restart = restart
        self.stop = stop
        self._backends: list[LockBackend] = []

    def backend(self) -> LockBackend:
        backend = self._open()
        self._backends.append(backend)
        return backend

    def close(self) -> None:
        for backend in self._backends:
            backend.close()


@pytest.fixture(params=["memory", "redis", "sentinel", "file"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    if request.param == "file":
        path = tmp_path / "lock"

        def replace_file() -> None:
            copy = tmp_path / "copy"
            copy.write_bytes(path.read_bytes())
            copy.replace(path)

        def make_unreadable() -> None:
            path.unlink()
            path.mkdir()

        lab = Lab(lambda: FileBackend(path, local=False), replace_file, make_unreadable)
        yield lab
        lab.close()
        return
    if request.param == "memory":
        store = Store()
        lab = Lab(
            lambda: MemoryBackend(store),
            lambda: store.restart(store.record),
            lambda: setattr(store, "is_down", True),
        )
        yield lab
        lab.close()
        return
    if request.param == "sentinel":
        with Sentinels(replicas=1) as servers:
            lab = Lab(
                lambda: _settled(open_backend(servers.uri, "g", TIMEOUT)),
                servers.fail_over,
                servers.kill,
            )
            yield lab
            lab.close()
        return
    with Redis(appendonly=True, password="p@ss:w/rd") as server:

        def restart() -> None:
            server.kill()
            server.start()

        lab = Lab(lambda: RedisBackend(server.uri, "g", TIMEOUT), restart, server.kill)
        yield lab
        lab.close()


def _settled(backend: LockBackend) -> LockBackend:
    """One whose servers count: they do only after the Sentinels' hellos."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            backend.read()
            return backend
        except Unavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def written(seen: Observation, record: LockRecord) -> bool:
    return seen.record == record


def stamped(record: LockRecord, seen: Observation) -> LockRecord:
    return replace(record, incarnation=seen.incarnation)


def test_nothing_is_there_at_first(lab: Lab) -> None:
    seen = lab.backend().read()
    assert seen.record is None
    assert seen.incarnation
    assert not seen.is_proven_free


def test_a_swap_writes_what_all_then_see(lab: Lab) -> None:
    a, b = lab.backend(), lab.backend()
    nothing = a.read()
    record = stamped(RECORD, nothing)
    assert written(a.swap(nothing, record), record)
    assert b.read() == Observation(record, nothing.incarnation)


def test_a_swap_of_what_has_changed_writes_nothing_and_shows_it(lab: Lab) -> None:
    a, b = lab.backend(), lab.backend()
    nothing = a.read()
    first = stamped(RECORD, nothing)
    a.swap(nothing, first)
    other = replace(first, holder="b", instance="b-1")
    seen = b.swap(nothing, other)
    assert seen.record == first
    renewed = replace(first, sequence=2)
    assert written(a.swap(seen, renewed), renewed)
    assert b.swap(seen, replace(other, token=2)).record == renewed


@pytest.mark.parametrize(
    "change", [{"token": 2}, {"sequence": 2}, {"instance": "a-2"}, {"released": True}]
)
def test_every_part_of_a_version_counts(lab: Lab, change: dict[str, object]) -> None:
    backend = lab.backend()
    nothing = backend.read()
    record = stamped(RECORD, nothing)
    backend.swap(nothing, record)
    almost = Observation(replace(record, **change), nothing.incarnation)  # type: ignore[arg-type]
    assert backend.swap(almost, replace(record, sequence=9)).record == record


def test_a_closed_backend_may_be_used_again(lab: Lab) -> None:
    """A node that has let go stands by with the same one."""
    a, b = lab.backend(), lab.backend()
    nothing = a.read()
    record = stamped(RECORD, nothing)
    seen = a.swap(nothing, record)
    a.close()
    assert a.read().record == record
    other = replace(record, holder="b", instance="b-1", token=2)
    assert written(b.swap(seen, other), other)
    a.close()
    assert a.read().record == other


def test_one_of_many_wins(lab: Lab) -> None:
    """L11."""
    backends = [lab.backend() for _ in range(8)]
    nothing = backends[0].read()
    records = [
        stamped(replace(RECORD, holder=f"n{n}", instance=f"n{n}-1"), nothing) for n in range(8)
    ]
    answers: list[Observation | None] = [None] * 8
    together = threading.Barrier(8)

    def claim(number: int) -> None:
        together.wait()
        answers[number] = backends[number].swap(nothing, records[number])

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [n for n in range(8) if answers[n] and answers[n].record == records[n]]  # type: ignore[union-attr]
    assert len(winners) == 1
    # a loser may look while the winner, who holds the file locked, has not written yet
    assert {answer.record for answer in answers if answer} <= {None, records[winners[0]]}


def test_another_life_of_the_store_shows_and_takes_no_old_swap(lab: Lab) -> None:
    """The record may be the same and yet older than what its holder wrote last."""
    backend = lab.backend()
    nothing = backend.read()
    record = stamped(RECORD, nothing)
    before = backend.swap(nothing, replace(record, released=True))
    assert before.is_proven_free
    lab.restart()
    other = lab.backend()
    after = other.read()
    assert after.record == before.record
    assert after.incarnation != before.incarnation
    assert not after.is_proven_free
    assert other.swap(before, replace(record, token=2)) == after


def test_a_store_that_is_down_is_unavailable_and_nothing_else(lab: Lab) -> None:
    backend = lab.backend()
    nothing = backend.read()
    lab.stop()
    with pytest.raises(Unavailable) as caught:
        backend.read()
    assert "p@ss" not in str(caught.value)
    with pytest.raises(Unavailable):
        backend.swap(nothing, RECORD)


@pytest.mark.parametrize("lab", ["redis", "file"], indirect=True)
def test_who_waits_for_a_change_hears_when_the_lock_is_let_go(lab: Lab) -> None:
    """Of those that can tell; it may be told without a reason, too."""
    holder, waiting = lab.backend(), lab.backend()
    assert isinstance(waiting, Waitable)
    nothing = holder.read()
    record = stamped(RECORD, nothing)
    held = holder.swap(nothing, record)
    heard: queue.SimpleQueue[None] = queue.SimpleQueue()

    def listen() -> None:
        for _ in range(2):
            waiting.await_change()
            heard.put(None)

    thread = threading.Thread(target=listen)
    thread.start()
    if isinstance(holder, RedisBackend):
        heard.get(timeout=60)  # that it listens now
    holder.swap(held, replace(record, released=True))
    holder.close()
    while not waiting.read().is_proven_free:
        heard.get(timeout=60)
    thread.join()
