"""The stamp on several stores: more than half of them have to take it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from understudyd.drivers import stamp
from understudyd.drivers.stamp import Stamp
from understudyd.sidecar.stamper import Stamped, Stamper
from understudyd.testing import witness
from understudyd.testing.estate import Clients, SidecarEstate, eventually

pytestmark = pytest.mark.integration

PATIENCE = 30.0  # s; nothing here takes so long
SHORT = 0.2


@pytest.fixture
def stores(tmp_path: Path) -> list[Path]:
    found = [tmp_path / name for name in ("x", "y", "z")]
    for store in found:
        store.mkdir()
    return found


@contextlib.contextmanager
def silent(*stores: Path) -> Iterator[None]:
    """Whoever stamps one of these waits, as on a dead mount."""
    with contextlib.ExitStack() as stack:
        for store in stores:
            descriptor = os.open(store / stamp.FILE, os.O_RDWR | os.O_CREAT)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def test_all_take_the_stamp(stores: Sequence[Path]) -> None:
    assert Stamper().put(stores, Stamp(7, "a"), PATIENCE) == Stamped()
    eventually(lambda: [stamp.read(store).token for store in stores] == [7, 7, 7])


def test_one_that_is_silent_or_broken_holds_nobody_up(stores: Sequence[Path]) -> None:
    """Catalogue 91."""
    stamper = Stamper()
    with silent(stores[0]):
        assert stamper.put(stores, Stamp(7, "a"), PATIENCE) == Stamped()
        assert [stamp.read(store).token for store in stores[1:]] == [7, 7]
        told = stamper.put(stores, Stamp(8, "a"), PATIENCE)  # nothing is begun on the silent one
        assert told == Stamped(trouble=f"{stores[0]}: an earlier stamp has not come back")
    stores[1].joinpath(stamp.FILE).write_text("no stamp")
    eventually(lambda: stamper.put(stores, Stamp(9, "a"), PATIENCE).veto == "")


def test_fewer_than_half_are_not_enough(stores: Sequence[Path]) -> None:
    """Catalogue 91: nor is a half, of which there may be two."""
    with silent(*stores[1:]):
        veto = Stamper().put(stores, Stamp(7, "a"), SHORT).veto
        assert veto.startswith("1 of 3 stores could be stamped, 2 are needed: ")
        veto = Stamper().put(stores[:2], Stamp(7, "a"), SHORT).veto
        assert veto.startswith("1 of 2 stores could be stamped, 2 are needed: ")
        veto = Stamper().put(stores[2:], Stamp(7, "a"), SHORT).veto
        assert veto == f"the store could not be stamped: {stores[2]}: it does not answer"


def test_two_reigns_have_a_store_in_common(stores: Sequence[Path]) -> None:
    """Catalogue 92: whichever store the older one can't ask."""
    with silent(stores[0]):
        assert Stamper().put(stores, Stamp(9, "b"), PATIENCE).veto == ""
    for missing in stores:
        with silent(missing):
            told = Stamper().put(stores, Stamp(8, "a"), PATIENCE)
            assert (told.veto, told.known) == ("the store has the stamp of token 9, of b", 9)


def test_a_second_reign_of_one_token_is_refused(stores: Sequence[Path]) -> None:
    assert Stamper().put(stores, Stamp(1000, "a", "a-1"), PATIENCE).veto == ""
    told = Stamper().put(stores, Stamp(1000, "b", "b-1"), PATIENCE)
    assert told.veto.startswith("the store has the stamp of token 1000, of a, as this reign has")
    assert told.known == 1000
    assert Stamper().put(stores, Stamp(1001, "b", "b-1"), PATIENCE).veto == ""


def test_a_store_has_one_group(stores: Sequence[Path]) -> None:
    """Its tokens are those of another lock: a higher one says nothing."""
    assert Stamper().put(stores, Stamp(7, "a", "a-1", "orders"), PATIENCE).veto == ""
    for token in (6, 7, 9000):
        told = Stamper().put(stores, Stamp(token, "a", "a-2", "prices"), PATIENCE)
        assert "is that of the group orders, and two groups would be two masters" in told.veto
        assert told.veto.endswith(f"take away its {stamp.FILE}")
        assert told.known == 0
    assert Stamper().put(stores, Stamp(8, "b", "b-1", "orders"), PATIENCE).veto == ""
    stores[0].joinpath(stamp.FILE).write_text('{"token": 8, "node": "b"}')  # an older version's
    assert stamp.put(stores[0], Stamp(9, "a", "a-3", "orders")).group == "orders"


def test_without_enough_stores_nobody_is_master(stores: Sequence[Path]) -> None:
    """Catalogue 91, on real nodes: and one is when they answer again."""
    with (
        SidecarEstate(more={"store": list(map(str, stores))}) as estate,
        Clients(estate),
    ):
        with silent(*stores[1:]):
            estate.start()
            nodes = estate.nodes.values()
            eventually(lambda: any(node.said("1 of 3 stores could be stamped") for node in nodes))
            assert not any(node.said("starting the broker") for node in nodes)
            assert witness.intervals(estate.book) == []
        with silent(stores[1]):
            master = estate.master()
        eventually(lambda: [stamp.read(store).token for store in stores][2] == master.token)
        assert estate.judge() == []
