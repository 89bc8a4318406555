"""Networks that fail under a group: each node, and the lock's Redis, has one of its own to cut.

The witness's clients sit beside it, within the same walls: they go on with a master that is cut
off for as long as it lets them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from understudy.errors import UnderstudyError
from understudy.testing.brokers import Redis, Server
from understudyd.testing.estate import Clients, Sidecar, SidecarEstate, eventually
from understudyd.testing.network import LOCK, Network, NetworkMissing, estate_apart

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

ELECTED = "the lock is ours"
LEASE = 1.0  # s; of the estate's quick timings
BLIPS = 20


def _missing(error: UnderstudyError) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"this run must have networks to cut: {error}", pytrace=False)
    pytest.skip(str(error))


@contextlib.contextmanager
def running(**options: Any) -> Iterator[tuple[SidecarEstate, Network]]:
    with contextlib.ExitStack() as stack:
        try:
            estate, network = stack.enter_context(estate_apart(**options))
        except NetworkMissing as error:
            _missing(error)
        stack.enter_context(Clients(estate))
        yield estate.start(), network
        assert estate.judge() == []


@pytest.fixture(autouse=True)
def _redis(installed: Callable[[Server], None]) -> None:
    installed(Redis())


def _pair(estate: SidecarEstate) -> tuple[Sidecar, Sidecar]:
    """The master and a standby that is ready."""
    master = estate.master()
    standby = estate.other(master)
    standby.until("/readiness")
    estate.reigns()
    return master, standby


def _cut_from_lock(network: Network, name: str) -> None:
    network.lose(name, LOCK)
    network.lose(LOCK, name)


def _lose_replies(network: Network, name: str) -> None:
    network.lose(LOCK, name)


def _lose_requests(network: Network, name: str) -> None:
    network.lose(name, LOCK)


@pytest.mark.parametrize("fault", [Network.cut, _cut_from_lock, _lose_replies, _lose_requests])
def test_a_master_that_is_cut_off_is_dead_before_the_next(
    fault: Callable[[Network, str], None],
) -> None:
    """Catalogue 38, 39, 41, 47: fenced by its own deadline, for all that nobody can tell it; the
    standby waits a lease. What is healed is a standby."""
    with running() as (estate, network):
        master, standby = _pair(estate)
        before = len(standby.said(ELECTED))
        fault(network, master.name)
        cut, served = time.time(), time.monotonic()
        eventually(lambda: len(standby.said(ELECTED)) > before)
        (dead,) = eventually(lambda: master.said("the broker is dead"))
        elected = standby.said(ELECTED)[-1]
        print(f"after the cut: dead {dead - cut:.3f} s, elected {elected - cut:.3f} s")
        assert cut < dead
        assert "could not be renewed in time" in master.log
        standby.until("/master")
        assert master.get("/master")[0] == 503
        assert master.get("/readiness")[0] == 503
        network.heal(master.name)
        master.until("/readiness")
        assert standby.is_master
        old, _ = estate.reigns(2)
        # it was master to its clients, cut off as they were, and none any more at the election
        assert served < old.end < served + elected - cut


def test_a_standby_that_is_cut_off_is_not_ready() -> None:
    """Catalogue 40, 48: and the master does not notice, neither now nor when it is back."""
    with running() as (estate, network):
        master, standby = _pair(estate)
        token = master.token
        network.cut(standby.name)
        eventually(lambda: standby.get("/readiness")[0] == 503)
        time.sleep(1.5 * LEASE)
        assert master.is_master
        network.heal(standby.name)
        standby.until("/readiness")
        time.sleep(1.5 * LEASE)  # a claim would have come by now
        assert master.is_master
        assert master.token == token
        assert standby.said(ELECTED) == []
        assert len(estate.reigns()) == 1


def test_a_lock_that_is_cut_off_ends_the_reign() -> None:
    """Catalogue 38: fenced at the deadline, nobody takes over, and one master when it is back."""
    with running() as (estate, network):
        master, standby = _pair(estate)
        token = master.token
        network.cut(LOCK)
        eventually(lambda: master.said("the broker is dead"))
        time.sleep(1.5 * LEASE)
        assert [node.get("/master")[0] for node in (master, standby)] == [503, 503]
        assert standby.said(ELECTED) == []
        network.heal(LOCK)
        assert estate.master().token > token


def test_blips_move_nothing() -> None:
    """Catalogue 44: each is shorter than an attempt, and leaves time for one before the next."""
    with running(timings="fast") as (estate, network):
        master, standby = _pair(estate)
        token = master.token
        for _ in range(BLIPS):
            network.cut(LOCK)
            time.sleep(0.3)
            network.heal(LOCK)
            time.sleep(0.55)
        assert master.is_master
        assert master.token == token
        assert standby.said(ELECTED) == []
        assert len(estate.reigns()) == 1


@pytest.mark.slow
def test_a_network_that_loses_a_third_of_all_packets() -> None:
    """Catalogue 43: it may cost masters, one after the other, and never are there two."""
    with running(timings="fast") as (estate, network):
        master, standby = _pair(estate)
        try:
            for name in (LOCK, master.name, standby.name):
                network.thin(name, 30)
        except NetworkMissing as error:
            _missing(error)
        time.sleep(30)
        for name in (LOCK, master.name, standby.name):
            network.heal(name)
        estate.master()
        print(f"{len(estate.reigns())} reigns")


def test_the_network_loses_what_it_says_and_leaves_nothing() -> None:
    before = sorted(name for _, name in socket.if_nameindex())
    faults: list[Callable[[Network], None]] = [
        lambda network: network.cut("a"),
        lambda network: network.cut("b"),
        lambda network: network.lose("a", "b"),
        lambda network: network.lose("b", "a"),
    ]
    try:
        with Network("a", "b", "c") as network:
            assert _reaches(network, "a", "b")
            for fault in faults:
                fault(network)
                assert not _reaches(network, "a", "b")
                network.heal("a")
                network.heal("b")
                assert _reaches(network, "a", "b")
            network.lose("b", "a")
            assert _reaches(network, "c", "a")
            files = [Path(network.prefix(name)[1].partition("=")[2]) for name in "abc"]
            raise KeyError("a test that fails")
    except NetworkMissing as error:
        _missing(error)
    except KeyError:
        assert not any(file.exists() for file in files)
    assert sorted(name for _, name in socket.if_nameindex()) == before


def _reaches(network: Network, sender: str, receiver: str) -> bool:
    """Whether a connection comes about."""
    with network.inside(receiver):
        server = socket.create_server((network.address(receiver), 0))
    with server, network.inside(sender):
        try:
            with socket.create_connection(server.getsockname(), 0.5):
                return True
        except TimeoutError:
            return False
