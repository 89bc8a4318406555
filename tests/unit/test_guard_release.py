"""The tombstone that a guard writes in the place of its dead control."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from understudyd.clock import now
from understudyd.guard.release import release
from understudyd.guard.words import Lock
from understudyd.lock import open as opening
from understudyd.lock.file import FileBackend
from understudyd.lock.memory import Store
from understudyd.lock.record import LockRecord

LOCK = Lock("memory:release", "g", "a-1", attempt=0.004)
RECORD = LockRecord("g", "a", "a-1", token=7, sequence=3, lease=3.0, incarnation="life 1")


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    store.record = RECORD
    opening._stores["release"] = store
    yield store
    del opening._stores["release"]


def test_a_tombstone_in_the_next_sequence(store: Store) -> None:
    assert release(LOCK, 7, None, until=0)
    assert store.record == replace(RECORD, sequence=4, released=True, cause="its sidecar died")
    assert store.observe().is_proven_free


@pytest.mark.parametrize(
    "other",
    [
        None,
        replace(RECORD, token=8),
        replace(RECORD, token=6),
        replace(RECORD, instance="a-2"),
        replace(RECORD, released=True),
    ],
)
def test_not_where_the_record_is_another(store: Store, other: LockRecord | None) -> None:
    store.record = other
    assert not release(LOCK, 7, None, until=now() + 60)
    assert store.record == other


def test_not_in_a_store_that_may_have_gone_back(store: Store) -> None:
    """Control would have written its record anew; now a standby has to watch it."""
    store.restart(RECORD)
    assert not release(LOCK, 7, None, until=now() + 60)
    assert store.record == RECORD


def test_a_store_that_is_down_is_tried_until_the_deadline(store: Store) -> None:
    store.is_down = True
    assert not release(LOCK, 7, None, until=now() + 0.01)
    store.is_down = False
    assert release(LOCK, 7, None, until=0)


def test_through_the_inherited_descriptor_of_a_file(tmp_path: Path) -> None:
    held = FileBackend(tmp_path / "lock", local=False)
    seen = held.read()
    held.swap(seen, replace(RECORD, incarnation=seen.incarnation))
    assert held.descriptor is not None
    copy = os.dup(held.descriptor)
    lock = replace(LOCK, uri=f"file:{tmp_path}/lock")
    assert release(lock, 7, copy, until=0)
    other = FileBackend(tmp_path / "lock", local=False)
    seen = other.read()  # control, say, still has it open: nobody else gets it yet
    assert seen.record is not None
    assert seen.record.released
    claim = replace(RECORD, token=8, instance="b-1", incarnation=seen.incarnation)
    assert other.swap(seen, claim).record == seen.record
    held.close()
    assert other.swap(seen, claim).record == claim
    other.close()


def test_a_file_that_was_replaced_is_left_alone(tmp_path: Path) -> None:
    """Catalogue 51."""
    held = FileBackend(tmp_path / "lock", local=False)
    seen = held.read()
    held.swap(seen, replace(RECORD, incarnation=seen.incarnation))
    assert held.descriptor is not None
    copy = os.dup(held.descriptor)
    (tmp_path / "other").write_bytes((tmp_path / "lock").read_bytes())
    (tmp_path / "other").replace(tmp_path / "lock")
    assert not release(replace(LOCK, uri=f"file:{tmp_path}/lock"), 7, copy, until=now() + 60)
    held.close()
