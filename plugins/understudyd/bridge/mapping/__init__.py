"""From one form of a message into another, and back to what it was.

    write(read(content, RABBITMQ_AMQP, now), ACTIVEMQ, now)

Each form has a reader and a writer; between them stands the `Message`. What the target cannot say
goes along in sidecar headers (see `headers`), and is restored where it can be said again; what
cannot cross at all is `Untranslatable`. Nothing is left out in silence but what belongs to one
delivery or one broker: subscription, ack, redelivered, ids that a broker gives (ActiveMQ's goes on
as the message's id), the time of arrival.
"""

from __future__ import annotations

from understudyd.bridge.content import AmqpContent, Content, StompContent
from understudyd.bridge.dialects import Dialect
from understudyd.bridge.mapping import amqp, stomp
from understudyd.bridge.mapping.amqp import relay
from understudyd.bridge.mapping.limits import check_amqp
from understudyd.bridge.mapping.message import Message

__all__ = ["Message", "read", "relay", "write"]


def read(content: Content, source: Dialect, now: int) -> Message:
    """``now`` is milliseconds since 1970; raises Untranslatable for what cannot be read.

    From AMQP to AMQP `relay` does what is needed in a fraction of the time.
    """
    if isinstance(content, AmqpContent):
        return amqp.read(content, source, now)
    return stomp.read(content, source, now)


def write(message: Message, target: Dialect, now: int) -> Content:
    """What the message is in another form, within its limits; the message is used up.

    Raises Untranslatable or Expired.
    """
    if target.stomp is not None:
        return stomp.write(message, target, now)
    written: AmqpContent | StompContent = amqp.write(message, target, now)
    assert isinstance(written, AmqpContent)
    check_amqp(written.properties, len(written.body), target)
    return written
