"""Two peers doing the same work in turns, in short slices, and their rates.

Peers keep their connection over all rounds, as applications do. Within a round they take turns in
slices, of some 20 ms where figures are close, because a shared machine changes its speed from one
second to the next. A slice ends when its last message is confirmed (or consumed; or, without
confirms, when the broker has read it): that is what ``work`` returns after.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from statistics import median

from tests.bench.outcome import Bar, Outcome, Step, compare

__all__ = ["Racer", "as_outcome", "race"]

WARM_UP = 200  # messages


class Racer:
    """One peer; ``work(n)`` sends or takes n messages."""

    def __init__(self, work: Callable[[int], None], count: int, *, warm_up: int = WARM_UP) -> None:
        self.count = count  # messages of a round
        self._work = work
        self.rates: list[float] = []  # messages per second, by round
        self.cpu: list[float] = []  # µs of this process for each message, by round
        self.run(warm_up)
        self._forget()

    def run(self, count: int) -> None:
        cpu, start = time.process_time(), time.perf_counter()
        self._work(count)
        self._took += time.perf_counter() - start
        self._used += time.process_time() - cpu
        self._done += count

    def end_round(self) -> None:
        self.rates.append(self._done / self._took)
        self.cpu.append(self._used / self._done * 1e6)
        self._forget()

    _done, _took, _used = 0, 0.0, 0.0  # messages, seconds, seconds of CPU

    def _forget(self) -> None:
        self._done, self._took, self._used = 0, 0.0, 0.0


def race(
    ours: Racer,
    peer: Racer,
    slices: int,
    rounds: int,
    step: Step,
    prepare: Callable[[], None],
    before_slice: Callable[[int], None] = lambda _: None,
) -> None:
    """Both work, in turns: A B, B A, …

    ``prepare`` makes all equal before a round; ``before_slice`` is told how many messages come.
    """
    for number in range(rounds):
        prepare()
        gc.collect()
        for turn in range(slices):
            order = (ours, peer) if (number + turn) % 2 == 0 else (peer, ours)
            for racer in order:
                before_slice(racer.count // slices)
                racer.run(racer.count // slices)
        ours.end_round()
        peer.end_round()
        step()


def as_outcome(name: str, ours: Racer, peer: Racer, slices: int, bar: Bar, note: str) -> Outcome:
    value, spread = compare(ours.rates, peer.rates)
    cpu = f"CPU of the client: {median(ours.cpu):.0f} µs a message, peer {median(peer.cpu):.0f} µs"
    return Outcome(
        name,
        f"{median(ours.rates):,.0f} msg/s",
        f"{median(peer.rates):,.0f} msg/s",
        value,
        "x",
        bar,
        spread,
        (note, cpu),
        details={
            "ours_msg_s": ours.rates,
            "peer_msg_s": peer.rates,
            "ours_cpu_us": ours.cpu,
            "peer_cpu_us": peer.cpu,
            "messages_a_round": (ours.count, peer.count),
            "slices_a_round": slices,
        },
    )
