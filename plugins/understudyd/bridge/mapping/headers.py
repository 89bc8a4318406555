"""The headers that bridges add, the same on AMQP and STOMP unless said.

    x-understudy-path        brokers a message has left by a bridge, see `routes`
    x_understudy_path        the same for ActiveMQ and Artemis, whose selectors know no hyphen
    x-understudy-deadline    when it expires, and the expiration it has beside it, see `times`
    x-understudy-user-id     who published it, as the source broker told
    x-understudy-cc -bcc     further recipients it had, which must not get it again
    x-understudy-group       its JMSXGroupID on ActiveMQ, which does not show that
    x-understudy-properties  sidecar: what the properties of the present form cannot say
    x-understudy-types       sidecar of STOMP: the AMQP types of headers that are no strings
    x-understudy-headers     sidecar of STOMP: headers whose name or value STOMP cannot carry

A sidecar is a list of pairs, see `pairs`; one too long for a header line goes on in NAME-1, NAME-2.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "CARBON_COPIES",
    "DEADLINE",
    "EXPIRATION",
    "GROUP",
    "GROUP_TWIN",
    "HIDDEN",
    "PATH",
    "PATH_TWIN",
    "PROPERTIES",
    "SIDECARS",
    "TYPES",
    "USER_ID",
]

PATH: Final = "x-understudy-path"
PATH_TWIN: Final = "x_understudy_path"
DEADLINE: Final = "x-understudy-deadline"
USER_ID: Final = "x-understudy-user-id"
EXPIRATION: Final = "x-understudy-expiration"  # one that was no number; RabbitMQ would refuse it
GROUP: Final = "JMSXGroupID"
GROUP_TWIN: Final = "x-understudy-group"

PROPERTIES: Final = "x-understudy-properties"
TYPES: Final = "x-understudy-types"
HIDDEN: Final = "x-understudy-headers"
SIDECARS: Final = (PROPERTIES, TYPES, HIDDEN)

#: RabbitMQ routes by these, and refuses them as anything but arrays.
CARBON_COPIES: Final = {"CC": "x-understudy-cc", "BCC": "x-understudy-bcc"}
