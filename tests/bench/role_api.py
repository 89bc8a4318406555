"""How fast a sidecar tells its role while something else keeps it busy, and what that costs.

A probe is a new connection and one ``GET /master``, as balancers make them. The sidecar is one
without a lock (`understudyd.testing.publisher`), whose interpreter two threads keep occupied. The
prober goes before all of them, where the kernel allows it: what it waits for a processor itself is
no time of the API's, and a balancer is on another machine.
"""

from __future__ import annotations

import http.client
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial

from tests.bench.lab import Lab
from tests.bench.measures import memory, percentile
from tests.bench.outcome import Bar, Case, Outcome, Step

from understudy.testing.brokers import free_port
from understudyd.api.page import Snapshot
from understudyd.api.words import Settings
from understudyd.config.model import Api, Place
from understudyd.status import (
    BrokerStatus,
    ClusterStatus,
    HistoryEntry,
    NodeStatus,
    Role,
    stamp,
)
from understudyd.testing import publisher

__all__ = ["CASES"]

BUSY = 2  # threads that want the sidecar's interpreter
SLOW = 3900  # clients, just below what the API keeps
PROBES = 400  # in a round
PAUSE = 0.002  # s between two probes
PROBER = -15  # its niceness

STATUS = NodeStatus("g", "a", Role.MASTER, "master", 7, None, "a")
ENTRY = HistoryEntry(7, "a", Role.MASTER, stamp(0), "a let go: its sidecar died", 0.5)
SNAPSHOT = Snapshot(STATUS, ClusterStatus("g", "file:/x", "a", 7), (ENTRY,) * 100)


@contextmanager
def _sidecar(busy: int, slow: int) -> Iterator[tuple[int, int]]:
    """The API's port and process."""
    with ExitStack() as stack:
        port = free_port()
        settings = Settings(Place("127.0.0.1", port), Api())
        broker = BrokerStatus(True, os.getpid())
        snapshot = replace(SNAPSHOT, status=replace(STATUS, broker=broker))
        pid = _started(stack, publisher.arguments(settings, snapshot, busy=busy))
        if slow:
            words = ["-m", "understudyd.testing.slow_clients", str(port), str(slow)]
            _started(stack, [sys.executable, *words])
        yield port, pid


def _started(stack: ExitStack, words: Sequence[str]) -> int:
    """The number that it prints when it is ready."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    stack.callback(process.stdout.close)
    return int(process.stdout.readline())


def probing(name: str, busy: int, slow: int, lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    samples: list[float] = []
    wrong = 0
    with _sidecar(busy, slow) as (port, pid), _first():
        for _ in range(rounds):
            for _ in range(PROBES):
                began = time.perf_counter()
                wrong += _probe(port) != 200
                samples.append(1000 * (time.perf_counter() - began))
                time.sleep(PAUSE)
            step()
        pss = memory(pid)
    samples.sort()
    return [
        Outcome(
            name,
            f"{percentile(samples, 0.99):.2f} ms",
            "-",
            percentile(samples, 0.99),
            "ms",
            Bar(5, at_most=True),
            spread=f"median {statistics.median(samples):.2f}, p99.9 "
            f"{percentile(samples, 0.999):.2f}, max {samples[-1]:.2f}",
            notes=(f"99 % of {len(samples)} probes of /master; API process {pss:.1f} MB",),
            flaws=(f"{wrong} probes were no 200",) if wrong else (),
            details={"samples_ms": [round(sample, 3) for sample in samples], "pss_mb": pss},
        )
    ]


@contextmanager
def _first() -> Iterator[None]:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PROBER)
    yield
    os.setpriority(os.PRIO_PROCESS, 0, before)


def _probe(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/master")
        with connection.getresponse() as response:
            response.read()
        return response.status
    finally:
        connection.close()


CASES = tuple(
    Case(name, 10, partial(probing, name, busy, slow))
    for name, busy, slow in (
        ("role-busy", BUSY, 0),
        ("role-slow-clients", 0, SLOW),
        ("role-both", BUSY, SLOW),
    )
)
