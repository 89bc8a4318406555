"""What is sent again from a parking queue over STOMP."""

from __future__ import annotations

import time

import pytest

from understudyd.bridge import parked_stomp
from understudyd.bridge.content import StompContent
from understudyd.bridge.dialects import ACTIVEMQ, ARTEMIS, RABBITMQ_STOMP, Dialect
from understudyd.bridge.parcels import stomp_content
from understudyd.bridge.parking import PARKED


@pytest.mark.parametrize("dialect", [ACTIVEMQ, ARTEMIS, RABBITMQ_STOMP], ids=lambda one: one.name)
def test_a_message_whose_time_is_over_is_sent_and_expires_at_once(dialect: Dialect) -> None:
    parked = StompContent(
        {"destination": "/queue/p", "message-id": "m", "ack": "1", f"{PARKED}deadline": "1000"},
        b"body",
    )
    sent = stomp_content(parked_stomp._parcel(parked, "orders", dialect))
    assert sent.body == b"body"
    assert not any(PARKED in name for name in sent.headers)
    told = int(sent.headers.get("expires") or sent.headers["expiration"])
    assert told < time.time() * 1000 + 1000
