"""RabbitMQ, spoken to in AMQP 0-9-1. Measured on 3.10.8, where nothing else is said.

* Each publish is confirmed by itself, in any order; with ``mandatory`` a return comes before the
  confirm of what reached no queue. A full queue (reject-publish) answers with a negative one.
* A classic queue confirms what is persistent when nothing more waits for it: 25 000 messages of 1
  KB, of which up to 1000 are not confirmed, get some 40 confirms, each for all that was sent.
* ``basic.nack`` with requeue puts a delivery back. From 4.0 a quorum queue drops or dead-letters a
  message after 20 failed deliveries; a lost connection counts for everything that was prefetched,
  in 4.0 to 4.2 each requeue too (documented).
* Refused with PRECONDITION_FAILED, which closes the channel: a ``CC`` or ``BCC`` header that is not
  an array, a user_id other than the login's, an expiration that is negative, no whole number or
  beyond ten years. ``BCC`` is taken out before delivery.
* An expiration of 0 is gone at once unless a consumer waits.
* frame_max (131072) bounds all properties together: they must fit one frame.
* A correlation id of 300 bytes, which its own STOMP plugin lets in, makes the delivery fail with
  INTERNAL_ERROR and closes the consumer's connection, each time again.
"""

from __future__ import annotations

import dataclasses

from understudyd.bridge.dialects.facts import Dialect, Expiry, Limits, Subscribing

__all__ = ["MAX_EXPIRATION", "RABBITMQ_AMQP", "SHORT_STRING", "of_connection"]

MAX_EXPIRATION = 315_360_000_000  # milliseconds, ten years; one more is refused
SHORT_STRING = 255  # bytes, the protocol's own

_NO_PROPERTIES = 8 + 12  # bytes of a header frame before and after its flags and fields
_BODY_FROM_4_0 = 16 << 20

RABBITMQ_AMQP = Dialect(
    name="RabbitMQ over AMQP",
    limits=Limits(
        body=128 << 20,  # max_message_size
        head=131_072 - _NO_PROPERTIES,
        short_string=SHORT_STRING,
        expiration=MAX_EXPIRATION,
    ),
    subscribing=Subscribing(prefetch="basic.qos", priority=("x-priority", -1)),
    expiry=Expiry.RELATIVE,
    max_priority=255,
    confirms_when_idle=True,
    counts_returns=True,
    private_replies=("amq.gen-", "amq.rabbitmq.reply-to"),
)


def of_connection(version: str, frame_max: int) -> Dialect:
    """The dialect on a connection: its server's version (``4.0.9``), and the frame_max agreed on
    (0 = any)."""
    limits = RABBITMQ_AMQP.limits
    if version.partition(".")[0].isdigit() and int(version.partition(".")[0]) >= 4:
        limits = dataclasses.replace(limits, body=_BODY_FROM_4_0)
    head = frame_max - _NO_PROPERTIES if frame_max else None
    return dataclasses.replace(RABBITMQ_AMQP, limits=dataclasses.replace(limits, head=head))
