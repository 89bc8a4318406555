"""A real ActiveMQ announces itself by multicast, on the loopback interface."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from understudy import parse
from understudy.discovery import look
from understudy.testing.brokers import ActiveMQ
from understudy.testing.brokers.ports import free_port
from understudy.testing.uri_sources import MULTICAST

pytestmark = pytest.mark.integration

PATIENCE = 60.0  # s


class AnnouncingActiveMQ(ActiveMQ):
    """Announces its STOMP port on the loopback interface."""

    def __init__(self) -> None:
        super().__init__()
        self.multicast_port = free_port()
        self.options = "networkInterface=lo&joinNetworkInterface=lo&group=ours"

    def _configuration(self) -> str:
        place = f"multicast://{MULTICAST}:{self.multicast_port}?{self.options}"
        escaped = place.replace("&", "&amp;")
        connector = f'<transportConnector name="stomp" discoveryUri="{escaped}"'
        return super()._configuration().replace('<transportConnector name="stomp"', connector)


def test_a_real_activemq_announces_itself(launch: Callable[[ActiveMQ], ActiveMQ]) -> None:
    """It comes, and it is gone when it was killed and ten intervals have passed."""
    broker = launch(AnnouncingActiveMQ())
    assert isinstance(broker, AnnouncingActiveMQ)
    agent = f"multicast://{MULTICAST}:{broker.multicast_port}?{broker.options}"
    (seen,) = look(parse(f"discovery:({agent})"), patience=PATIENCE)
    assert [(one.scheme, one.port) for one in seen.endpoints] == [("stomp", broker.port)]
    broker.kill()
    (seen,) = look(parse(f"discovery:({agent})"), patience=2)
    assert seen.endpoints == ()
