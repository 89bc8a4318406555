"""What a bridge adds to the way of a message at a quiet rate, and what it keeps in memory.

Latency is told from the publish to the arrival at a consumer of the target, in this process and by
its clock, and beside RabbitMQ's own shovel, which sits inside the source's broker.
"""

from __future__ import annotations

import statistics
import threading
import time
from functools import partial

import amqp
from tests.bench.lab import Lab, raw_connection
from tests.bench.measures import memory, percentile
from tests.bench.moving import QUEUE, Mover, Nodes, bridge, fill, nodes, prepare, shovel
from tests.bench.outcome import Bar, Case, Outcome, Step, compare, taking_turns

__all__ = ["CASES"]

PREFETCH = 1000  # the default of both
RATE = 100  # messages/s
MESSAGES = 1000  # in a round
FIRST = 50  # messages that are not counted: consumers and caches get warm
BODY = b"x" * 1024
PATIENCE = 60.0  # s for a message to arrive
MILLION, EARLY = 1_000_000, 100_000  # messages
LOOK = 0.1  # s


class _Arrivals(threading.Thread):
    """Consumes from the target, and notes when what arrived was sent."""

    def __init__(self, both: Nodes, wanted: int) -> None:
        super().__init__(name="arrivals", daemon=True)
        self.took: list[float] = []
        self._wanted = wanted
        self._connection = raw_connection(both[1])
        self._connection.connect()
        self._channel = self._connection.channel()
        self._channel.basic_consume(QUEUE, callback=self._arrived, no_ack=True)

    def run(self) -> None:
        with self._connection:
            while len(self.took) < self._wanted:
                self._connection.drain_events(timeout=PATIENCE)

    def _arrived(self, message: amqp.Message) -> None:
        self.took.append(time.perf_counter() - float(message.headers["sent"]))


def _latencies(both: Nodes) -> list[float]:
    """Seconds that each message took."""
    arrivals = _Arrivals(both, FIRST + MESSAGES)
    arrivals.start()
    with raw_connection(both[0]) as connection:
        channel = connection.channel()
        began = time.perf_counter()
        for number in range(FIRST + MESSAGES):
            time.sleep(max(0.0, began + number / RATE - time.perf_counter()))
            headers = {"sent": str(time.perf_counter())}
            message = amqp.Message(BODY, delivery_mode=2, application_headers=headers)
            channel.basic_publish(message, routing_key=QUEUE)
        arrivals.join(PATIENCE)
    if arrivals.is_alive():
        raise RuntimeError(f"{len(arrivals.took)} of {FIRST + MESSAGES} messages arrived")
    return arrivals.took[FIRST:]


def latency(lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    """Median and 99th percentile beside the shovel's."""
    runs: dict[str, list[list[float]]] = {"bridge": [], "shovel": []}
    with nodes() as both:

        def measure(who: str, mover: Mover, _: int) -> float:
            prepare(both, BODY, 0)
            with mover(both, PREFETCH):
                runs[who].append(_latencies(both))
            return statistics.median(runs[who][-1])

        taking_turns(
            rounds, partial(measure, "bridge", bridge), partial(measure, "shovel", shovel), step
        )
    return [_beside("bridge-latency-p50", runs, 0.5), _beside("bridge-latency-p99", runs, 0.99)]


def _beside(name: str, runs: dict[str, list[list[float]]], share: float) -> Outcome:
    ours, peers = ([percentile(run, share) for run in runs[who]] for who in ("bridge", "shovel"))
    ratio, spread = compare(ours, peers)
    mine, theirs = (f"{statistics.median(each) * 1000:.2f} ms" for each in (ours, peers))
    notes = (f"{MESSAGES} persistent messages at {RATE}/s in a round, publish to consumer",)
    return Outcome(name, mine, theirs, ratio, "x", Bar(1.3, at_most=True), spread, notes)


def flatness(lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    """Memory of one link while a million messages go through it."""
    with nodes() as both:
        prepare(both, BODY, 0)
        with bridge(both, PREFETCH) as pid, raw_connection(both[1]) as connection:
            assert pid is not None
            channel = connection.channel()
            early = 0.0
            moved = 0
            while moved < MILLION:
                feeding = threading.Thread(target=fill, args=(both[0], BODY, EARLY))
                feeding.start()
                moved += EARLY
                while channel.queue_declare(QUEUE, passive=True).message_count < EARLY:
                    time.sleep(LOOK)
                feeding.join()
                channel.queue_purge(QUEUE)
                early = early or memory(pid)
                step()
            late = memory(pid)
    growth = late - early
    notes = (f"PSS; {early:.1f} MB after {EARLY:,} messages, {growth:+.2f} MB to {MILLION:,}",)
    bar = Bar(60, at_most=True)
    return [Outcome("bridge-memory", f"{late:.0f} MB", "-", late, " MB", bar, notes=notes)]


CASES: tuple[Case, ...] = (
    Case("bridge-latency", 5, latency),
    Case("bridge-memory", 1, flatness),
)
