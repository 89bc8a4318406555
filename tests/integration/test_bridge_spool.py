"""A link whose messages wait on disk while the target is away: the source is drained, nothing is
lost by kill -9, a full disk or a quota, and all comes in order (scenario 70)."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from understudy.testing import FaultProxy
from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudyd.bridge.content import AmqpContent, StompContent
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.spool.words import Spooling
from understudyd.bridge.wire.properties import build
from understudyd.testing.bridged import RunningLink, until
from understudyd.testing.pairs import Pair, over
from understudyd.testing.sides import AmqpSide, StompSide

pytestmark = [pytest.mark.integration, pytest.mark.scenario(70)]

WINDOW = 100
MIB = 1 << 20
KINDS = (("amqp", "amqp"), ("activemq", "amqp"), ("rabbitmq-stomp", "activemq"))


@pytest.fixture
def far(pair: Pair) -> Iterator[FaultProxy]:
    """The network in front of the target."""
    port = pair.target.broker.port
    if isinstance(pair.target, StompSide) and isinstance(pair.target.broker, RabbitMQ):
        port = pair.target.broker.stomp_port or 0
    with FaultProxy(pair.target.broker.host, port) as proxy:
        yield proxy


def through(pair: Pair, proxy: FaultProxy) -> str:
    broker = pair.target.broker
    is_stomp = isinstance(pair.target, StompSide) and isinstance(broker, RabbitMQ)
    port = broker.stomp_port if is_stomp and isinstance(broker, RabbitMQ) else broker.port
    return pair.target.uri.replace(f"{broker.host}:{port}", f"{proxy.host}:{proxy.port}")


def bodies(count: int, size: int = 300) -> list[bytes]:
    return [b"%06d" % number + b"x" * size for number in range(count)]


def linked(pair: Pair, far: FaultProxy, folder: Path, size: int = 64 * MIB) -> RunningLink:
    settings = LinkSettings(prefetch=WINDOW, spool=Spooling(folder, size))
    return pair.link(target=through(pair, far), settings=settings)


def drained(link: RunningLink, count: int) -> None:
    until(lambda: link.glance.spooled == count, f"{count} messages are on disk")


def arrived(pair: Pair, count: int) -> list[bytes]:
    found: list[bytes] = []

    def enough() -> bool:
        found.extend(pair.arrived())
        return len(set(found)) >= count

    until(enough, f"{count} have arrived")
    return found


@over(*KINDS, fixture="sides")
def test_the_source_is_drained_while_the_target_is_away(
    tmp_path: Path, pair: Pair, far: FaultProxy
) -> None:
    sent = bodies(400)
    pair.source.fill(pair.here, sent)
    far.refuse()
    with linked(pair, far, tmp_path) as link:
        drained(link, len(sent))
        told = link.glance
        assert told.state == "waiting-target"
        assert told.spooled_bytes is not None
        assert told.spooled_bytes > sum(map(len, sent))
        if not isinstance(pair.source.broker, ActiveMQ):  # which does not tell
            assert pair.source.depth(pair.here) == 0
        far.heal()
        link.await_forwarded(len(sent))
        drained(link, 0)
    assert pair.arrived() == sent
    with linked(pair, far, tmp_path) as link:
        pair.source.fill(pair.here, [b"later"])
        link.await_forwarded(1)
    assert pair.arrived() == [b"later"]


@pytest.mark.chaos
@over(("amqp", "amqp"), fixture="sides")
def test_the_bridge_is_killed_while_it_drains_and_while_it_replays(
    tmp_path: Path, pair: Pair, far: FaultProxy
) -> None:
    rng = random.Random(5)
    sent = bodies(3_000)
    pair.source.fill(pair.here, sent)
    far.refuse()
    kills = 3
    where = str(tmp_path / "spool")
    with pair.process(
        tmp_path, target=through(pair, far), spool=where, prefetch_size=WINDOW
    ) as bridge:
        for kill in range(kills):
            bridge.log_file.write_text("")
            until(lambda: "nothing listens" in bridge.log or "is running" in bridge.log, "it runs")
            time.sleep(rng.uniform(0.0, 0.2))
            bridge.kill()
            if kill == 1:
                far.heal()
            bridge.start()
        found = arrived(pair, len(sent))
        assert bridge.stop() == 0
        found += pair.arrived()
    assert set(found) == set(sent)
    assert len(found) - len(sent) <= 2 * kills * WINDOW
    firsts = list(dict.fromkeys(found))
    assert firsts == sent


@over(("amqp", "amqp"), ("activemq", "amqp"), fixture="sides")
def test_nothing_more_is_taken_when_the_quota_is_reached(
    tmp_path: Path, pair: Pair, far: FaultProxy
) -> None:
    sent = bodies(2_000, 1000)
    pair.source.fill(pair.here, sent)
    far.refuse()
    with linked(pair, far, tmp_path, MIB) as link:
        until(lambda: link.glance.state == "spool-full", "it is full")
        told, spooled = link.glance, link.glance.spooled
        assert "bytes are in use (spool_size)" in told.reason
        assert "target: " in told.reason
        assert spooled is not None
        assert 500 < spooled < 1100
        used = sum(file.stat().st_size for file in tmp_path.glob("*/*.segment"))
        assert used <= MIB
        if isinstance(pair.source, AmqpSide):
            until(lambda: pair.source.depth(pair.here) == 2_000 - spooled, "given back")
        far.heal()
        link.await_forwarded(len(sent))
        until(lambda: link.glance.state == "running", "it runs")
        drained(link, 0)
    assert pair.arrived() == sent


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if os.geteuid() or not sys.platform.startswith("linux"):
        pytest.skip("only root can mount a filesystem that is small")
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no filesystem can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@over(("amqp", "amqp"), fixture="sides")
def test_a_full_disk_loses_nothing(small_disk: Path, pair: Pair, far: FaultProxy) -> None:
    sent = bodies(4_000, 1000)
    pair.source.fill(pair.here, sent)
    far.refuse()
    with linked(pair, far, small_disk / "spool", 8 * MIB) as link:
        until(lambda: link.glance.state == "spool-failed", "the disk is full")
        assert "No space left on device" in link.glance.reason
        spooled = link.glance.spooled
        assert spooled
        until(lambda: pair.source.depth(pair.here) == len(sent) - spooled, "given back")
        far.heal()
        link.await_forwarded(len(sent))
        drained(link, 0)
        until(lambda: link.glance.state == "running", "it runs")
    assert pair.arrived() == sent


@over(("amqp", "amqp"), fixture="sides")
def test_a_folder_is_for_one_process_and_one_pair_of_brokers(
    tmp_path: Path, pair: Pair, far: FaultProxy
) -> None:
    pair.source.fill(pair.here, [b"1"])
    far.refuse()
    with linked(pair, far, tmp_path) as link:
        drained(link, 1)
        with linked(pair, far, tmp_path) as other:
            until(lambda: other.glance.state == "spool-failed", "it is told")
            assert "is in use by another process" in other.glance.reason
    settings = LinkSettings(spool=Spooling(tmp_path, MIB))
    with pair.link(settings=settings, there="elsewhere/") as link:
        until(lambda: link.glance.state == "spool-failed", "it is told")
        told = "target 'target/', and here it is target 'elsewhere/'"
        assert told in link.glance.reason
    far.heal()
    with linked(pair, far, tmp_path) as link:
        link.await_forwarded(1)
    assert pair.arrived() == [b"1"]


@over(("amqp", "amqp"), ("rabbitmq-stomp", "amqp"), fixture="sides")
def test_what_expires_in_the_spool_is_dropped_and_counted(
    tmp_path: Path, pair: Pair, far: FaultProxy
) -> None:
    short: Any = {"expiration": "700", "persistent": "true"}
    if isinstance(pair.source, AmqpSide):
        raw = build({"delivery_mode": 2, "expiration": "700"})
        pair.source.put(pair.here, AmqpContent(raw, b"short"))
    else:
        pair.source.put(pair.here, StompContent(short, b"short"))
    pair.source.fill(pair.here, [b"long"])
    far.refuse()
    with linked(pair, far, tmp_path) as link:
        drained(link, 2)
        time.sleep(0.8)  # its time to live
        far.heal()
        link.await_forwarded(1)
        until(lambda: link.glance.expired == 1, "the other one is counted")
        drained(link, 0)
    assert pair.arrived() == [b"long"]


@over(("activemq", "amqp"), fixture="sides")
def test_what_its_broker_does_not_show_is_not_spooled(
    tmp_path: Path, pair: Pair, far: FaultProxy
) -> None:
    assert isinstance(pair.source, StompSide)
    assert isinstance(pair.source.broker, ActiveMQ)
    pair.source.fill(pair.here, [b"before"])
    pair.source.put_from_java(pair.here, "")
    pair.source.fill(pair.here, [b"after"])
    far.refuse()
    with linked(pair, far, tmp_path) as link:
        drained(link, 2)
        assert link.glance.parked == 1
        far.heal()
        link.await_forwarded(2)
    assert pair.arrived() == [b"before", b"after"]
    left = pair.source.take("ActiveMQ.DLQ")
    assert any(content.headers.get("destination", "").endswith("ActiveMQ.DLQ") for content in left)


@over(("amqp", "amqp"), fixture="sides")
def test_pausing_stops_taking_and_a_stop_leaves_the_rest_on_disk(
    tmp_path: Path, pair: Pair, far: FaultProxy
) -> None:
    far.refuse()
    with linked(pair, far, tmp_path) as link:
        pair.source.fill(pair.here, [b"1"])
        drained(link, 1)
        pause = partial(link._runner.pause, "for a test")
        link._loop.call_soon_threadsafe(pause)
        link.await_state("paused")
        until(lambda: not far.connections and pair.source.depth(pair.here) == 0, "it rests")
        pair.source.fill(pair.here, [b"2"])
        time.sleep(0.3)  # in which a message would be taken
        assert pair.source.depth(pair.here) == 1
        link._loop.call_soon_threadsafe(link._runner.resume)
        drained(link, 2)
    far.heal()
    with linked(pair, far, tmp_path) as link:
        link.await_forwarded(2)
    assert pair.arrived() == [b"1", b"2"]
