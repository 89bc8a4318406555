"""From a lock's URI to its backend."""

from __future__ import annotations

from importlib import metadata
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from understudy.errors import ConfigurationError
from understudyd.lock import open as opening
from understudyd.lock.file import FileBackend
from understudyd.lock.memory import MemoryBackend, Store
from understudyd.lock.open import check_kind, open_backend
from understudyd.lock.redis import RedisBackend
from understudyd.lock.sentinel import SentinelBackend


@pytest.mark.parametrize("form", ["file:{}", "file://{}", "file://localhost{}"])
def test_a_file(form: str, tmp_path: Path) -> None:
    backend = open_backend(form.format(f"{tmp_path}/orders%20lock"), "orders", 1.0)
    assert isinstance(backend, FileBackend)
    assert backend.path == tmp_path / "orders lock"


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("redis://h/0", RedisBackend),
        ("rediss://h/0", RedisBackend),
        ("unix:///run/redis.sock", RedisBackend),
        ("redis+sentinel://h1,h2:7,[::1]:8/mymaster?db=2", SentinelBackend),
        ("rediss+sentinel://u:p@h1/mymaster?ssl_check_hostname=false", SentinelBackend),
        ("memory:", MemoryBackend),
    ],
)
def test_each_scheme_has_its_backend(uri: str, kind: type) -> None:
    backend = open_backend(uri, "orders", 1.0)
    assert type(backend) is kind
    backend.close()


def test_memory_locks_of_one_name_are_one_lock() -> None:
    one, two = (open_backend("memory:shared", group, 1.0) for group in ("a", "b"))
    assert isinstance(one, MemoryBackend)
    assert isinstance(two, MemoryBackend)
    assert one._store is two._store


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("/mnt/orders.lock", "has no scheme; write e.g. file:/mnt/shared/orders.lock"),
        ("reddis://h", 'valid: .*did you mean "redis:"'),
        ("nonesuch://h", 'no lock has the scheme "nonesuch:"'),
        ("postgresql://u:secret@h/db", "postgresql: locks are not built yet"),
        ("redis+quorum:(redis://a,redis://b)", "not built yet"),
        ("file:relative/lock", "must begin with /"),
        ("file://server/lock", "a lock file has no host"),
        ("file:/no/such/folder/lock", "/no/such/folder does not exist"),
        ("//u:secret@h", "has no scheme"),
    ],
)
def test_what_is_no_lock_is_refused(uri: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        open_backend(uri, "orders", 1.0)
    assert "secret" not in str(caught.value)


def test_third_parties_add_schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = MemoryBackend(Store())

    class Point(EntryPoint):
        def load(self) -> object:
            return lambda uri, group, attempt: made

    points = EntryPoints([Point("etcd", "their.module:make", opening.GROUP)])
    monkeypatch.setattr(metadata, "entry_points", lambda **wanted: points.select(**wanted))
    assert open_backend("etcd://h", "orders", 1.0) is made
    with pytest.raises(ConfigurationError, match='did you mean "etcd:"'):
        open_backend("etdc://h", "orders", 1.0)


def test_what_is_offered_may_stand_in_a_configuration() -> None:
    with pytest.raises(ConfigurationError, match=r"valid: file, redis, ") as caught:
        check_kind("etdc://h", "orders")
    assert "memory" not in str(caught.value)
