"""How fast a bridge moves a queue from one RabbitMQ to another, beside RabbitMQ's own shovel.

Both move the same number of persistent messages, one after the other, on the same two nodes, with
the prefetch that suits the shovel best. A rate is told from the arrivals at the target: from the
first to the last, so what a start takes is not in it, and our slow start is. Processor time is that
of the bridge's process over the same span; that of the nodes stands beside it.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from functools import partial

from tests.bench.lab import Lab, raw_connection
from tests.bench.measures import processor
from tests.bench.moving import QUEUE, Mover, Nodes, bridge, nodes, prepare, shovel
from tests.bench.outcome import Bar, Case, Outcome, Step, compare, taking_turns

__all__ = ["CASES"]

PREFETCH = 5000  # of both: what the shovel is fastest with here
LOOK = 0.02  # s between two looks at the target
CPU_BAR = Bar(10.0, at_most=True)
LARGE = 4096  # bytes; from here on it is the kernel that copies, and no bar


@dataclass(frozen=True)
class Run:
    rate: float  # messages/s
    bridge: float  # µs of processor time per message; of the shovel it is in the source's
    source: float
    target: float


def _watch(both: Nodes, count: int, pid: int | None) -> Run:
    """Wait for the first arrival, then for the last."""
    pids = (pid, both[0].pid, both[1].pid)
    with raw_connection(both[1]) as connection:
        channel = connection.channel()

        def arrived() -> int:
            time.sleep(LOOK)
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


def _cpu(pid: int | None) -> float:
    return 0.0 if pid is None else processor(pid)


def moved(
    name: str, size: int, count: int, bar: Bar, lab: Lab, rounds: int, step: Step
) -> list[Outcome]:
    """Rate and processor time, beside the shovel."""
    runs: dict[str, list[Run]] = {"bridge": [], "shovel": []}
    with nodes() as both:

        def measure(who: str, mover: Mover, _: int) -> float:
            prepare(both, b"x" * size, count)
            with mover(both, PREFETCH) as pid:
                runs[who].append(_watch(both, count, pid))
            return runs[who][-1].rate

        rates = taking_turns(
            rounds, partial(measure, "bridge", bridge), partial(measure, "shovel", shovel), step
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
        ("bridge-100b", 100, 120_000, Bar(1.0, goal=1.1)),
        ("bridge-1k", 1024, 100_000, Bar(1.05, goal=1.16)),
        ("bridge-16k", 16384, 40_000, Bar(1.3, goal=1.55)),
    )
)
