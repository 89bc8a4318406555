"""Kills, freezes and orders in any order and company; the seed replays them."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest

from understudy.testing.background import Background
from understudyd.lock.file import FileBackend
from understudyd.lock.port import Unavailable
from understudyd.testing.guarded import TREE, Guarded, wait_until

pytestmark = pytest.mark.chaos

NAMES = ("control", "guard", "watcher")
ORDERS = ("extend 1", "extend 60", "kill", "stop 0.1", "launch", "restart", "start")


class Standby:
    """Looks all the time whether the lock is free, and in that moment whether the broker lives."""

    def __init__(self, control: Guarded) -> None:
        self._control = control
        self._backend = FileBackend(control.uri.partition(":")[2], local=True)
        self.is_over = False
        self._call = Background(self._watch)

    def join(self, story: str) -> None:
        assert self._call.is_over_within(60)
        assert self._call.error is None, story
        self._backend.close()

    def _watch(self) -> None:
        while not self.is_over:
            with contextlib.suppress(Unavailable):
                if self._backend.read().is_proven_free:
                    assert not self._control.witness.is_alive, "free while the broker lived"
            time.sleep(0.0005)


def hurt(control: Guarded, chance: random.Random) -> tuple[list[str], set[str]]:
    """A few faults: what they were, and who was killed."""
    story: list[str] = []
    killed: set[str] = set()
    for _ in range(chance.randint(1, 5)):
        what = chance.choice(["kill", "kill", "freeze", "thaw", "order"])
        names = chance.sample(NAMES, chance.choice([1, 1, 1, 2, 2, 3]))
        if what == "order":
            names = [chance.choice(ORDERS)]
            with contextlib.suppress(OSError):
                control.tell(names[0])
        else:
            with contextlib.suppress(ProcessLookupError):
                getattr(control, what)(*names)
        story.append(f"{what} {' '.join(names)}")
        if what == "kill":
            killed |= set(names)
        time.sleep(chance.choice([0, 0, 0.001, 0.003, 0.01, 0.03, 0.3]))
    return story, killed


def one_round(seed: int, folder: Path) -> None:
    chance = random.Random(seed)
    with Guarded(f"file:{folder}/lock", folder, TREE, lease=chance.choice([3, 60])) as control:
        control.launch()
        standby = Standby(control)
        story, killed = hurt(control, chance)
        control.thaw(*NAMES)
        with contextlib.suppress(ProcessLookupError):
            control.kill("control")
        try:
            if not {"guard", "watcher"} <= killed:  # else control may have had no time to do it
                wait_until(lambda: not control.witness.is_alive)
            assert control.is_gone("guard", 30)
            assert control.is_gone("watcher", 30)
            control.kill_broker()
            wait_until(lambda: not control.witness.is_alive)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {story}") from error
        standby.is_over = True
        standby.join(f"seed {seed}: {story}")


@pytest.mark.parametrize("number", range(3))
def test_a_few_rounds(number: int, tmp_path: Path) -> None:
    one_round(random.randrange(2**32) if number else 1, tmp_path)


@pytest.mark.slow
def test_many_rounds(tmp_path: Path) -> None:
    for seed in range(300):
        folder = tmp_path / str(seed)
        folder.mkdir()
        one_round(seed, folder)
