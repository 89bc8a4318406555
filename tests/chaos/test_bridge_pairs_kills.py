"""kill -9 of the source, the target and the bridge, for all kinds of brokers, at random and at each
point between publish, confirm and acknowledgement: nothing lost, and no more doubled than the
window holds for each kill (scenarios 14 to 17)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from understudy.testing import FaultProxy
from understudy.testing.brokers import ActiveMQ, RabbitMQ, start_all
from understudyd.bridge.content import AmqpContent, StompContent
from understudyd.bridge.wire.properties import build
from understudyd.testing.bridged import BridgeProcess, until
from understudyd.testing.pairs import PAIRS, Pair, over
from understudyd.testing.sides import AmqpSide, Side, side

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.slow]

WINDOW = 100
COUNT = 12_000
PATIENCE = 120.0  # s


@pytest.fixture
def brokers(
    rabbits: tuple[RabbitMQ, RabbitMQ], activemqs: tuple[ActiveMQ, ActiveMQ]
) -> dict[str, tuple[Any, Any]]:
    return {"rabbitmq": rabbits, "activemq": activemqs}


@pytest.fixture(scope="module")
def _activemqs() -> Iterator[tuple[ActiveMQ, ActiveMQ]]:
    both = (ActiveMQ(name="here"), ActiveMQ(name="there"))
    start_all(*both)
    yield both
    for one in both:
        one.close()


@pytest.fixture
def activemqs(
    _activemqs: tuple[ActiveMQ, ActiveMQ], installed: Callable[[Any], None]
) -> Iterator[tuple[ActiveMQ, ActiveMQ]]:
    installed(_activemqs[0])
    start_all(*_activemqs)
    yield _activemqs
    start_all(*_activemqs)


@pytest.fixture
def pair(
    request: pytest.FixtureRequest, brokers: dict[str, tuple[Any, Any]], unique: str
) -> Iterator[Pair]:
    def of(kind: str, place: int) -> Side:
        return side(kind, brokers["activemq" if kind == "activemq" else "rabbitmq"][place])

    here, there = request.param
    made = Pair(of(here, 0), of(there, 1), unique)
    made.make()
    yield made
    start_all(*brokers["rabbitmq"], *brokers["activemq"])
    made.remove()


def bodies(count: int = COUNT) -> list[bytes]:
    return [b"%06d" % number + b"x" * 300 for number in range(count)]


def finish(pair: Pair, link: BridgeProcess, sent: list[bytes], doubled: int) -> None:
    """Let it come to an end, then count."""
    found: list[bytes] = []
    until(lambda: "is running" in link.log, "it runs", PATIENCE)

    def all_arrived() -> bool:
        found.extend(pair.arrived())
        return set(found) >= set(sent)

    until(all_arrived, f"all {len(sent)} have arrived", PATIENCE)
    assert link.stop() == 0
    found.extend(pair.arrived())
    left = pair.left()
    assert set(found) == set(sent)
    assert set(left) <= set(sent)
    assert len(found) + len(left) - len(sent) <= doubled
    assert "guest:guest" not in link.log


@over(*PAIRS, fixture="pair")
def test_the_bridge_is_killed_again_and_again(tmp_path: Path, pair: Pair) -> None:
    """Scenario 14."""
    rng = random.Random(3)
    sent = bodies()
    pair.source.fill(pair.here, sent)
    kills = 8
    with pair.process(tmp_path, prefetch_size=WINDOW) as bridge:
        for _ in range(kills):
            until(lambda: "is running" in bridge.log, "it runs")
            time.sleep(rng.uniform(0.0, 0.15))
            bridge.kill()
            bridge.log_file.write_text("")
            bridge.start()
        finish(pair, bridge, sent, kills * WINDOW)


@over(*PAIRS, fixture="pair")
@pytest.mark.parametrize("end", ["source", "target"])
def test_a_broker_is_killed_and_comes_back(tmp_path: Path, pair: Pair, end: str) -> None:
    """Scenarios 15, 16; J03."""
    one = pair.source if end == "source" else pair.target
    sent = bodies()
    pair.source.fill(pair.here, sent)
    if isinstance(pair.source.broker, RabbitMQ):
        pair.source.broker.settle()
    with pair.process(tmp_path, prefetch_size=WINDOW) as bridge:
        until(lambda: "is running" in bridge.log, "it runs")
        time.sleep(0.1)
        one.broker.kill()
        one.broker.start()
        # RabbitMQ writes acknowledgements down in its own time: after a SIGKILL it delivers again
        # what was settled long before. ActiveMQ does so for what its journal was not flushed of.
        finish(pair, bridge, sent, len(sent) if end == "source" else WINDOW)


#: Where the bridge is killed: as soon as so many bytes have gone that way.
POINTS: dict[str, tuple[str, Literal["up", "down"], int]] = {
    "as it is delivered": ("source", "down", 60_000),
    "as it is sent": ("target", "up", 60_000),
    "between publish and confirm": ("target", "down", 1_000),
    "between confirm and acknowledgement": ("source", "up", 1_000),
}


@over(("amqp", "activemq"), ("activemq", "amqp"), ("activemq", "rabbitmq-stomp"), fixture="pair")
@pytest.mark.parametrize("point", POINTS)
def test_the_bridge_is_killed_at_each_point(tmp_path: Path, pair: Pair, point: str) -> None:
    """Scenario 17."""
    end, direction, count = POINTS[point]
    one = pair.source if end == "source" else pair.target
    sent = bodies(3_000)
    pair.source.fill(pair.here, sent)
    port = one.uri.rpartition(":")[2]
    with FaultProxy("127.0.0.1", int(port)) as proxy:
        way = {end: one.uri.replace(f":{port}", f":{proxy.port}")}
        bridge = pair.process(tmp_path, prefetch_size=WINDOW, **way)
        cut = proxy.cut_after(count, direction, then=bridge.kill)
        with bridge:
            assert cut.wait(60)
            bridge.start()
            finish(pair, bridge, sent, WINDOW)


@over(*PAIRS, fixture="pair")
def test_a_large_body_goes_through_in_bounded_memory(tmp_path: Path, pair: Pair) -> None:
    """Scenario 4: heartbeats go on, and memory stays below a few times its size."""
    is_small = "activemq" in (pair.source.kind, pair.target.kind)  # its heap, in tests
    size = 10_000_000 if is_small else 100_000_000
    body = b"0123456789" * (size // 10)
    if isinstance(pair.source, AmqpSide):
        pair.source.put(pair.here, AmqpContent(build({}), body), AmqpContent(build({}), b"after"))
    else:
        length = {"content-length": str(size), "persistent": "true"}
        small = {"content-length": "5", "persistent": "true"}
        pair.source.put(pair.here, StompContent(length, body), StompContent(small, b"after"))
    with pair.process(tmp_path) as bridge:
        found: list[bytes] = []

        def both() -> bool:
            found.extend(pair.arrived())
            return len(found) >= 2

        until(both, "both have arrived", PATIENCE)
        assert bridge.process is not None
        status = Path(f"/proc/{bridge.process.pid}/status").read_text(encoding="ascii")
        (peak,) = [int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line]
        assert bridge.stop() == 0
    assert found == [body, b"after"]
    assert peak * 1024 < 3 * size + 60_000_000
