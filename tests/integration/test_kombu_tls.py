"""TLS: verified by default, each member its own name and files, and the same promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import kombu
import pytest

import understudy.kombu
from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ, free_port
from understudy.testing.kombu_lab import send

if TYPE_CHECKING:
    from tests.integration.conftest import Lab

pytestmark = pytest.mark.integration


class Secure:
    """A RabbitMQ that speaks TLS, for `localhost`."""

    def __init__(self, broker: RabbitMQ, port: int, certificate: Path) -> None:
        self.broker = broker
        self.port = port
        self.certificate = certificate

    def address(self, port: int | None = None, options: str = "") -> str:
        place = f"amqps://guest:guest@localhost:{port or self.port}//"
        return f"{place}?cafile={self.certificate.with_suffix('.crt')}{options}"


@pytest.fixture
def secure(launch: Callable[[RabbitMQ], RabbitMQ], certificate: Path) -> Secure:
    port = free_port()
    settings = {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.certfile": str(certificate.with_suffix(".crt")),
        "ssl_options.keyfile": str(certificate),
        "ssl_options.verify": "verify_none",
        "ssl_options.fail_if_no_peer_cert": "false",
    }
    return Secure(launch(RabbitMQ(name="secure", settings=settings)), port, certificate)


def test_tls_from_the_handshake_to_a_cut(
    lab: Lab, secure: Secure, unique: str, our_log: pytest.LogCaptureFixture
) -> None:
    """A wrong name or an unknown authority is that member's failure, logged once; the next is used.

    One broker start serves all: confirmed and tracked sends, through a reset and a black hole.
    """
    wrong_name = secure.address(options="&server_hostname=elsewhere")
    unknown = f"amqps://guest:guest@localhost:{secure.port}//"
    with FaultProxy("127.0.0.1", secure.port) as proxy:
        good = secure.address(proxy.port)
        connection = lab.connect(wrong_name, unknown, good, initialReconnectDelay=1)
        kombu.Queue(unique)(connection.default_channel).declare()
        send(connection, unique, 0)
        proxy.reset()
        send(connection, unique, 1)
        connection.close()
        for cause in ("elsewhere", "self-signed"):
            lines = [line for line in our_log.messages if cause in line]
            assert len(lines) == 1, our_log.messages

        tracked = lab.connect(good, trackMessages="true", initialReconnectDelay=1)
        for number in range(2, 2000):
            send(tracked, unique, number)
        assert understudy.kombu.flush(60), "confirms lie in the TLS object, where poll is blind"
        for number in range(2000, 2100):
            send(tracked, unique, number)
        proxy.reset()
        assert understudy.kombu.flush(60)
        proxy.black_hole()
        tracked.close()
        proxy.heal()
    assert secure.broker.queue_depth(unique) >= 2100


def test_without_verification_any_certificate_will_do(lab: Lab, secure: Secure) -> None:
    connection = lab.connect(f"amqps://guest:guest@localhost:{secure.port}//?verify=false")
    connection.connect()
    assert connection.connected
