"""What the duplicate window tells, drops and remembers; and that it never loses a message."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from typing import Any

import pytest
from kombu import Message

from understudy.duplicates import DuplicateWindow, MemoryStore, Verdict
from understudy.errors import ConfigurationError


class BrokenStore(MemoryStore):
    """Fails on request, as a store on a network does."""

    broken = True
    patience = 0.0  # s that it takes to fail

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.failures = 0

    def clock(self) -> float:
        return self.now

    def _check(self) -> None:
        if self.broken:
            self.now += self.patience
            self.failures += 1
            raise OSError("redis://user:secret@host is gone")

    def claim(self, key: str, owner: str, lease: float, *, take_over: bool = False) -> Verdict:
        self._check()
        return super().claim(key, owner, lease, take_over=take_over)

    def done(self, key: str, owner: str) -> None:
        self._check()
        super().done(key, owner)

    def release(self, key: str, owner: str) -> None:
        self._check()
        super().release(key, owner)

    def is_done(self, key: str) -> bool:
        self._check()
        return super().is_done(key)


def works(window: DuplicateWindow, message: Any) -> bool:
    """Process a message as a consumer does; whether it was new."""
    with window.processing(message) as is_new:
        return bool(is_new)


def test_the_second_copy_is_a_duplicate_and_another_message_is_not() -> None:
    window = DuplicateWindow()
    assert [works(window, key) for key in ("a", "b", "a", "a", "b")] == [True, True] + [False] * 3


def test_a_message_without_id_is_never_a_duplicate() -> None:
    window = DuplicateWindow()
    assert [works(window, None), works(window, {}), works(window, None)] == [True] * 3
    window.done(None)
    assert not window.is_done(None)


def test_an_id_of_any_length_takes_little_room() -> None:
    """A header may have 128 KB; a hundred thousand of those would fill the memory."""
    store = MemoryStore()
    window = DuplicateWindow(store)
    long, other = "m" * 100_000, "m" * 99_999 + "\udcff"
    assert [works(window, key) for key in (long, other, long, other)] == [True, True, False, False]
    window.done("n" * 100_000)
    assert window.is_done("n" * 100_000)
    assert max(map(len, store._done)) < 300


def test_work_that_failed_is_done_again() -> None:
    window = DuplicateWindow()
    with pytest.raises(ValueError, match="no"), window.processing("a"):
        raise ValueError("no")
    assert works(window, "a")
    assert not works(window, "a")


def test_a_message_that_was_put_back_is_not_done() -> None:
    window = DuplicateWindow()
    with window.processing("a") as is_new:
        is_new.failed()
    assert not window.is_done("a")


@pytest.mark.parametrize("ending", ["requeue", "reject"])
def test_a_kombu_message_that_went_back_is_not_done(ending: str) -> None:
    """Its queue, or a dead-letter exchange that brings it back later, delivers it again."""

    class Channel:
        def basic_reject(self, *_: object, **__: object) -> None: ...

    window = DuplicateWindow()
    message = Message(body=b"", delivery_tag=1, properties={"message_id": "a"}, channel=Channel())
    with window.processing(message):
        getattr(message, ending)()
    assert not window.is_done("a")


def test_a_store_that_fails_makes_every_message_new_and_is_logged_once_without_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="understudy")
    store = BrokenStore()
    window = DuplicateWindow(store, clock=store.clock)
    for _ in range(3):
        assert [works(window, "a"), works(window, "a")] == [True, True]
        store.now += 1
    assert store.failures == 3
    assert not window.is_done("a")
    store.now += 1
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text
    assert "count as new" in caplog.text
    store.broken = False
    assert [works(window, "a"), works(window, "a")] == [True, False]
    assert "works again" in caplog.text


def test_a_store_that_fails_only_after_the_work_costs_at_most_a_second_processing() -> None:
    store = BrokenStore()
    store.broken = False
    window = DuplicateWindow(store, clock=store.clock)
    with window.processing("a"):
        store.broken = True
    store.broken = False
    store.now += 1
    assert not window.is_done("a")


@pytest.mark.parametrize(("patience", "rest"), [(0.0, 1.0), (2.0, 2.0), (60.0, 30.0)])
def test_a_store_that_fails_is_left_alone_for_as_long_as_that_took(
    patience: float, rest: float
) -> None:
    """A silent one must not cost its time-out for each message."""
    store = BrokenStore()
    store.patience = patience
    window = DuplicateWindow(store, clock=store.clock)
    assert works(window, "a")
    begin = store.now
    store.broken = False
    store.now = begin + rest - 0.01
    assert [works(window, "a"), works(window, "a")] == [True, True]
    store.now = begin + rest
    assert [works(window, "a"), works(window, "a")] == [True, False]
    assert store.failures == 1


def test_a_callback_gets_new_messages_and_the_other_one_duplicates() -> None:
    window = DuplicateWindow()
    new: list[object] = []
    old: list[object] = []
    callback = window.once(
        lambda body, message: new.append(body), duplicate=lambda body, message: old.append(body)
    )
    for body, key in ((1, "a"), (2, "b"), (3, "a")):
        callback(body, Message(body=b"", properties={"message_id": key}, channel=None))
    assert (new, old) == ([1, 2], [3])


def test_a_callback_that_raises_has_not_processed_its_message() -> None:
    window = DuplicateWindow()
    message = Message(body=b"", properties={"message_id": "a"}, channel=None)

    def fail(_: object) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        window.once(fail, duplicate=fail)(message)
    assert works(window, "a")


def test_a_coroutine_function_is_no_callback() -> None:
    async def callback(_: object) -> None: ...

    with pytest.raises(TypeError, match="async with"):
        DuplicateWindow().once(callback, duplicate=print)


def test_in_coroutines_with_is_refused_and_async_with_works() -> None:
    window = DuplicateWindow()

    async def consume() -> list[bool]:
        with pytest.raises(RuntimeError, match="async with"), window.processing("a"):
            pass
        found = []
        for _ in range(2):
            async with window.processing("a") as is_new:
                found.append(bool(is_new))
        return found

    assert asyncio.run(consume()) == [True, False]


def test_two_coroutines_with_the_same_message_do_the_work_once() -> None:
    window = DuplicateWindow()

    async def consume() -> bool:
        async with window.processing("a") as is_new:
            await asyncio.sleep(0)
            return bool(is_new)

    async def both() -> list[bool]:
        return list(await asyncio.gather(consume(), consume()))

    assert sorted(asyncio.run(both())) == [False, True]


def test_done_by_hand() -> None:
    window = DuplicateWindow()
    assert not window.is_done("a")
    window.done("a")
    assert window.is_done("a")
    assert not works(window, "a")


@pytest.mark.parametrize("bounds", [{"limit": None, "age": None}, {"limit": 0}, {"age": 0.0}])
def test_a_window_without_bounds_is_refused(bounds: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"limit|age"):
        MemoryStore(**bounds)


@pytest.mark.parametrize("lease", [0, -1.5, float("nan"), "60", None, True])
def test_a_lease_of_nothing_is_refused(lease: Any) -> None:
    with pytest.raises(ConfigurationError, match="lease must be a number of seconds above 0"):
        DuplicateWindow(lease=lease)


def test_age_by_the_clock() -> None:
    moment = [0.0]
    store = MemoryStore(age=10, clock=lambda: moment[0])
    store.done("a", "")
    moment[0] = 9.0
    store.done("b", "")
    assert store.is_done("a")
    moment[0] = 10.0
    assert (store.is_done("a"), store.is_done("b")) == (False, True)


def test_a_claim_that_nobody_ended_does_not_stay_in_memory() -> None:
    """Its owner was killed between two steps, or left the block by none of its ends."""
    moment = [0.0]
    store = MemoryStore(clock=lambda: moment[0])
    for number in range(100):
        store.claim(str(number), "crashed", 60)
    moment[0] = 59.0
    store.claim("0", "crashed", 60)  # again
    moment[0] = 60.0
    assert store.claim("1", "next", 60) is Verdict.CLAIMED
    assert repr(store) == "<MemoryStore 0 done, 2 claimed>"


def test_importing_it_needs_and_loads_no_host_library() -> None:
    hosts = ["kombu", "celery", "pika", "stomp", "redis", "amqp"]
    code = f"import sys, understudy.duplicates; print([h for h in {hosts} if h in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
