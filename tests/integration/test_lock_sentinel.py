"""The lock behind Sentinels, with real ones: what counts, and what no longer does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from understudy.errors import ConfigurationError
from understudyd.guard.release import release
from understudyd.guard.words import Lock
from understudyd.lock.open import open_backend
from understudyd.lock.port import LockBackend, Observation, Unavailable
from understudyd.lock.record import LockRecord
from understudyd.lock.sentinel import HELLO
from understudyd.testing.sentinels import Sentinels

pytestmark = pytest.mark.integration

RECORD = LockRecord("g", "a", "a-1", token=1, sequence=1, lease=3.0)
PATIENCE = 90.0  # s
TIMEOUT = 10.0  # s, of one attempt


@pytest.fixture
def lab() -> Iterator[Sentinels]:
    with Sentinels() as lab:
        yield lab


@pytest.fixture
def backend(lab: Sentinels) -> Iterator[LockBackend]:
    backend = open_backend(lab.uri, "g", TIMEOUT)
    yield backend
    backend.close()


def answered(call: Callable[[], Observation]) -> Observation:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except Unavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def written(backend: LockBackend, record: LockRecord = RECORD) -> Observation:
    seen = answered(backend.read)
    seen = backend.swap(seen, replace(record, incarnation=seen.incarnation))
    assert seen.record is not None
    assert seen.record.instance == record.instance
    return seen


def test_what_a_server_shows_counts_only_after_the_hellos(backend: LockBackend) -> None:
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="counts in 2 s"):
        backend.read()
    answered(backend.read)
    assert time.monotonic() - begun >= HELLO
    assert written(backend).record == answered(backend.read).record


def test_a_promoted_replica_begins_another_life(lab: Sentinels, backend: LockBackend) -> None:
    """Catalogue 64: nothing that it shows is believed without watching it for a lease."""
    before = written(backend)
    lab.servers[0].freeze()
    with pytest.raises(Unavailable):
        backend.swap(before, replace(RECORD, sequence=2))
    after = answered(backend.read)
    assert after.incarnation != before.incarnation
    assert not after.is_proven_free
    assert {lab.named(sentinel) for sentinel in lab.sentinels} != {lab.servers[0].port}
    stale = backend.swap(before, replace(RECORD, sequence=3))
    assert stale.record == after.record


def test_the_old_server_stops_counting_when_a_majority_names_another(
    lab: Sentinels, backend: LockBackend
) -> None:
    """Catalogue 68: it is still up, still a master, and still takes writes."""
    seen = written(backend)
    for sentinel in lab.sentinels[:2]:
        lab.watch(sentinel, lab.servers[1])
    assert seen.record is not None
    with pytest.raises(Unavailable, match="no majority"):
        backend.swap(seen, replace(seen.record, sequence=2))


def test_a_minority_of_sentinels_is_missed_by_nobody(lab: Sentinels, backend: LockBackend) -> None:
    seen = written(backend)
    lab.sentinels[0].freeze()
    assert seen.record is not None
    renewed = replace(seen.record, sequence=2)
    assert backend.swap(seen, renewed).record == renewed
    assert backend.read().record == renewed


def test_without_sentinels_only_what_all_replicas_have_counts(
    lab: Sentinels, backend: LockBackend
) -> None:
    """Catalogue 65."""
    seen = written(backend)
    for sentinel in lab.sentinels:
        sentinel.kill()
    assert seen.record is not None
    renewed = replace(seen.record, sequence=2)
    seen = backend.swap(seen, renewed)
    assert seen.record == renewed
    with pytest.raises(Unavailable, match="no majority"):
        backend.read()
    lab.servers[1].freeze()
    with pytest.raises(Unavailable, match="no majority"):
        backend.swap(seen, replace(renewed, sequence=3))


def test_replicas_that_were_taken_away_are_not_waited_for(
    lab: Sentinels, backend: LockBackend
) -> None:
    seen = written(backend)
    lab.servers[2].kill()
    lab.forget(lab.servers[2])
    assert seen.record is not None
    assert backend.read().record == seen.record
    for sentinel in lab.sentinels:
        sentinel.kill()
    renewed = replace(seen.record, sequence=2)
    assert backend.swap(seen, renewed).record == renewed


def test_a_dead_sidecars_lock_is_let_go_at_once(lab: Sentinels, backend: LockBackend) -> None:
    """By a guard, to which the server is new."""
    seen = written(backend)
    assert seen.record is not None
    lock = Lock(lab.uri, "g", RECORD.instance, TIMEOUT)
    assert release(lock, RECORD.token, None, until=0.0)  # so it is tried just once
    assert backend.read().is_proven_free


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("redis+sentinel://h1,h2", "with the name by which"),
        ("redis+sentinel:///mymaster", "with the name by which"),
        ("redis+sentinel://h1:x/mymaster", "a Sentinel is host or host:port"),
        ("redis+sentinel://h1/mymaster?socket_timeout=9", 'unknown option "socket_timeout"'),
    ],
)
def test_a_wrong_address_is_refused_at_once(uri: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        open_backend(uri, "g", TIMEOUT)


def test_passwords_stay_out_of_errors() -> None:
    uri = "redis+sentinel://u:secret@127.0.0.1:1/mymaster?sentinel_password=hidden"
    backend = open_backend(uri, "g", 0.2)
    with pytest.raises(Unavailable) as caught:
        backend.read()
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)
    backend.close()
