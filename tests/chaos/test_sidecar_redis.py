"""A Redis that is slow, refuses, forgets or comes back old, under a group of real sidecars."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from understudy.testing import FaultProxy
from understudy.testing.brokers import Redis
from understudyd.testing.estate import QUICK, Clients, Sidecar, SidecarEstate, eventually
from understudyd.testing.proxied import estate_behind_proxies

pytestmark = pytest.mark.chaos

LEASE = 1.0  # s; of the estate's quick timings
ELECTED = "the lock is ours"
SLOW = {"lease": "2500ms", "renew": "200ms", "attempt": "600ms", "kill": "200ms", "margin": "100ms"}
ATTEMPT = 0.6  # s; of these


@contextlib.contextmanager
def running(
    server: Redis, key: str, **options: Any
) -> Iterator[tuple[SidecarEstate, Mapping[str, FaultProxy]]]:
    with (
        estate_behind_proxies(server, key, **options) as (estate, proxies),
        Clients(estate.start()),
    ):
        yield estate, proxies
        assert estate.judge() == []


@pytest.fixture
def client(redis_server: Redis) -> Iterator[redis.Redis]:
    client = redis.Redis(port=redis_server.port)
    yield client
    client.close()


def _pair(estate: SidecarEstate) -> tuple[Sidecar, Sidecar]:
    master = estate.master()
    standby = estate.other(master)
    standby.until("/readiness")
    estate.reigns()
    return master, standby


def _threads(node: Sidecar) -> int:
    return len(list(Path(f"/proc/{node.pid}/task").iterdir()))


def test_slow_answers_pile_nothing_up_and_late_ones_extend_nothing(
    redis_server: Redis, unique: str, client: redis.Redis
) -> None:
    """Catalogue 42: within an attempt's time they change nothing. Later than that they count as
    none, although each renewal is carried out: the master is dead at its deadline."""
    with running(redis_server, unique, timings=SLOW) as (estate, proxies):
        master, standby = _pair(estate)
        token, threads = master.token, _threads(master)
        proxy = proxies[master.name]
        proxy.delay(0.6 * ATTEMPT / 2)  # each way
        time.sleep(1.5)
        assert master.is_master
        assert (master.token, standby.said(ELECTED)) == (token, [])
        proxy.heal()
        time.sleep(0.5)  # it renews without delay: what is in the record has been acknowledged
        before = _record(client, unique)["sequence"]
        proxy.delay(1.1 * ATTEMPT / 2)
        eventually(lambda: master.said("the broker is dead"))
        assert "could not be renewed in time" in master.log
        assert _record(client, unique)["sequence"] > before
        assert _threads(master) <= threads + 1
        eventually(lambda: proxy.connections <= 4)  # of one that ends its end comes late too
        eventually(lambda: standby.is_master)
        proxy.heal()
        master.until("/standby")
        assert standby.is_master


def _record(client: redis.Redis, key: str) -> dict[str, int]:
    value = client.get(key)
    assert isinstance(value, bytes)
    record: dict[str, int] = json.loads(value)
    return record


@pytest.mark.slow
def test_a_storm_of_resets_is_stood(redis_server: Redis, unique: str) -> None:
    """Catalogue 45: reset and refused again and again, it connects within an attempt's time."""
    timings = {**QUICK, "lease": "2s"}
    with running(redis_server, unique, timings=timings) as (estate, proxies):
        master, standby = _pair(estate)
        token = master.token
        proxy = proxies[master.name]
        accepted = proxy.accepted
        for _ in range(4):
            proxy.refuse()
            proxy.reset()
            time.sleep(0.3)
            proxy.heal()
            for _ in range(20):
                proxy.reset()
                time.sleep(0.02)
        assert proxy.accepted > accepted + 4
        assert master.is_master
        assert (master.token, standby.said(ELECTED)) == (token, [])
        assert len(estate.reigns()) == 1


OLDER = pytest.param("back to an older master", marks=pytest.mark.slow)


@pytest.mark.parametrize("loss", ["all", OLDER])
def test_a_redis_that_comes_back_empty(loss: str, unique: str) -> None:
    """Catalogue 61, 62, 104: a living master writes its record again, and nobody takes over. Of a
    dead one a lease is waited, and the token rises; so with an old backup."""
    timings = {**QUICK, "lease": "2s"}
    with Redis() as server, running(server, unique, timings=timings) as (estate, _):
        master, standby = _pair(estate)
        token = master.token
        server.restart()
        time.sleep(3)  # more than a lease
        assert master.is_master
        assert (master.token, standby.said(ELECTED)) == (token, [])
        with contextlib.closing(redis.Redis(port=server.port)) as client:
            backup = client.get(unique)
        assert isinstance(backup, bytes)
        server.kill()
        master.kill_all()
        back = time.time()
        server.start()
        if loss != "all":
            with contextlib.closing(redis.Redis(port=server.port)) as client:
                client.set(unique, backup.replace(b'"token":%d' % token, b'"token":0'))
        eventually(lambda: standby.is_master)
        assert standby.token > token
        assert standby.said(ELECTED)[-1] >= back + 2


def test_a_standby_that_thaws_watches_anew(redis_server: Redis, unique: str) -> None:
    """Catalogue 26: what it saw before it was frozen has stood for long, and proves nothing."""
    with running(redis_server, unique) as (estate, _):
        master, standby = _pair(estate)
        standby.signal(signal.SIGSTOP)
        master.kill_all()
        time.sleep(1.5 * LEASE)
        thawed = time.time()
        standby.signal(signal.SIGCONT)
        eventually(lambda: standby.is_master)
        assert standby.said(ELECTED)[-1] >= thawed + LEASE
