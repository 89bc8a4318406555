"""How long a deputy leaves a fencer alone that stands still."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from understudyd.clock import now
from understudyd.config.model import BrokerConfig, Command
from understudyd.drivers import deputy
from understudyd.drivers.exec import ExecDriver
from understudyd.drivers.plan import Plan
from understudyd.guard.page import Page
from understudyd.guard.words import Lock
from understudyd.lock.timings import PRESETS

LOCK = Lock("memory:g", "g", "a-1", 1.0)
SOME = Command(("true",), 1.0)
CONFIG = BrokerConfig(driver="exec", promote=SOME, demote=SOME, fence=SOME)


@pytest.fixture
def page() -> Iterator[Page]:
    with contextlib.closing(Page.create()) as page:
        yield page


@pytest.mark.parametrize("margin", [0.02, 0.1, 0.4])
def test_the_fencer_gets_half_the_margin_that_is_configured(margin: float) -> None:
    timings = replace(PRESETS["normal"], margin=margin)
    driver = ExecDriver(CONFIG, LOCK, timings=timings, owned=lambda: ())
    with contextlib.closing(driver):
        assert Plan.of_descriptor(driver._plan()).slack == margin / 2


def test_it_is_waited_for_until_then(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    page.extend(now() + 1000.0, 7)
    waits: list[float | None] = []

    def wait(_: int, seconds: float | None) -> bool:
        waits.append(seconds)
        return len(waits) == 2

    monkeypatch.setattr(deputy, "_wait", wait)
    deputy._outwait(page, 7, os.getpid(), 500.0)
    assert waits == [0.0, pytest.approx(1500.0, abs=100.0)]
