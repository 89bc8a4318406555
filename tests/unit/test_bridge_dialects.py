"""The facts of each broker: where the clients know them too, they are the clients' facts."""

from __future__ import annotations

import pytest

from understudy.wire import stomp_dialects as clients
from understudyd.bridge.dialects import (
    ACTIVEMQ,
    ARTEMIS,
    RABBITMQ_AMQP,
    RABBITMQ_STOMP,
    Dialect,
    of_amqp,
    of_stomp,
)


@pytest.mark.parametrize(
    ("server", "dialect"),
    [
        ("RabbitMQ/4.2.9", RABBITMQ_STOMP),
        ("RabbitMQ/3.12.2", RABBITMQ_STOMP),
        ("RabbitMQ", RABBITMQ_STOMP),
        ("ActiveMQ/5.17.2", ACTIVEMQ),
        ("apache-activemq-artemis/2.40.0 ActiveMQ Artemis", ARTEMIS),
        ("Apollo/1.7", None),
        ("", None),
    ],
)
def test_a_broker_is_known_by_its_server_header(server: str, dialect: Dialect | None) -> None:
    assert of_stomp(server) == dialect


def test_an_older_rabbitmq_takes_larger_frames() -> None:
    older = of_stomp("RabbitMQ/3.10.8")
    assert older is not None
    assert older.limits.body > RABBITMQ_STOMP.limits.body
    assert older.limits.short_string == RABBITMQ_STOMP.limits.short_string
    assert older.stomp is RABBITMQ_STOMP.stomp


def test_limits_of_amqp_are_those_of_the_connection() -> None:
    assert of_amqp("3.10.8", 131_072) == RABBITMQ_AMQP
    assert of_amqp("4.0.9", 131_072).limits.body < RABBITMQ_AMQP.limits.body
    assert of_amqp("3.10.8", 4096).limits.head == 4096 - 20
    assert of_amqp("", 0).limits.head is None


@pytest.mark.parametrize("dialect", [ACTIVEMQ, ARTEMIS])
def test_a_nack_takes_the_message_away(dialect: Dialect) -> None:
    assert dialect.client is not None
    assert dialect.client.nack_surprise


def test_receipts_mean_what_the_clients_know() -> None:
    assert RABBITMQ_STOMP.client is clients.RABBITMQ
    assert ACTIVEMQ.confirms_are_cumulative
    assert not RABBITMQ_STOMP.confirms_are_cumulative
    assert not RABBITMQ_AMQP.confirms_are_cumulative
