"""Catalogue 106: random faults, two to six at once; never two masters, and always one again.

I1 and I2 are judged by what the brokers accepted, I3 by what the role APIs told meanwhile.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from understudy.testing.brokers import Redis
from understudyd.testing import witness
from understudyd.testing.estate import Clients, SidecarEstate
from understudyd.testing.nemesis import Nemesis
from understudyd.testing.roles import Roles, Told, judge_roles

pytestmark = pytest.mark.chaos

SHORT = 15  # faults
LONG = 1000


def play(kind: str, faults: int, store: Path) -> None:
    """``store`` gets the stamp: a Redis and three sidecars that forget everything at once know no
    token any more."""
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(10**6))
    print(f"replay with SEED={seed}")
    redis = Redis().start() if kind == "redis" else None
    lock = f"redis://127.0.0.1:{redis.port}/0?key=nemesis" if redis else None
    try:
        with (
            SidecarEstate(lock, names="abc", more={"store": str(store)}) as estate,
            Clients(estate),
            Roles(estate) as roles,
        ):
            nemesis = Nemesis(estate.start(), seed, redis, "nemesis")
            nemesis.calm()
            while nemesis.faults < faults:
                nemesis.round()
                assert estate.judge() == [], nemesis.told
            rows = witness.intervals(estate.book)
            assert judge_roles(list(roles.told), rows) == []
            assert len(roles.told) > len(rows)
            print(f"{nemesis.faults} faults, {len(rows)} reigns, no overlap")
    finally:
        if redis:
            redis.close()


@pytest.mark.parametrize("kind", ["file", "redis"])
def test_a_short_nemesis(kind: str, tmp_path: Path) -> None:
    play(kind, SHORT, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "redis"])
def test_a_long_nemesis(kind: str, tmp_path: Path) -> None:
    play(kind, LONG, tmp_path)


def test_what_speaks_against_an_answer() -> None:
    rows = [witness.Interval(1, 11, 10.0, 20.0, 5), witness.Interval(2, 12, 21.0, 30.0, 5)]
    fine = [Told(1, 9.0, 9.5), Told(1, 15.0, 15.1), Told(1, 20.9, 22.0), Told(2, 19.9, 20.1)]
    assert judge_roles(fine, rows) == []
    (late,) = judge_roles([Told(1, 21.1, 21.2)], rows)
    assert "a later one was" in late
    (early,) = judge_roles([Told(2, 19.0, 19.9)], rows)
    assert "an earlier one was" in early
