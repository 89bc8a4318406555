"""What every store of a duplicate window promises, held against all of them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from understudy.duplicates import DuplicateWindow, MemoryStore, SQLiteStore, Store, Verdict
from understudy.duplicates.redis import RedisStore
from understudy.testing import wait_until

LONG = 600.0  # s; a lease that does not end within a test

Make = Callable[..., Store]


@pytest.fixture(params=["memory", "sqlite", "redis"])
def make(
    request: pytest.FixtureRequest, tmp_path: Path, unique: str
) -> Iterator[Callable[..., Store]]:
    """Makes stores with given bounds; those of one test and kind share what they remember."""
    with contextlib.ExitStack() as stack:
        shared: list[Store] = []

        def build(**bounds: Any) -> Store:
            store: Store
            if request.param == "memory":
                store = shared[0] if shared else MemoryStore(**bounds)
            elif request.param == "sqlite":
                store = SQLiteStore(tmp_path / "window.db", **bounds)
            else:
                server = request.getfixturevalue("redis_server")
                store = RedisStore(f"redis://{server.host}:{server.port}/0", unique, **bounds)
            stack.callback(store.close)
            shared.append(store)
            return store

        yield build


def test_an_id_is_new_claimed_and_done(make: Make) -> None:
    store = make()
    assert not store.is_done("a")
    assert store.claim("a", "me", LONG) is Verdict.CLAIMED
    assert not store.is_done("a")
    store.done("a", "me")
    assert store.is_done("a")
    assert store.claim("a", "me", LONG) is Verdict.DONE
    assert store.claim("a", "you", LONG, take_over=True) is Verdict.DONE


def test_a_claim_keeps_others_away_until_it_is_released(make: Make) -> None:
    store = make()
    store.claim("a", "me", LONG)
    assert store.claim("a", "you", LONG) is Verdict.BUSY
    assert store.claim("b", "you", LONG) is Verdict.CLAIMED
    store.release("a", "you")  # not yours
    assert store.claim("a", "you", LONG) is Verdict.BUSY
    store.release("a", "me")
    assert store.claim("a", "you", LONG) is Verdict.CLAIMED


def test_every_call_may_be_repeated(make: Make) -> None:
    store = make()
    assert [store.claim("a", "me", LONG) for _ in range(2)] == [Verdict.CLAIMED] * 2
    store.release("a", "me")
    store.release("a", "me")
    store.done("a", "me")
    store.done("a", "me")
    assert store.is_done("a")


def test_a_claim_can_be_taken_over_and_its_old_owner_ends_nothing(make: Make) -> None:
    store = make()
    store.claim("a", "me", LONG)
    assert store.claim("a", "you", LONG, take_over=True) is Verdict.CLAIMED
    store.release("a", "me")
    assert store.claim("a", "me", LONG) is Verdict.BUSY
    store.done("a", "me")  # late, and true all the same
    assert store.claim("a", "you", LONG) is Verdict.DONE


def test_a_claim_ends_by_itself(make: Make) -> None:
    store = make()
    store.claim("a", "me", 0.02)
    assert wait_until(lambda: store.claim("a", "you", LONG) is Verdict.CLAIMED)


def test_the_oldest_are_forgotten_beyond_the_limit(make: Make) -> None:
    store = make(limit=3, age=None)
    for key in "abcde":
        store.done(key, "")
    assert [key for key in "abcde" if store.is_done(key)] == ["c", "d", "e"]
    assert store.claim("a", "me", LONG) is Verdict.CLAIMED


def test_done_again_is_remembered_from_then_on(make: Make) -> None:
    store = make(limit=2)
    for key in "abac":
        store.done(key, "")
    assert store.is_done("a")
    assert not store.is_done("b")


def test_ids_are_forgotten_when_they_are_old(make: Make) -> None:
    store = make(limit=None, age=0.05)
    store.done("a", "")
    assert wait_until(lambda: not store.is_done("a"))
    assert store.claim("a", "me", LONG) is Verdict.CLAIMED


def test_any_text_is_an_id(make: Make) -> None:
    store = make()
    odd = ["", " ", "ä€😀", "a\nb\0c", "'; DROP TABLE done; --", "x" * 10_000, "{a}:*?"]
    for number, key in enumerate(odd):
        assert store.claim(key, "me", LONG) is Verdict.CLAIMED
        store.done(key, "me")
        assert [store.is_done(k) for k in odd] == [n <= number for n in range(len(odd))]


def test_of_many_who_claim_an_id_at_once_one_gets_it(make: Make) -> None:
    stores = [make() for _ in range(4)]
    start = threading.Barrier(8)

    def claim(number: int) -> Verdict:
        start.wait()
        return stores[number % 4].claim("a", f"owner-{number}", LONG)

    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(claim, range(8)))
    assert sorted(v.name for v in verdicts) == ["BUSY"] * 7 + ["CLAIMED"]


def test_of_two_consumers_of_a_copy_each_one_does_the_work(make: Make) -> None:
    """The second waits for the first; when that fails it does the work itself."""
    windows = [DuplicateWindow(make(), lease=LONG) for _ in range(2)]
    worked: list[str] = []
    fails = threading.Event()
    fails.set()

    def consume(window: DuplicateWindow, key: str, raises: bool) -> None:
        with contextlib.suppress(ValueError), window.processing(key) as is_new:
            started.set()
            if is_new:
                time.sleep(0.05)  # the other one really waits meanwhile
                if raises:
                    raise ValueError
                worked.append(key)

    for key, raises in (("fine", False), ("failing", True)):
        started = threading.Event()
        first = threading.Thread(target=consume, args=(windows[0], key, raises))
        first.start()
        assert started.wait(60)
        consume(windows[1], key, False)
        first.join(60)
    assert worked == ["fine", "failing"]


def test_whoever_waits_for_a_crashed_consumer_takes_over_in_the_end(make: Make) -> None:
    store = make()
    store.claim("a", "crashed", LONG)
    with DuplicateWindow(store, lease=0.1).processing("a") as is_new:
        assert is_new


def test_many_consumers_and_copies_do_each_message_once(make: Make) -> None:
    windows = [DuplicateWindow(make(), lease=LONG) for _ in range(4)]
    worked: list[int] = []

    def consume(job: tuple[int, int]) -> None:
        number, copy = job
        with windows[copy % 4].processing(str(number)) as is_new:
            if is_new:
                worked.append(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(consume, [(number, copy) for number in range(50) for copy in range(4)]))
    assert sorted(worked) == list(range(50))
