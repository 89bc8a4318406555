"""Sidecars, guards and brokers that die or freeze, judged by a witness in the data path."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from understudy.testing.brokers import Redis
from understudyd.testing.estate import (
    Clients,
    Sidecar,
    SidecarEstate,
    children,
    eventually,
    is_alive,
)

pytestmark = pytest.mark.chaos

BOTH = ["file", "redis"]


@pytest.fixture(params=BOTH)
def lock(request: pytest.FixtureRequest, unique: str) -> str | None:
    """The lock of the group; None: a file in the estate's folder."""
    if request.param == "file":
        return None
    redis: Redis = request.getfixturevalue("redis_server")
    return f"redis://127.0.0.1:{redis.port}/0?key={unique}"


@pytest.fixture
def estate(lock: str | None) -> Iterator[SidecarEstate]:
    with SidecarEstate(lock) as estate, Clients(estate):
        yield estate.start()
        assert estate.judge() == []


def kill_broker(node: Sidecar) -> None:
    broker = node.broker
    assert broker is not None
    os.kill(broker, signal.SIGKILL)


def kill_sidecar(node: Sidecar) -> None:
    node.kill()


def kill_both(node: Sidecar) -> None:
    kill_broker(node)
    node.kill()


def kill_guard(node: Sidecar) -> None:
    os.kill(node.guards[1], signal.SIGKILL)


def kill_watcher(node: Sidecar) -> None:
    os.kill(node.guards[0], signal.SIGKILL)


def kill_sidecar_and_guard(node: Sidecar) -> None:
    for pid in (node.guards[1], node.pid):
        os.kill(pid, signal.SIGKILL)
    node.kill()  # reaps it


def freeze_broker(node: Sidecar) -> None:
    broker = node.broker
    assert broker is not None
    os.kill(broker, signal.SIGSTOP)


def freeze_sidecar(node: Sidecar) -> None:
    node.signal(signal.SIGSTOP)


DEATHS = [
    kill_broker,  # 9
    kill_sidecar,  # 10
    kill_sidecar_and_guard,  # 12
    kill_both,  # 13
    freeze_sidecar,  # 21
    freeze_broker,  # 25
]


@pytest.mark.parametrize("death", DEATHS)
def test_another_node_takes_over(estate: SidecarEstate, death: Callable[[Sidecar], None]) -> None:
    """Catalogue 1, 9, 10, 12, 13, 21, 25."""
    master = estate.master()
    other = estate.other(master)
    other.until("/standby")
    assert other.get("/master")[0] == 503
    broker, token = master.broker, master.token
    death(master)
    eventually(lambda: other.is_master)
    assert other.token > token
    assert broker is not None
    assert not is_alive(broker), "the old broker lives"


@pytest.mark.parametrize("death", [kill_guard, kill_watcher])
def test_a_node_that_lost_a_guard_hands_over_and_comes_back(
    estate: SidecarEstate, death: Callable[[Sidecar], None]
) -> None:
    """Catalogue 11, 20."""
    master = estate.master()
    other = estate.other(master)
    guards = master.guards
    death(master)
    eventually(lambda: other.is_master or set(master.guards).isdisjoint(guards))
    eventually(lambda: estate.master() and len(estate.master().guards) == 2)
    eventually(lambda: len(master.guards) == 2)
    assert set(master.guards).isdisjoint(guards)


def test_a_frozen_sidecar_is_no_master_when_it_thaws(estate: SidecarEstate) -> None:
    """Catalogue 21, 26: its API never says master meanwhile, and it has to watch anew.

    On a file it has the lock open itself, so its guard kills it for the standby's sake.
    """
    master = estate.master()
    other = estate.other(master)
    master.signal(signal.SIGSTOP)
    eventually(lambda: other.is_master)
    assert master.get("/master")[0] != 200
    master.signal(signal.SIGCONT)
    if estate.lock.startswith("file"):
        eventually(lambda: not master.is_running)
        master.start()
    master.until("/standby")
    assert other.is_master


def test_a_short_freeze_changes_nothing(estate: SidecarEstate) -> None:
    """Catalogue 22."""
    master = estate.master()
    token = master.token
    for _ in range(3):
        master.signal(signal.SIGSTOP)
        time.sleep(0.1)  # the lease has 0.7 s left
        master.signal(signal.SIGCONT)
        time.sleep(0.5)
    assert master.is_master
    assert master.token == token


def test_a_whole_frozen_node_is_no_master_when_it_thaws(estate: SidecarEstate) -> None:
    """Catalogue 24: sidecar, guards and broker alike, as if the machine were paused.

    A pause of all that could act can't be seen from within: an overlap of what the broker had
    accepted already is the known floor. On a file the lock itself, which the broker inherited,
    keeps the standby out.
    """
    master = estate.master()
    other = estate.other(master)
    broker = master.broker
    assert broker is not None
    frozen = [master.pid, *master.guards, broker]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    is_taken = estate.lock.startswith("redis")
    if is_taken:
        eventually(lambda: other.is_master)
        os.kill(broker, signal.SIGKILL)  # what no outer gate would let through
    else:
        time.sleep(2.5)
        assert not other.is_master
    for pid in frozen:
        with contextlib.suppress(ProcessLookupError):  # one that thawed has killed it already
            os.kill(pid, signal.SIGCONT)
    eventually(lambda: estate.master())
    if is_taken:
        assert other.is_master


def test_helpers_die_with_their_broker() -> None:
    """Catalogue 15: one in a session of its own keeps neither the lock nor a port."""
    with SidecarEstate(witness_options=["--helper"]) as estate, Clients(estate):
        master = estate.start().master()
        broker = master.broker
        assert broker is not None
        helpers = children(broker)
        assert helpers
        master.kill()
        eventually(lambda: estate.other(master).is_master)
        assert not [pid for pid in helpers if is_alive(pid)]
        assert estate.judge() == []


def test_a_broker_that_will_not_stop_is_killed_when_its_time_is_over() -> None:
    """Catalogue 16, 19."""
    options = {"witness_options": ["--deaf"], "broker": {"stop_timeout": "300ms"}}
    with SidecarEstate(**options) as estate, Clients(estate):  # type: ignore[arg-type]
        master = estate.start().master()
        other = estate.other(master)
        other.until("/standby")
        assert master.stop() == 0
        eventually(lambda: other.is_master)
        assert estate.judge() == []


def test_a_helper_that_is_left_does_not_cost_the_whole_stop_timeout() -> None:
    """It lives in a session of its own, as what a broker starts as a daemon does."""
    options = {"witness_options": ["--helper"], "broker": {"stop_timeout": "10m"}}
    with SidecarEstate(names="a", **options) as estate:  # type: ignore[arg-type]
        master = estate.start().master()
        broker = master.broker
        assert broker is not None
        (helper,) = children(broker)
        assert master.stop() == 0  # within its patience, which is a minute
        assert not is_alive(helper)


def test_sigterm_hands_over(estate: SidecarEstate) -> None:
    """Catalogue 19: exit code 0, and the other node is master at once."""
    master = estate.master()
    other = estate.other(master)
    other.until("/standby")
    assert master.stop() == 0
    eventually(lambda: other.is_master)
    assert "let go: shutdown" in other.log


def test_a_standby_comes_and_goes_unnoticed(estate: SidecarEstate) -> None:
    """Catalogue 7, 20: a restarted standby, and signals to the master, change nothing."""
    master = estate.master()
    other = estate.other(master)
    token = master.token
    other.until("/standby")
    assert other.stop() == 0
    other.start()
    for _ in range(20):
        master.signal(signal.SIGHUP)
    other.until("/standby")
    eventually(lambda: master.log.count("configuration reloaded") >= 1)
    assert master.is_master
    assert master.token == token
