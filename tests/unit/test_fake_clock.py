"""The fake clock."""

from __future__ import annotations

import pytest

from understudy.testing import FakeClock


def test_time_passes_only_when_told_to() -> None:
    clock = FakeClock(start=100.0)
    assert clock.now() == clock.now() == 100.0
    assert clock.advance(0.5) == clock.now() == 100.5
    assert repr(clock) == "<FakeClock at 100.5>"


def test_it_never_goes_back() -> None:
    with pytest.raises(ValueError, match="cannot go back"):
        FakeClock().advance(-1)
