"""Several connections to a target: the order of each group stays, also when they are lost (40)."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ
from understudyd.bridge.content import AmqpContent, StompContent
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.wire.properties import build
from understudyd.testing.bridged import BridgeProcess, until
from understudyd.testing.pairs import Pair, over
from understudyd.testing.sides import AmqpSide, side

pytestmark = pytest.mark.integration

COUNT = 900
GROUPS = ("a", "b", "c", "d", "")


@pytest.fixture
def pair(
    request: pytest.FixtureRequest, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str
) -> Iterator[Pair]:
    def of(kind: str, place: int) -> Any:
        broker = request.getfixturevalue("activemq") if kind == "activemq" else rabbits[place]
        return side(kind, broker)

    here, there = request.param
    made = Pair(of(here, 0), of(there, 1), unique)
    made.make()
    fill(made)
    yield made
    made.remove()


def fill(pair: Pair) -> None:
    bodies = [f"{GROUPS[n % len(GROUPS)]}:{n:06d}".encode() for n in range(COUNT)]
    if isinstance(pair.source, AmqpSide):
        pair.source.put(pair.here, *map(_amqp, bodies))
    else:
        pair.source.put(pair.here, *map(_stomp, bodies))


def _amqp(body: bytes) -> AmqpContent:
    group = body.partition(b":")[0].decode()
    headers: dict[str, Any] = {"JMSXGroupID": group} if group else {}
    return AmqpContent(build({"delivery_mode": 2, "headers": headers}), body)


def _stomp(body: bytes) -> StompContent:
    group = body.partition(b":")[0].decode()
    named = {"JMSXGroupID": group} if group else {}
    return StompContent({"persistent": "true", "content-length": str(len(body)), **named}, body)


def check(arrived: Sequence[bytes]) -> None:
    """All is there, and what came first of each message is in the order of its group."""
    assert len(set(arrived)) == COUNT
    for group in GROUPS:
        mine = [body for body in dict.fromkeys(arrived) if body.startswith(f"{group}:".encode())]
        assert mine == sorted(mine), group


@over(("amqp", "amqp"), ("amqp", "activemq"), ("rabbitmq-stomp", "rabbitmq-stomp"), fixture="pair")
def test_groups_keep_their_order_when_the_connections_are_lost(pair: Pair) -> None:
    port = pair.target.uri.rpartition(":")[2].partition("/")[0]
    with FaultProxy("127.0.0.1", int(port)) as proxy:
        way = pair.target.uri.replace(f":{port}", f":{proxy.port}")
        cut = proxy.cut_after(15_000, "up")
        settings = LinkSettings(shards=4, prefetch=200)
        with pair.link(target=way, settings=settings) as link:
            assert cut.wait(60)
            link.await_forwarded(COUNT)
            until(lambda: not link.in_flight, "all is settled")
            assert proxy.connections >= 4
    check(pair.arrived())


@over(("amqp", "amqp"), fixture="pair")
def test_another_number_of_shards_drains_first(tmp_path: Path, pair: Pair) -> None:
    def text(shards: int) -> str:
        said = {
            "source": pair.source.uri,
            "target": pair.target.uri,
            "statically_included": [f"queue://{pair.here}"],
            "shards": shards,
            "rate": 500,
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in said.items()]
        rename = f'rename = {{ "queue://{pair.here}" = "queue://{pair.there}" }}'
        return "\n".join(["[bridges.test]", *lines, rename, ""])

    file = tmp_path / "understudy.toml"
    with BridgeProcess.of(tmp_path, text(1)) as bridge:
        until(lambda: pair.target.depth(pair.there) > 50, "some have arrived")
        file.write_text(text(3), encoding="utf-8")
        assert bridge.process is not None
        bridge.process.send_signal(signal.SIGHUP)
        until(lambda: "changed" in bridge.log, "it was read again")
        until(lambda: pair.target.depth(pair.there) == COUNT, "all have arrived")
        assert bridge.stop() == 0
    arrived = pair.arrived()
    check(arrived)
    assert len(arrived) == COUNT
