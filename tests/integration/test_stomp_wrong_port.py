"""Who writes the wrong port or scheme is told which one it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from understudy.stomp import ConnectFailed
from understudy.testing.brokers import RabbitMQ
from understudy.testing.stomp_lab import StompLab

pytestmark = pytest.mark.integration


@pytest.fixture
def lab() -> Iterator[StompLab]:
    with StompLab() as lab:
        yield lab


def failure(lab: StompLab, member: str) -> str:
    connection = lab.connection(member, startupMaxReconnectAttempts=1)
    with pytest.raises(ConnectFailed) as caught:
        connection.connect("guest", "guest", wait=True)
    return str(caught.value)


def test_the_port_of_amqp(lab: StompLab, rabbit_a: RabbitMQ) -> None:
    told = failure(lab, f"stomp://{rabbit_a.host}:{rabbit_a.port}")
    assert f"does not speak STOMP but AMQP; {rabbit_a.port} seems to be an AMQP port" in told


def test_tls_where_there_is_none(lab: StompLab, rabbit_a: RabbitMQ) -> None:
    member = f"stomp+ssl://{rabbit_a.host}:{rabbit_a.stomp_port}?verify=false"
    assert "if it speaks no TLS, write stomp:" in failure(lab, member)


def test_a_wrong_password(lab: StompLab, rabbit_a: RabbitMQ) -> None:
    told = failure(lab, f"stomp://guest:wrong@{rabbit_a.host}:{rabbit_a.stomp_port}")
    assert "the broker refused the login: Bad CONNECT" in told
    assert "wrong" not in told
