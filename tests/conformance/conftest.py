"""Supervisors over a dialer without a network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from understudy.testing.supervisors import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Checks at the end: all threads have ended, and no connection is left open."""
    it = Bench()
    yield it
    it.close()
