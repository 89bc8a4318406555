"""ActiveMQ Classic, spoken to in STOMP 1.2. Measured on 5.17.2, where nothing else is said.

As a target
* Frames are answered in order, and a receipt says that everything before it was processed, not
  that it was taken: a SEND that is refused (an unknown transaction) gets an ERROR, with its
  receipt-id where it asked for one, the connection stays, and later receipts come. So where not
  each SEND asks, any ERROR means that all since the last receipt is in doubt.
* What one receipt stands for survives a SIGKILL right after it (5 of 5 times 500 messages, one
  queue and two). A receipt for each SEND costs an fsync each (843 ms for 1000 of 1 KB), one for 100
  costs one for these (194 ms), as does a COMMIT (273 ms); transient ones cost none.
* What cannot be parsed closes the connection: a number (``expires:abc``, JMSXGroupSeq, timestamp)
  without ERROR; so does an empty header name, and one with an empty value ends the headers: what
  follows becomes the body. A header line beyond 10 KiB, 1000 headers, a body beyond 100 MiB, or a
  frame beyond maxFrameSize gets an ERROR first.
* A destination without a prefix is taken, with receipt, for a queue of that name.
* A priority above 9 becomes 9, above 127 it becomes 0. A timestamp is taken over.
* ``expires`` is absolute; negative is never.
* Names and values come back as they were, line ends, colons and other control characters included.
  Bytes that are no UTF-8 become U+FFFD.
* JMSXUserID, JMSXGroupID and JMSXGroupSeq are taken out of the headers; the group is set, but no
  MESSAGE shows it. AMQ_SCHEDULED_* delays the message, again on each broker that it comes to.
* In names ``,`` makes a list, ``?`` begins options; spaces around one are cut off.

As a source
* No content-length means text, content-length means bytes; amq-msg-type decides on SEND.
* The text of a JMS producer is shown as Java writes it (modified UTF-8: an emoji is six bytes, NUL
  two); what STOMP sends is kept as it is, and a JMS consumer fails on characters of four bytes.
* Messages of other kinds (map, object, stream, and those without a body) look just like an empty
  text. With ``transformation:jms-map-json`` on Debian's package nothing comes at all, as the jars
  for it are missing. A producer of STOMP makes texts and bytes alone, and is known by its messages'
  ids: these end in ``:-1:1:`` and a number, where a session of Java's has a number above 0.
* A NACK moves the message to the dead letter queue.
* Out of its store it delivers some 600 messages without an acknowledgement, whatever the prefetch.
* It leaves out a heart-beat where it has sent a frame since the last: two intervals may pass.
* A durable subscription belongs to a client-id; a second connection of that id gets ERROR. It goes
  with an UNSUBSCRIBE that names id and activemq.subscriptionName, while nobody is subscribed.
* message-id is the JMSMessageID and stays over redeliveries. priority (4), expires (0), timestamp
  are always there; persistent only when it is true.
* A temporary queue is ``/temp-queue/NAME`` to its own connection, and to others
  ``/remote-temp-queue/SESSION:n``, the n-th of it. It stays until the connection ends, UNSUBSCRIBE
  or not. A SEND to one that is gone gets ERROR (DestinationDoesNotExistException), with its
  receipt-id where it asked for one, and the connection stays.
* A selector cannot name a header with a hyphen, quoted or not. ``>`` is understood at the end of a
  subscription only; in the middle it matches nothing. Of queues that are there already a wildcard
  gets what they hold when something more comes, or at the next look for what expired (30 s). A SEND
  to a wildcard makes such a queue.
"""

from __future__ import annotations

import re

from understudy.wire.stomp_dialects import ACTIVEMQ as CLIENT
from understudyd.bridge.dialects.facts import (
    Dialect,
    Expiry,
    Limits,
    StompFacts,
    Subscribing,
)

__all__ = ["ACTIVEMQ", "JMS_RESERVED"]

#: What JMS gives a meaning to on SEND, and what would delay a message anew.
JMS_RESERVED = frozenset(
    {
        "expires",
        "JMSXUserID",
        "JMSXGroupSeq",
        "amq-msg-type",
        "transformation",
        "transformation-error",
    }
    | {"AMQ_SCHEDULED_DELAY", "AMQ_SCHEDULED_PERIOD", "AMQ_SCHEDULED_REPEAT"}
    | {"AMQ_SCHEDULED_CRON", "AMQ_SCHEDULED_TIME", "scheduledJobId"}
)

ACTIVEMQ = Dialect(
    name="ActiveMQ",
    limits=Limits(body=100 << 20, headers=990, header_line=10_200),
    subscribing=Subscribing(
        prefetch="activemq.prefetchSize",
        priority=("activemq.priority", -5),
        selector=True,
        durable_name="activemq.subscriptionName",
        client_id=True,
    ),
    expiry=Expiry.ABSOLUTE,
    max_priority=9,
    priority_default=4,
    queue_wildcards=True,
    any_word_wildcard="",
    any_word_at_end=">",
    unspeakable=re.compile(r"[,?*>]|^\s|\s$|^(queue|topic|temp-queue|temp-topic)://"),
    private_replies=("/remote-temp-queue/", "/remote-temp-topic/"),
    stomp=StompFacts(
        client=CLIENT,
        transport=frozenset(
            {"subscription", "destination", "message-id", "redelivered", "ack", "content-length"}
        ),
        reserved=JMS_RESERVED,
        prefixes={
            "queue": "/queue/",
            "topic": "/topic/",
            "temp-queue": "/remote-temp-queue/",
            "temp-topic": "/remote-temp-topic/",
        },
        shown_prefixes={
            "/queue/": "queue",
            "/topic/": "topic",
            "/remote-temp-queue/": "temp-queue",
            "/remote-temp-topic/": "temp-topic",
            "/temp-queue/": "temp-queue",
        },
        temporary="/temp-queue/",
        making_prefix="/queue/",
        text_by_length=True,
        timestamp_unit=1,
        expiry="expires",
        user_id="JMSXUserID",
        shows_id=True,
        stable_id=re.compile(r"(.+)"),
        group_shown_as="x-understudy-group",
        hides_group=True,
        reply_shown="/queue/",
        reply_sent="/queue/",
        shown_defaults=True,
        shown_empty=True,
        own_ids=re.compile(r".*:-1:1:[0-9]+"),
        java_text=True,
    ),
)
