"""How fast a bridge moves a queue from one RabbitMQ to another, beside RabbitMQ's own shovel.

Both move the same number of persistent messages out of a durable queue into another, one after the
other, on the same two nodes. A rate is told from the arrivals at the target: from the first to the
last, so what a start takes is not in it, and our slow start is. Processor time is that of the
bridge's process over the same span; that of the nodes stands beside it.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import amqp
from tests.bench.lab import Lab, raw_connection
from tests.bench.outcome import Bar, Case, Outcome, Step, compare, taking_turns

from understudy.testing.brokers import RabbitMQ, start_all
from understudyd.testing.bridged import BridgeProcess

__all__ = ["CASES"]

PREFETCH = 1000  # of both: shovel's default, and more gains nothing
QUEUE = "understudy.bench.bridge"
UNCONFIRMED = 2000  # messages on the way while a queue is filled
LOOK = 0.02  # s between two looks at the target
CPU_BAR = Bar(10.0, at_most=True)
LARGE = 4096  # bytes; from here on it is the kernel that copies, and no bar
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Run:
    rate: float  # messages/s
    bridge: float  # µs of processor time per message; of the shovel it is in the source's
    source: float
    target: float


def _cpu(pid: int | None) -> float:
    """Seconds of processor time that a process has used."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def _prepare(nodes: tuple[RabbitMQ, RabbitMQ], body: bytes, count: int) -> None:
    """Two empty queues, then the first one filled."""
    for node in nodes:
        with raw_connection(node) as connection:
            channel = connection.channel()
            channel.queue_delete(QUEUE)
            channel.queue_declare(QUEUE, durable=True, auto_delete=False)
    with raw_connection(nodes[0]) as connection:
        channel = connection.channel()
        channel.confirm_select()
        acked = [0]
        channel.events["basic_ack"].add(lambda tag, _: acked.append(tag))
        for number in range(1, count + 1):
            channel._basic_publish(amqp.Message(body, delivery_mode=2), routing_key=QUEUE)
            while number - max(acked[-50:]) > UNCONFIRMED:
                connection.drain_events(timeout=60)
        while max(acked[-50:]) < count:
            connection.drain_events(timeout=60)


def _watch(
    nodes: tuple[RabbitMQ, RabbitMQ], count: int, pid: int | None, is_well: Callable[[], bool]
) -> Run:
    """Wait for the first arrival, then for the last."""
    pids = (pid, nodes[0].pid, nodes[1].pid)
    with raw_connection(nodes[1]) as connection:
        channel = connection.channel()

        def arrived() -> int:
            time.sleep(LOOK)
            assert is_well(), "the bridge has ended"
            return int(channel.queue_declare(QUEUE, passive=True).message_count)

        while not (first := arrived()):
            pass
        began, before = time.perf_counter(), [_cpu(each) for each in pids]
        while arrived() < count:
            pass
        took = time.perf_counter() - began
    moved = count - first
    used = [(_cpu(each) - then) / moved * 1e6 for each, then in zip(pids, before, strict=True)]
    return Run(moved / took, *used)


def _by_bridge(nodes: tuple[RabbitMQ, RabbitMQ], count: int) -> Run:
    with TemporaryDirectory() as folder:
        uris = (nodes[0].uri, nodes[1].uri)
        with BridgeProcess(Path(folder), *uris, QUEUE, prefetch_size=PREFETCH) as bridge:
            process = bridge.process
            assert process is not None
            run = _watch(nodes, count, process.pid, lambda: process.poll() is None)
            bridge.stop()
    return run


def _by_shovel(nodes: tuple[RabbitMQ, RabbitMQ], count: int) -> Run:
    settings = {
        "src-protocol": "amqp091",
        "src-uri": nodes[0].uri,
        "src-queue": QUEUE,
        "src-prefetch-count": PREFETCH,
        "dest-protocol": "amqp091",
        "dest-uri": nodes[1].uri,
        "dest-queue": QUEUE,
        "ack-mode": "on-confirm",
    }
    nodes[0].ctl("set_parameter", "shovel", "bench", json.dumps(settings))
    try:
        return _watch(nodes, count, None, lambda: True)
    finally:
        nodes[0].ctl("clear_parameter", "shovel", "bench")


@contextmanager
def _nodes() -> Iterator[tuple[RabbitMQ, RabbitMQ]]:
    with ExitStack() as stack:
        source = RabbitMQ(name="bench-from", plugins=["rabbitmq_shovel"])
        target = RabbitMQ(name="bench-to")
        for node in (source, target):
            stack.callback(node.close)
        start_all(source, target)
        yield source, target


def moved(
    name: str, size: int, count: int, bar: Bar, lab: Lab, rounds: int, step: Step
) -> list[Outcome]:
    """Rate and processor time, beside the shovel."""
    runs: dict[str, list[Run]] = {"bridge": [], "shovel": []}
    with _nodes() as nodes:

        def measure(who: str, how: Callable[..., Run], _: int) -> float:
            _prepare(nodes, b"x" * size, count)
            runs[who].append(how(nodes, count))
            return runs[who][-1].rate

        rates = taking_turns(
            rounds,
            partial(measure, "bridge", _by_bridge),
            partial(measure, "shovel", _by_shovel),
            step,
        )
    ratio, spread = compare(*rates)
    cpu = statistics.median(run.bridge for run in runs["bridge"])
    details: dict[str, object] = {
        who: [vars(run) for run in samples] for who, samples in runs.items()
    }
    ours, peer = (f"{statistics.median(each):,.0f} msg/s" for each in rates)
    notes = (
        f"processor time per message: bridge {cpu:.1f} µs, "
        f"source + target {_nodes_cpu(runs['bridge'])}, with shovel {_nodes_cpu(runs['shovel'])}",
    )
    moved = Outcome(name, ours, peer, ratio, "x", bar, spread, notes, details=details)
    if size >= LARGE:
        return [moved]
    return [moved, Outcome(f"{name}-cpu", f"{cpu:.1f} µs", "-", cpu, "µs", CPU_BAR)]


def _nodes_cpu(runs: list[Run]) -> str:
    source = statistics.median(run.source for run in runs)
    target = statistics.median(run.target for run in runs)
    return f"{source:.0f} + {target:.0f} µs"


CASES: tuple[Case, ...] = tuple(
    Case(name, 5, partial(moved, name, size, count, bar))
    for name, size, count, bar in (
        ("bridge-100b", 100, 40_000, Bar(1.0, goal=1.1)),
        ("bridge-1k", 1024, 40_000, Bar(1.05, goal=1.16)),
        ("bridge-16k", 16384, 10_000, Bar(1.3, goal=1.55)),
    )
)
