"""TLS of the STOMP adapter on a real RabbitMQ: verified by default, and the same promises."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import understudy.stomp
from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ, free_port
from understudy.testing.proxy_cuts import Direction
from understudy.testing.stomp_lab import Listener, StompLab

pytestmark = pytest.mark.integration

DIRECTIONS: tuple[Direction, Direction] = ("up", "down")


@pytest.fixture
def lab() -> Iterator[StompLab]:
    with StompLab() as lab:
        yield lab


def test_tls_from_the_handshake_to_a_cut(
    lab: StompLab, launch: Callable[[RabbitMQ], RabbitMQ], certificate: Path, unique: str
) -> None:
    """One broker start serves all."""
    port = free_port()
    settings = {
        "stomp.listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.certfile": str(certificate.with_suffix(".crt")),
        "ssl_options.keyfile": str(certificate),
        "ssl_options.verify": "verify_none",
        "ssl_options.fail_if_no_peer_cert": "false",
    }
    launch(RabbitMQ(name="secure-stomp", stomp=True, settings=settings))
    cafile = certificate.with_suffix(".crt")
    with FaultProxy("127.0.0.1", port) as proxy:
        good = f"stomp+ssl://guest:guest@localhost:{proxy.port}?cafile={cafile}"
        check_sending_and_receiving(lab, good, proxy, unique)
        check_faults(lab, good, proxy, unique)
        check_refusals(lab, proxy.port, str(cafile))
        check_the_applications_own_settings(proxy.port, str(cafile))


def check_sending_and_receiving(lab: StompLab, good: str, proxy: FaultProxy, unique: str) -> None:
    connection = lab.connection(good, heartbeat=1000)
    listener = Listener(connection)
    connection.set_listener("", listener)
    connection.connect(wait=True)
    connection.subscribe(f"/queue/{unique}", id="1", ack="client-individual")
    for number in range(20):
        connection.send(f"/queue/{unique}", str(number))
    connection.send(f"/queue/{unique}", b"\0\xff" * 2_000_000, headers={"x-understudy-id": "big"})
    proxy.reset()
    for number in range(20, 40):
        connection.send(f"/queue/{unique}", str(number))
    listener.wait_for_bodies(*map(str, range(40)))
    bodies = [f.body for f in listener.frames if f.headers["x-understudy-id"] == "big"]
    assert bodies[0] == b"\0\xff" * 2_000_000
    connection.disconnect()
    tracked = lab.connect(good, trackMessages="true")
    for number in range(300):
        tracked.send(f"/queue/{unique}-t", str(number))
    assert tracked.flush(60)


def check_faults(lab: StompLab, good: str, proxy: FaultProxy, unique: str) -> None:
    """F21, F36, F37: cut within the handshake and within records, and a network that is gone."""
    calm: dict[str, Any] = {"heartbeat": 500, "connectTimeout": 2000, "initialReconnectDelay": 0}
    for number, byte in enumerate((1, 40, 300, 700, 1500, 2300)):
        for direction in DIRECTIONS:
            cut = proxy.cut_after(byte, direction=direction, how="fin" if number % 2 else "rst")
            connection = lab.connect(good, **calm)
            connection.send(f"/queue/{unique}-cut", f"{direction}-{byte}")
            connection.disconnect()
            cut.cancel()
    connection = lab.connect(good, **calm)
    for byte in range(1, 120, 17):  # a record's head, its body, and the next one
        for direction in DIRECTIONS:
            cut = proxy.cut_after(byte, direction=direction)
            connection.send(f"/queue/{unique}-cut", f"record-{direction}-{byte}")
            cut.cancel()
    for fault in (
        proxy.black_hole,
        partial(proxy.half_open, "up"),
        partial(proxy.half_open, "down"),
    ):
        connection.send(f"/queue/{unique}-cut", "before")
        fault()
        healing = threading.Timer(0.7, proxy.heal, kwargs={"drop": True})
        healing.start()
        connection.send(f"/queue/{unique}-cut", "within")
        healing.join()
    connection.disconnect()
    taker = lab.connection(good)
    listener = Listener(taker)
    taker.set_listener("", listener)
    taker.connect(wait=True)
    taker.subscribe(f"/queue/{unique}-cut", id="1", ack="client-individual")
    records = [
        f"record-{direction}-{byte}" for byte in range(1, 120, 17) for direction in DIRECTIONS
    ]
    listener.wait_for_bodies("up-2300", "down-2300", "within", *records)


def check_refusals(lab: StompLab, port: int, cafile: str) -> None:
    for member, cause in {
        f"stomp+ssl://localhost:{port}": "CERTIFICATE_VERIFY_FAILED",
        f"stomp+ssl://127.0.0.1:{port}?cafile={cafile}": "CERTIFICATE_VERIFY_FAILED",
        f"stomp://localhost:{port}": "does not speak STOMP but TLS",
    }.items():
        connection = lab.connection(member, maxReconnectAttempts=1, connectTimeout=10000)
        with pytest.raises(understudy.stomp.ConnectFailed, match=cause):
            connection.connect("guest", "guest", wait=True)
    lab.connect(f"ssl://guest:guest@127.0.0.1:{port}?verify=false")
    lab.connect(f"ssl://guest:guest@127.0.0.1:{port}?cafile={cafile}&server_hostname=localhost")


def check_the_applications_own_settings(port: int, cafile: str) -> None:
    """As a program for stomp.py has them: set_ssl for (host, port)."""
    place = ("localhost", port)
    connection = understudy.stomp.Connection([place], options={"maxReconnectAttempts": 1})
    connection.set_ssl(for_hosts=[place], ca_certs=cafile)
    assert connection.get_ssl(place)["ca_certs"] == cafile
    connection.connect("guest", "guest", wait=True)
    connection.disconnect()
    connection.set_ssl(
        for_hosts=[place], ca_certs=cafile, cert_validator=lambda cert, host: (False, "no")
    )
    with pytest.raises(understudy.stomp.ConnectFailed, match="cert_validator"):
        connection.connect("guest", "guest", wait=True)
