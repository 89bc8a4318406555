"""Catalogue 106: random faults, two to six at once; never two masters, and always one again."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from understudy.testing.brokers import Redis
from understudyd.testing import witness
from understudyd.testing.estate import Clients, SidecarEstate
from understudyd.testing.nemesis import Nemesis

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
        ):
            nemesis = Nemesis(estate.start(), seed, redis, "nemesis")
            nemesis.calm()
            while nemesis.faults < faults:
                nemesis.round()
                assert estate.judge() == [], nemesis.told
            reigns = len(witness.intervals(estate.book))
            print(f"{nemesis.faults} faults, {reigns} reigns, no overlap")
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
