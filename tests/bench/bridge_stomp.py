"""How fast a bridge moves a queue from or to an ActiveMQ, over STOMP.

From ActiveMQ to ActiveMQ its peers are ActiveMQ's own network connectors: one with its defaults,
and as many side by side as are fastest here. Who consumes at the target is what makes these
forward, so a consumer that only counts stands there for all. Between ActiveMQ and RabbitMQ the peer
is RabbitMQ's shovel between two RabbitMQ in the same run; nobody consumes at the target then, from
either, and both have the prefetch that suits them. Persistent messages of 1 KB; rates are told from
the first arrival to the last, processor time is that of the bridge's process over the same span.

What goes to an ActiveMQ without a consumer cannot be seen to arrive: there the span is that in
which the source hands it out, the last window does not count, and all of it is counted after.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.bridge import PREFETCH as SHOVEL
from tests.bench.lab import Lab, raw_connection
from tests.bench.measures import processor_of_all
from tests.bench.moving import QUEUE, fill, nodes, prepare, shovel
from tests.bench.moving_stomp import Arrivals, connected, connectors, fill_activemq
from tests.bench.outcome import Bar, Case, Outcome, Step, compare, taking_turns

from understudy.testing.brokers import ActiveMQ, RabbitMQ, start_all
from understudyd.testing.bridged import BridgeProcess

__all__ = ["CASES"]

PREFETCH = 1000  # of a bridge to an ActiveMQ: the default
TO_RABBITMQ = 2000  # half of it is under way at a time
BODY = b"x" * 1024
COUNT = 25_000  # messages in a round: an ActiveMQ keeps them all in its memory
WARM = 8  # rounds that are not counted: it takes Java 200,000 messages to compile what runs
BEST = 4  # connectors side by side; more gain nothing
LOOK = 0.02  # s between two looks at RabbitMQ

Broker = ActiveMQ | RabbitMQ


@dataclass(frozen=True)
class Run:
    rate: float  # messages/s
    bridge: float  # µs of processor time per message
    source: float
    target: float


@contextmanager
def _bridge(source: str, target: str, queue: str, prefetch: int = PREFETCH) -> Iterator[int | None]:
    """Raises AssertionError when it has ended by itself."""
    with TemporaryDirectory() as folder:
        options = {"prefetch_size": prefetch}
        with BridgeProcess(Path(folder), source, target, queue, **options) as running:
            assert running.process is not None
            yield running.process.pid
            assert running.process.poll() is None, "the bridge has ended"
            running.stop()


@contextmanager
def _connector() -> Iterator[int | None]:
    """It is the source's own and waits for a consumer."""
    yield None


def _span(
    looks: Iterator[int], pids: tuple[int | None, ...], count: int, in_flight: int = 0
) -> Run:
    """``looks`` tells how many have arrived so far, each time that it is asked; of all of these so
    many may still be in flight."""
    first = next(number for number in looks if number)
    began, before = time.perf_counter(), [_cpu(pid) for pid in pids]
    for number in looks:
        if number >= count:
            break
    took, moved = time.perf_counter() - began, count - first - in_flight
    used = [(_cpu(pid) - then) / moved * 1e6 for pid, then in zip(pids, before, strict=True)]
    return Run(moved / took, *used)


def _cpu(pid: int | None) -> float:
    return 0.0 if pid is None else processor_of_all(pid)


def _depths(node: RabbitMQ, queue: str) -> Iterator[int]:
    with raw_connection(node) as connection:
        channel = connection.channel()
        while True:
            time.sleep(LOOK)
            yield int(channel.queue_declare(queue, passive=True).message_count)


def _move(
    source: Broker,
    target: Broker,
    queue: str,
    mover: AbstractContextManager[int | None],
) -> Run:
    """Fill the queue at the source, then let it be moved."""
    for node in (source, target):
        if isinstance(node, RabbitMQ):
            with raw_connection(node) as connection:
                connection.channel().queue_declare(queue, durable=True, auto_delete=False)
    if isinstance(source, RabbitMQ):
        fill(source, BODY, COUNT, queue)
    else:
        fill_activemq(source, queue, BODY, COUNT)
    with ExitStack() as stack:
        arrivals: Arrivals | None = None
        in_flight = 0
        if isinstance(target, RabbitMQ):
            looks = _depths(target, queue)
        elif isinstance(source, RabbitMQ):
            looks, in_flight = (COUNT - left for left in _depths(source, queue)), PREFETCH
        else:
            arrivals = Arrivals(stack.enter_context(connected(target)), queue, waits=True)
            looks = iter(arrivals.wait, None)
        with mover as pid:
            run = _span(looks, (pid, source.pid, target.pid), COUNT, in_flight)
            if in_flight:  # what is given back at a stop would be missing
                _empty(target, queue)
        if arrivals:
            arrivals.settle()
    return run


def _empty(node: Broker, queue: str) -> None:
    """Take everything out of the queue; it has to be all that was moved."""
    assert isinstance(node, ActiveMQ)
    with connected(node) as sock:
        arrivals = Arrivals(sock, queue, waits=False)
        while arrivals.count < COUNT:
            arrivals.wait()


def _started(stack: ExitStack, *brokers: Broker) -> None:
    for broker in brokers:
        stack.callback(broker.close)
    start_all(*brokers)


def _pair(name: str, count: int) -> tuple[ActiveMQ, ActiveMQ]:
    """A source with so many connectors, and its target."""
    target = ActiveMQ(name=f"bench-{name}-to", is_measured=True)
    xml = connectors(target, count) if count else ""
    return ActiveMQ(name=f"bench-{name}-from", extra_xml=xml, is_measured=True), target


def beside_connectors(
    name: str, count: int, bar: Bar, lab: Lab, rounds: int, step: Step
) -> list[Outcome]:
    """ActiveMQ to ActiveMQ: a bridge, and so many network connectors of another pair."""
    runs: dict[str, list[Run]] = {"bridge": [], "connector": []}
    queues = (f"bench-{number}" for number in itertools.count())  # a new one for each round
    with ExitStack() as stack:
        ours, theirs = _pair("ours", 0), _pair("peer", count)
        _started(stack, *ours, *theirs)

        def by_bridge() -> Run:
            queue = next(queues)
            return _move(*ours, queue, _bridge(ours[0].uri, ours[1].uri, queue))

        def by_connector() -> Run:
            return _move(*theirs, next(queues), _connector())

        def measure(who: str, how: Callable[[], Run], _: int) -> float:
            runs[who].append(how())
            return runs[who][-1].rate

        for _ in range(WARM):
            by_bridge()
            by_connector()
        rates = taking_turns(
            rounds,
            partial(measure, "bridge", by_bridge),
            partial(measure, "connector", by_connector),
            step,
        )
    return [_outcome(name, rates, runs, bar)]


def beside_shovel(name: str, bar: Bar, lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    """Between ActiveMQ and RabbitMQ, in the direction that the name says."""
    runs: dict[str, list[Run]] = {"bridge": [], "shovel": []}
    queues = (f"bench-{number}" for number in itertools.count())
    with ExitStack() as stack:
        both = stack.enter_context(nodes())
        java = ActiveMQ(name="bench-activemq", is_measured=True)
        _started(stack, java)
        is_from = name.startswith("bridge-activemq")
        source: Broker = java if is_from else both[0]
        target: Broker = both[1] if is_from else java

        prefetch = TO_RABBITMQ if is_from else PREFETCH

        def by_bridge() -> Run:
            queue = next(queues)
            return _move(source, target, queue, _bridge(source.uri, target.uri, queue, prefetch))

        def measure(_: int) -> float:
            runs["bridge"].append(by_bridge())
            return runs["bridge"][-1].rate

        def measure_shovel(_: int) -> float:
            prepare(both, BODY, COUNT)
            with shovel(both, SHOVEL):
                pids = (None, both[0].pid, both[1].pid)
                runs["shovel"].append(_span(_depths(both[1], QUEUE), pids, COUNT))
            return runs["shovel"][-1].rate

        for _ in range(WARM):
            by_bridge()
        rates = taking_turns(rounds, measure, measure_shovel, step)
    return [_outcome(name, rates, runs, bar)]


def _outcome(
    name: str, rates: tuple[list[float], list[float]], runs: dict[str, list[Run]], bar: Bar
) -> Outcome:
    ratio, spread = compare(*rates)
    ours, peer = (f"{statistics.median(each):,.0f} msg/s" for each in rates)
    used = "; ".join(f"{who} {_cpus(samples)}" for who, samples in runs.items())
    details: dict[str, object] = {who: [vars(run) for run in each] for who, each in runs.items()}
    notes = (f"processor time per message, mover + source + target: {used}",)
    return Outcome(name, ours, peer, ratio, "x", bar, spread, notes, details=details)


def _cpus(runs: list[Run]) -> str:
    parts = ([run.bridge for run in runs], [run.source for run in runs], [r.target for r in runs])
    return " + ".join(f"{statistics.median(part):.0f}" for part in parts) + " µs"


CASES: tuple[Case, ...] = (
    Case("bridge-activemq", 5, partial(beside_connectors, "bridge-activemq", 1, Bar(5.0))),
    Case(
        "bridge-activemq-best",
        5,
        partial(beside_connectors, "bridge-activemq-best", BEST, Bar(3.0)),
    ),
    *(
        Case(name, 5, partial(beside_shovel, name, Bar(0.8)))
        for name in ("bridge-activemq-rabbitmq", "bridge-rabbitmq-activemq")
    ),
)
