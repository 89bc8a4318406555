"""With a journal, what the target has confirmed is not sent again: after a kill -9 of the bridge
whose acknowledgements were lost, and after the loss of its source (scenarios 41, 43)."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pika
import pytest

from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ
from understudyd.bridge.content import AmqpContent, StompContent
from understudyd.bridge.wire.properties import build
from understudyd.testing.bridged import BridgeProcess, until
from understudyd.testing.operated import COMMAND
from understudyd.testing.pairs import Pair
from understudyd.testing.sides import AmqpSide, StompSide, side
from understudyd.testing.stomp_ends import Sink, Tap, pieces

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

ARTEMIS = os.environ.get("ARTEMIS_URI", "")
WINDOW = 200
COUNT = 1_000


@pytest.fixture(params=["amqp", pytest.param("rabbitmq-stomp", marks=pytest.mark.slow), "activemq"])
def pair(
    request: pytest.FixtureRequest, rabbits: tuple[RabbitMQ, RabbitMQ], unique: str
) -> Iterator[Pair]:
    """From each kind of source to RabbitMQ."""
    kind = request.param
    broker = request.getfixturevalue("activemq") if kind == "activemq" else rabbits[0]
    made = Pair(side(kind, broker), AmqpSide(rabbits[1]), unique)
    made.make()
    yield made
    made.remove()


def fill(pair: Pair, bodies: Sequence[bytes]) -> None:
    """With ids of the application where the broker gives none."""
    source = pair.source
    if isinstance(source, AmqpSide):
        numbered = enumerate(bodies)
        source.put(
            pair.here,
            *[
                AmqpContent(build({"delivery_mode": 2, "message_id": f"m{n}"}), body)
                for n, body in numbered
            ],
        )
        return
    assert isinstance(source, StompSide)
    told: dict[str, str] = {"persistent": "true"}
    source.put(
        pair.here,
        *[
            StompContent(
                {**told, "content-length": str(len(body))}
                | ({"amqp-message-id": f"m{n}"} if source.kind != "activemq" else {}),
                body,
            )
            for n, body in enumerate(bodies)
        ],
    )


def begin(folder: Path, pair: Pair, source: str = "", **options: Any) -> BridgeProcess:
    """With a journal."""
    (folder / "state").mkdir(exist_ok=True)
    said = {
        "source": source or pair.source.uri,
        "target": pair.target.uri,
        "statically_included": [f"queue://{pair.here}"],
        "prefetch_size": WINDOW,
        "dedup": "journal",
        **options,
    }
    headers = said.pop("headers_set", {})
    lines = [f"{name} = {json.dumps(value)}" for name, value in said.items()]
    text = [
        "[network]",
        'state = "state"',
        "[bridges.test]",
        *lines,
        "[bridges.test.rename]",
        f'"queue://{pair.here}" = "queue://{pair.there}"',
        "[bridges.test.headers_set]",
        *[f"{name} = {json.dumps(value)}" for name, value in headers.items()],
    ]
    return BridgeProcess.of(folder, "\n".join(text))


def finish(pair: Pair, bridge: BridgeProcess, sent: Sequence[bytes]) -> int:
    """How many came twice, when all have come."""
    wanted, found = Counter(sent), Counter[bytes]()

    def have_come() -> bool:
        found.update(pair.arrived())
        return not wanted - found

    until(have_come, "all have come", 90)
    assert bridge.stop() == 0
    found.update(pair.arrived())
    assert not pair.left()
    assert set(found) == set(wanted)
    return (found - wanted).total()


def await_still(pair: Pair) -> None:
    """Until no more comes to the target."""
    seen: list[int] = []

    def is_still() -> bool:
        seen.append(pair.target.depth(pair.there))
        time.sleep(0.05)
        return len(seen) > 20 and len(set(seen[-20:])) == 1

    until(is_still, "the window is full, and all of it confirmed")


@contextmanager
def unheard(
    folder: Path, pair: Pair
) -> Iterator[tuple[BridgeProcess, FaultProxy, Sequence[bytes]]]:
    """One whose source has not heard of the last window that was confirmed."""
    sent = [b"%06d" % number + b"x" * 200 for number in range(COUNT)]
    fill(pair, sent)
    port = pair.source.uri.rpartition(":")[2].partition("/")[0]
    with FaultProxy("127.0.0.1", int(port)) as proxy:
        way = pair.source.uri.replace(f":{port}", f":{proxy.port}")
        with begin(folder, pair, way) as bridge:
            until(lambda: pair.target.depth(pair.there) > 300, "some have arrived")
            proxy.half_open("down")
            await_still(pair)
            yield bridge, proxy, sent


def test_what_was_confirmed_is_not_sent_again_after_a_kill(tmp_path: Path, pair: Pair) -> None:
    with unheard(tmp_path, pair) as (bridge, proxy, sent):
        bridge.kill()
        proxy.heal(drop=True)
        bridge.start()
        assert finish(pair, bridge, sent) == 0


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["amqp"], indirect=True)
def test_equal_messages_without_ids_are_none_lost(tmp_path: Path, pair: Pair) -> None:
    """Killed at random, with every message there three times."""
    rng = random.Random(5)
    sent = [b"%06d" % (number // 3) for number in range(12 * COUNT)]
    pair.source.fill(pair.here, sent)
    kills = 5
    with begin(tmp_path, pair) as bridge:
        for _ in range(kills):
            before = pair.target.depth(pair.there)
            until(lambda before=before: pair.target.depth(pair.there) > before + 100, "some come")  # type: ignore[misc]
            time.sleep(rng.uniform(0.0, 0.1))
            bridge.kill()
            bridge.start()
        doubled = finish(pair, bridge, sent)
    assert doubled <= kills * WINDOW


@pytest.mark.slow
def test_the_source_is_lost_and_comes_again(tmp_path: Path, pair: Pair) -> None:
    with unheard(tmp_path, pair) as (bridge, proxy, sent):
        proxy.heal(drop=True)
        assert finish(pair, bridge, sent) == 0


def test_what_was_parked_is_sent_when_it_comes_back_to_its_queue(
    tmp_path: Path, rabbit_a: RabbitMQ, unique: str
) -> None:
    """A retry puts it there, and a consumer that dies makes it one that was delivered before."""
    pair = Pair(AmqpSide(rabbit_a), AmqpSide(rabbit_a), unique)
    pair.make()
    large = {"delivery_mode": 2, "message_id": "m", "headers": {"large": "x" * 130_500}}
    pair.source.put(pair.here, AmqpContent(build(large), b"one"))  # type: ignore[arg-type]
    parking = f"{unique}.parked"
    pair.source.make(parking)
    given = {"parking": f"queue://{parking}"}
    with begin(tmp_path, pair, **given, headers_set={"too": "y" * 600}) as bridge:
        until(lambda: pair.source.depth(parking) == 1, "it is parked")
        assert bridge.stop() == 0
    retry = [*COMMAND, "network", "parked", "retry", "-c", str(tmp_path / "understudy.toml")]
    subprocess.run(retry, check=True, timeout=60, stdout=subprocess.DEVNULL)
    with closing(pika.BlockingConnection(pika.URLParameters(rabbit_a.uri))) as connection:
        assert connection.channel().basic_get(pair.here)[2] == b"one"
    with begin(tmp_path, pair, **given) as bridge:
        assert finish(pair, bridge, [b"one"]) == 0
    for queue in (pair.here, pair.there, parking):
        pair.source.remove(queue)


@pytest.mark.skipif(not ARTEMIS, reason="no ARTEMIS_URI")
def test_artemis_drops_what_it_has_seen_and_gives_receipts(unique: str) -> None:
    """Scenario 42: a window that is sent again is there once."""
    count = 20

    async def work() -> None:
        sink, tap = Sink(ARTEMIS, queue=unique), Tap(ARTEMIS, f"queue://{unique}")
        await sink.end.open()
        for _ in range(2):
            for number in range(count):
                told = {"destination-type": "ANYCAST", "_AMQ_DUPL_ID": f"b:a/:{number}"}
                sink.end.send(pieces(unique, b"%d" % number, **told))
        await sink.await_confirmed(2 * count)
        await tap.end.open(64, 0)
        await tap.await_count(count)
        await asyncio.sleep(0.5)  # more would come by now
        assert tap.bodies == [b"%d" % number for number in range(count)]
        tap.end.acknowledge(count)
        await tap.end.close()
        await sink.end.close()

    asyncio.run(asyncio.wait_for(work(), 60))
