"""What a process keeps of its failovers: memory, threads and file descriptors after 5 and 100.

The process is a child (`endurance_child`), the brokers are two proxies in front of one node, and
each failover is the cut of all connections through the proxy in use.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.lab import Lab
from tests.bench.outcome import Bar, Case, Outcome, Step

from understudy.testing import FaultProxy
from understudy.testing.brokers import RabbitMQ

__all__ = ["CASES"]

CHILD = Path(__file__).with_name("endurance_child.py")
EARLY, LATE = 5, 100  # failovers
GRACE = 60.0  # s for the child to end


def _measured(node: RabbitMQ, options: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the child measured after `EARLY` and after `LATE` failovers."""
    with (
        FaultProxy(node.host, node.port) as one,
        FaultProxy(node.host, node.port) as other,
    ):
        proxies = {proxy.port: proxy for proxy in (one, other)}
        uris = ",".join(f"amqp://guest:guest@127.0.0.1:{port}" for port in proxies)
        child = subprocess.Popen(
            [sys.executable, str(CHILD), f"failover:({uris})?{options}", str(EARLY), str(LATE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        results: list[dict[str, Any]] = []
        try:
            with child.stdin, child.stdout:
                for line in child.stdout:
                    told = json.loads(line)
                    if "cut" in told:
                        proxies[told["cut"]].reset()
                        child.stdin.write("done\n")
                        child.stdin.flush()
                    else:
                        results.append(told)
            child.wait(GRACE)
        finally:
            child.kill()
            child.wait()
    if child.returncode or len(results) != 2:
        raise RuntimeError(f"the child ended with {child.returncode} after {len(results)} results")
    return results[0], results[1]


def memory(name: str, options: str, lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    node = lab.node()
    pairs = []
    for _ in range(rounds):
        pairs.append(_measured(node, options))
        step()
    growths = [(late["rss"] - early["rss"]) / 1e6 for early, late in pairs]
    worst = max(range(rounds), key=lambda i: growths[i])
    early, late = pairs[worst]
    flaws = tuple(
        f"{what}: {before[what]} after {EARLY} failovers, {after[what]} after {LATE}"
        for before, after in pairs
        for what in ("threads", "descriptors")
        if before[what] != after[what]
    )
    spread = f"{min(growths):+.2f}..{max(growths):+.2f} (min..max)" if rounds > 1 else ""
    counts = f"{late['threads']} threads and {late['descriptors']} descriptors at the end"
    return [
        Outcome(
            name,
            f"{late['rss'] / 1e6:.1f} MB",
            f"{early['rss'] / 1e6:.1f} MB",
            growths[worst],
            " MB",
            Bar(1.0, at_most=True),
            spread,
            (
                f"resident memory after {LATE} failovers beside after {EARLY}, {options}",
                counts if flaws else f"{counts}, as after {EARLY} failovers",
            ),
            flaws,
            {"early": early, "late": late, "growth_mb": growths},
        )
    ]


CASES = (
    Case("memory", 1, partial(memory, "memory", "initialReconnectDelay=0")),
    Case(
        "memory-tracked",
        1,
        partial(memory, "memory-tracked", "initialReconnectDelay=0&trackMessages=true&backup=true"),
    ),
)
