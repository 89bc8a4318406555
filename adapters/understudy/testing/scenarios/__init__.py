"""One set of scenarios for every adapter: what they ask of an adapter, of a broker and of a lab.

A scenario is a test function that takes a `Scene`. It knows no client library: the `Driver` of an
adapter gives it clients, the `Place` looks into the broker's queues over a plain connection, and
the scene puts fault proxies between the two.
"""

from __future__ import annotations

from understudy.testing.background import Background
from understudy.testing.scenarios.noise import Noise
from understudy.testing.scenarios.port import (
    Client,
    Consumer,
    Delivery,
    Driver,
    Pulling,
    Transacting,
    Transaction,
)
from understudy.testing.scenarios.scene import Events, Inbox, Scene, consuming

__all__ = [
    "Background",
    "Client",
    "Consumer",
    "Delivery",
    "Driver",
    "Events",
    "Inbox",
    "Noise",
    "Pulling",
    "Scene",
    "Transacting",
    "Transaction",
    "consuming",
]
