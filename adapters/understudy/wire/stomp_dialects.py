"""What differs between the brokers that speak STOMP: one table of facts for each.

Measured on RabbitMQ 3.10.8 and ActiveMQ 5.17.2; Artemis and unknown brokers as documented, with
the more careful value where in doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ACTIVEMQ", "ARTEMIS", "GENERIC", "RABBITMQ", "Dialect", "detect"]


@dataclass(frozen=True)
class Dialect:
    name: str
    server: str  # how the server header of CONNECTED begins, lower case

    #: A receipt says that everything sent before it on the connection was processed too. RabbitMQ
    #: gives one for each message when that is confirmed, whatever its order.
    receipts_are_cumulative: bool

    #: Receipts of messages in a transaction come only after its commit.
    receipts_wait_for_commit: bool

    #: `ack:client` acknowledges everything delivered before on the whole connection; elsewhere
    #: everything before of the same subscription.
    cumulative_over_connection: bool

    #: A message that the broker does not take may end the connection without an ERROR: RabbitMQ for
    #: a full queue (reject-publish), ActiveMQ for a header that it can't read (``priority: high``).
    refuses_silently: bool

    #: What a NACK does where that is not what the application may expect.
    nack_surprise: str = ""

    #: A NACK loses the message, so it is refused.
    nack_loses: bool = False

    #: Acknowledgements in a transaction belong to it; else they count at once.
    acks_in_transactions: bool = True

    #: Destinations that another broker of the list may know by another name: prefix -> prefix.
    prefixes: Mapping[str, str] = field(default_factory=dict)

    def destination(self, name: str) -> str:
        """The same destination as this broker calls it."""
        for theirs, ours in self.prefixes.items():
            if name.startswith(theirs):
                return ours + name[len(theirs) :]
        return name


RABBITMQ = Dialect(
    name="RabbitMQ",
    server="rabbitmq",
    receipts_are_cumulative=False,
    receipts_wait_for_commit=True,
    cumulative_over_connection=True,
    refuses_silently=True,
)
ACTIVEMQ = Dialect(
    name="ActiveMQ",
    server="activemq",
    receipts_are_cumulative=True,
    receipts_wait_for_commit=False,
    cumulative_over_connection=False,
    refuses_silently=True,
    nack_surprise="moves the message to the dead letter queue",
    prefixes={"/amq/queue/": "/queue/"},
)
ARTEMIS = Dialect(
    name="Artemis",
    server="apache-activemq-artemis",
    receipts_are_cumulative=True,
    receipts_wait_for_commit=False,
    cumulative_over_connection=False,
    refuses_silently=True,
    nack_surprise="acknowledges the message: it would be gone",
    nack_loses=True,
    acks_in_transactions=False,
    prefixes={"/amq/queue/": "/queue/"},
)
GENERIC = Dialect(
    name="STOMP",
    server="",
    receipts_are_cumulative=False,
    receipts_wait_for_commit=False,
    cumulative_over_connection=True,
    refuses_silently=True,
)


def detect(server: str) -> Dialect:
    """By the server header of CONNECTED."""
    told = server.lower()
    return next(d for d in (RABBITMQ, ARTEMIS, ACTIVEMQ, GENERIC) if told.startswith(d.server))
