"""Artemis, spoken to in STOMP 1.2. From its documentation and source (2.x, of December 2025);
nothing here was measured.

* A receipt comes after everything before it in the session is stored. A SEND whose header
  ``_AMQ_DUPL_ID`` it has seen at the address is dropped, and gets its receipt.
* A NACK is an ack: the message would be gone. The head of what was in flight at a disconnect counts
  as delivered; after ten (max-delivery-attempts) it is dead-lettered.
* Headers and properties together must stay below 100 KiB, where large messages begin.
* The window of a subscription counts bytes: 10240, so one message of that size at a time, unless
  ``consumer-window-size`` says more. STOMP has no consumer priority there.
* An address is named without a prefix; the routing type is said beside it. ``*`` is one word and
  ``#`` any number, anywhere in the name.
* message-id is ``consumer,message``; only the second part stays over redeliveries.
* JMSXGroupID is shown as ``_AMQ_GROUP_ID``. A client's timestamp does not become the message's.
"""

from __future__ import annotations

import re

from understudy.wire.stomp_dialects import ARTEMIS as CLIENT
from understudyd.bridge.dialects.activemq import JMS_RESERVED
from understudyd.bridge.dialects.facts import (
    Dialect,
    Expiry,
    Limits,
    StompFacts,
    Subscribing,
)

__all__ = ["ARTEMIS"]

ARTEMIS = Dialect(
    name="Artemis",
    limits=Limits(body=100 << 20, head=90_000),
    subscribing=Subscribing(
        prefetch="consumer-window-size",
        prefetch_is_bytes=True,
        selector=True,
        durable_name="durable-subscription-name",
        client_id=True,
    ),
    expiry=Expiry.ABSOLUTE,
    max_priority=9,
    priority_default=4,
    counts_returns=True,
    is_patient=True,
    queue_wildcards=True,
    unspeakable=re.compile(r"[,*#?]|::"),
    stomp=StompFacts(
        client=CLIENT,
        transport=frozenset(
            {"subscription", "destination", "message-id", "redelivered", "ack", "content-length"}
            | {"destination-type", "receipt"}
        ),
        reserved=JMS_RESERVED | {"destination-type", "_AMQ_DUPL_ID", "_AMQ_GROUP_ID"},
        prefixes={"queue": "", "topic": ""},
        shown_prefixes={},
        making_prefix="",
        text_by_length=True,
        timestamp_unit=1,
        expiry="expires",
        user_id="JMSXUserID",
        duplicate_id="_AMQ_DUPL_ID",
        takes_timestamp=False,
        stable_id=re.compile(r"[^,]*,(.+)"),
        sent_beside={
            "queue": ("destination-type", "ANYCAST"),
            "topic": ("destination-type", "MULTICAST"),
        },
        subscribed_beside={
            "queue": ("subscription-type", "ANYCAST"),
            "topic": ("subscription-type", "MULTICAST"),
        },
        group_shown_as="_AMQ_GROUP_ID",
        shown_defaults=True,
    ),
)
