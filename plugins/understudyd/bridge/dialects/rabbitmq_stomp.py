"""RabbitMQ, spoken to with its STOMP plugin. Measured on 3.10.8, where nothing else is said.

As a target
* A receipt comes for each SEND that asked, when the broker has confirmed it, and also when the
  message reached no queue. A full queue (reject-publish) closes the connection without ERROR and
  without the receipts before it.
* ``/queue/NAME`` declares a classic queue, which clashes with an existing one of another type:
  ``/amq/queue/NAME`` is used. Of a name that is sent only ``%2F`` is decoded; so a name with these
  three characters cannot be said (nor, as newer versions may decode it, one with ``%25``).
* A property of more than 255 bytes is taken, with receipt, and then no AMQP consumer can get the
  message: each delivery ends its connection. A priority wraps at 256, a timestamp at 64 bits.
* A priority or timestamp that is no number, a ``persistent`` other than true and false, a
  ``message-id``, ``CC`` or ``BCC`` on SEND are answered with ERROR. ``/temp-queue/`` in reply-to
  makes a queue.
* A SUBSCRIBE to ``/queue/NAME`` with ``exclusive:true`` is refused with RESOURCE_LOCKED where there
  is such a queue, and makes one for its connection alone where there is none.
* The headers receipt and content-length of SEND stay on the message as headers.
* From 3.12.2 on a frame has 4 MiB at most by default (documented; no limit measured here).

As a source
* A durable subscription to ``/topic/`` or ``/exchange/`` is a durable queue, with ``x-queue-name``
  of that name, with ``x-expires`` as that says. UNSUBSCRIBE leaves it there: it is removed as a
  queue, over AMQP.
* Of an AMQP message only strings and 32 and 64 bit integers among the headers arrive; booleans,
  floats, tables, arrays and the others are left out without a word: read such queues over AMQP.
* A SUBSCRIBE that is refused gets its ERROR, then its RECEIPT all the same, and the end.
* What is given back by a NACK is delivered again at once, and after an UNSUBSCRIBE there is no
  NACK: deliveries go back with the connection, and each counts as a failed one.
* Its headers stand before the properties and shadow them, the first of one name counts: a header
  ``priority`` hides the message's own. A NUL in a value is sent as it is, which is no STOMP.
* message-id and ack name the delivery, not the message; amqp-message-id is the sender's.
* The destination that it shows is percent-encoded, but for ASCII without ``/`` and ``%``.
* delivery_mode 1 is shown as ``persistent:1``; a reply_to that begins with no prefix of STOMP as
  ``/reply-queue/NAME``; an empty body has no content-length.
"""

from __future__ import annotations

import dataclasses
import re

from understudy.wire.stomp_dialects import RABBITMQ
from understudyd.bridge.dialects.facts import (
    Dialect,
    Expiry,
    Limits,
    StompFacts,
    Subscribing,
)
from understudyd.bridge.dialects.rabbitmq_amqp import MAX_EXPIRATION, RABBITMQ_AMQP, SHORT_STRING

__all__ = ["RABBITMQ_STOMP", "of_version"]

_HEAD = 65_536  # what is left of a frame for its headers
_FRAMES_LIMITED_FROM = (3, 12, 2)
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")

RABBITMQ_STOMP = Dialect(
    name="RabbitMQ over STOMP",
    limits=Limits(
        body=(4 << 20) - _HEAD,
        headers=100,  # on main, 2026
        head=_HEAD,
        short_string=SHORT_STRING,
        expiration=MAX_EXPIRATION,
    ),
    subscribing=Subscribing(
        prefetch="prefetch-count",
        priority=("x-priority", -1),  # from 4.0 on; of no effect before (documented)
        durable_name="x-queue-name",
        durable_beside={"durable": "true", "auto-delete": "false"},
        expires="x-expires",
    ),
    expiry=Expiry.RELATIVE,
    max_priority=RABBITMQ_AMQP.max_priority,
    confirms_routing=False,
    confirms_or_tells=False,
    counts_returns=RABBITMQ_AMQP.counts_returns,
    unspeakable=re.compile("%2F|%25"),
    private_replies=RABBITMQ_AMQP.private_replies,
    stomp=StompFacts(
        client=RABBITMQ,
        transport=frozenset(
            {"subscription", "destination", "message-id", "redelivered", "ack", "content-length"}
            | {"receipt"}  # of the SEND that brought it
        ),
        reserved=frozenset({"expiration", "user-id", "CC", "BCC", "x-death"}),
        prefixes={"queue": "/amq/queue/", "topic": "/topic/", "exchange": "/exchange/"},
        shown_prefixes={
            "/queue/": "queue",
            "/amq/queue/": "queue",
            "/topic/": "topic",
            "/exchange/": "exchange",
        },
        percent_encodes=True,
        making_prefix="/queue/",
        text_by_length=False,
        timestamp_unit=1000,
        expiry="expiration",
        user_id="user-id",
        reply_shown="/reply-queue/",
    ),
)


def of_version(server: str) -> Dialect:
    """The dialect of a broker whose CONNECTED says ``server:RabbitMQ/3.10.8``; without a version
    the one with the limits of newer brokers."""
    found = _VERSION.search(server)
    if not found or tuple(map(int, found.groups())) >= _FRAMES_LIMITED_FROM:
        return RABBITMQ_STOMP
    wider = dataclasses.replace(
        RABBITMQ_STOMP.limits, body=RABBITMQ_AMQP.limits.body, headers=None, head=None
    )
    return dataclasses.replace(RABBITMQ_STOMP, limits=wider)
