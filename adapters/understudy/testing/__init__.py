"""Tools for testing what happens when brokers and networks fail; free to use in your own tests."""

from __future__ import annotations

from understudy.testing.amqp_peer import ScriptedPeer
from understudy.testing.background import Background
from understudy.testing.clock import FakeClock, wait_until
from understudy.testing.dialer import FakeConnection, FakeDialer
from understudy.testing.proxy import FaultProxy

__all__ = [
    "Background",
    "FakeClock",
    "FakeConnection",
    "FakeDialer",
    "FaultProxy",
    "ScriptedPeer",
    "wait_until",
]
