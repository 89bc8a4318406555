"""How fast a master/slave group gets its next master, and what an idle sidecar costs.

The brokers are witnesses (`understudyd.testing.witness`), which start and stop in no time worth
mentioning, so that what is measured is the group and not the broker; RabbitMQ only where a client
publishes. Moments are those of the sidecars' logs, to the millisecond, beside the clock of the
process that kills.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    closing,
    contextmanager,
    nullcontext,
    suppress,
)
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.lab import BODY, QUEUE, Lab
from tests.bench.measures import memory, percentile, processor
from tests.bench.outcome import Bar, Case, Outcome, Step

import understudy.pika
from understudy.testing.brokers import RabbitMQ, Redis
from understudyd.testing.estate import Clients, Sidecar, SidecarEstate, children, eventually
from understudyd.testing.network import estate_apart
from understudyd.testing.real import SharedBrokers

__all__ = ["CASES"]

ELECTED = "the lock is ours"
BOOT = 120.0  # s for a RabbitMQ to start, at most
IDLE = 20.0  # s that an idle group is looked at
LEASE = 3.0  # s, of the preset fast
SETTLE = 5.0  # s after the election, before that
RESTFUL = {"health_interval": "1s"}  # the default; the estate asks more often

Lock = Callable[[], AbstractContextManager[str | None]]


@contextmanager
def _redis() -> Iterator[str]:
    with Redis() as server:
        yield f"redis://{server.host}:{server.port}/0"


LOCKS: dict[str, Lock] = {"file": lambda: nullcontext(None), "redis": _redis}


def _kill_broker(node: Sidecar) -> None:
    broker = node.broker
    assert broker is not None
    os.kill(broker, signal.SIGKILL)


def _kill_sidecar(node: Sidecar) -> None:
    os.kill(node.pid, signal.SIGKILL)


def _kill_both(node: Sidecar) -> None:
    broker = node.broker
    assert broker is not None
    os.kill(node.pid, signal.SIGKILL)
    with suppress(ProcessLookupError):  # the guard may be faster
        os.kill(broker, signal.SIGKILL)


VICTIMS = {"broker": _kill_broker, "sidecar": _kill_sidecar, "both": _kill_both}


def _pair(estate: SidecarEstate) -> tuple[Sidecar, Sidecar]:
    """The master and the standby, once the one is healthy and the other ready."""
    master = estate.master()
    standby = estate.other(master)
    if not standby.is_running:
        standby.start()
    eventually(lambda: standby.get("/readiness")[0] == 200)
    return master, standby


def takeover(
    kind: str, victim: str, bar: float, lab: Lab, rounds: int, step: Step
) -> list[Outcome]:
    """From SIGKILL until the standby has the lock."""
    samples = []
    with LOCKS[kind]() as lock, SidecarEstate(lock, timings="fast") as estate:
        estate.start()
        for _ in range(rounds):
            master, standby = _pair(estate)
            before = len(standby.said(ELECTED))
            moment = time.time()
            VICTIMS[victim](master)
            eventually(partial(_said_more, standby, before))
            samples.append(standby.said(ELECTED)[-1] - moment)
            if victim == "broker":
                master.stop()  # else it sits out for longer each time: its reigns ended badly
            else:
                assert master.process is not None
                master.process.wait()
            step()
        overlaps = estate.judge()
    name = f"takeover-{kind}-{victim}"
    about = f"SIGKILL of the {victim if victim != 'both' else 'sidecar and the broker'} to elected"
    return [_outcome(name, samples, bar, about, flaws=overlaps)]


def host_cut(lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    """From the network of the master's host being cut until the standby has the lock."""
    samples = []
    with estate_apart(timings="fast") as (estate, network), Clients(estate.start()):
        for _ in range(rounds):
            master, standby = _pair(estate)
            before = len(standby.said(ELECTED))
            moment = time.time()
            network.cut(master.name)
            eventually(partial(_said_more, standby, before))
            samples.append(standby.said(ELECTED)[-1] - moment)
            network.heal(master.name)
            step()
        overlaps = estate.judge()
    about = "network of the master's host cut to elected; its clients were cut off with it"
    return [_outcome("takeover-host-cut", samples, LEASE + 0.3, about, flaws=overlaps)]


def _said_more(node: Sidecar, before: int) -> bool:
    return len(node.said(ELECTED)) > before


def first_publish(lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    """A publisher that waits out a takeover between RabbitMQ nodes of one data folder."""
    samples = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        brokers = stack.enter_context(closing(SharedBrokers("rabbitmq", folder)))
        estate = SidecarEstate(
            timings="fast",
            per_node=lambda node: brokers.keys(node.name),
            more={"store": str(folder / "data")},
        )
        first = stack.enter_context(estate).start().master(BOOT)
        uri = brokers.uri(maxReconnectDelay=100, timeout=int(BOOT * 1000), randomize="false")
        connection = stack.enter_context(closing(understudy.pika.BlockingConnection(uri)))
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True)
        channel.confirm_delivery()
        server = brokers.servers[first.name]
        assert isinstance(server, RabbitMQ)
        server.settle()  # the queue itself, which Mnesia keeps in a cache for two seconds
        for _ in range(rounds):
            master, standby = _pair(estate)
            channel.basic_publish("", QUEUE, BODY)
            _kill_both(master)
            channel.basic_publish("", QUEUE, BODY)
            confirmed = time.time()
            eventually(lambda standby=standby: standby.is_master)  # type: ignore[misc]
            samples.append(confirmed - standby.said("master after")[-1])
            assert master.process is not None
            master.process.wait()
            step()
    about = "RabbitMQ found healthy (asked each 300 ms) to the first confirm, maxReconnectDelay=100"
    return [_outcome("takeover-first-publish", samples, 0.2, about)]


def switchover(lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    """A planned one: all the time without a master that is neither the broker's own stop nor its
    start."""
    samples, waits = [], []
    with SidecarEstate(timings="fast") as estate:
        estate.start()
        for _ in range(rounds):
            old, new = _pair(estate)
            eventually(partial(_is_known_as_ready, old, new))
            before = len(new.said(ELECTED))
            moment = time.time()
            old.post("switchover", {"to": new.name})
            eventually(partial(_said_more, new, before))
            eventually(lambda new=new: new.is_master)  # type: ignore[misc]
            waits.append(old.said("stopping the broker")[-1] - moment)
            handed_over = new.said("starting the broker")[-1] - old.said("the broker has ended")[-1]
            samples.append(handed_over)
            step()
        overlaps = estate.judge()
    about = (
        "switchover: broker dead to the other's start; before, with the master untouched, "
        f"{statistics.median(waits):.1f} s (median) for another word of the heir"
    )
    return [_outcome("switchover-gap", samples, 0.1, about, flaws=overlaps)]


def _is_known_as_ready(node: Sidecar, other: Sidecar) -> bool:
    """Whether the board, which lags behind, shows this node that the other could be master."""
    cluster = json.loads(node.get("/cluster")[1])
    return any(row["name"] == other.name and row["healthy"] for row in cluster["nodes"])


def _outcome(
    name: str, samples: Sequence[float], bar: float, about: str, flaws: Sequence[str] = ()
) -> Outcome:
    ordered = sorted(samples)
    tenth = percentile(ordered, 0.9)
    return Outcome(
        name,
        f"{statistics.median(ordered) * 1000:.0f} ms",
        "-",
        tenth,
        " s",
        Bar(bar, at_most=True),
        f"{ordered[0] * 1000:.0f}..{ordered[-1] * 1000:.0f} ms (min..max)",
        (about, f"median, and the 90th percentile of {len(ordered)} against the bar"),
        tuple(flaws),
        {"samples_s": list(samples)},
    )


# --- at rest --------------------------------------------------------------------------------------


def _family(pid: int, broker: int | None) -> list[int]:
    """A sidecar's processes, without the broker and what that started."""
    below = [one for child in children(pid) if child != broker for one in _family(child, broker)]
    return [pid, *below]


def idle(lab: Lab, rounds: int, step: Step) -> list[Outcome]:
    """Memory and processor time of a master's sidecar and of a standby's, with all they consist
    of; the worse of the two."""
    with LOCKS["redis"]() as lock, SidecarEstate(lock, timings="normal", broker=RESTFUL) as estate:
        estate.start()
        families = [_family(node.pid, node.broker) for node in _pair(estate)]
        time.sleep(SETTLE)
        before = [sum(map(processor, family)) for family in families]
        time.sleep(IDLE)
        after = [sum(map(processor, family)) for family in families]
        pss = [sum(map(memory, family)) for family in families]
    step()
    loads = [100 * (late - early) / IDLE for early, late in zip(before, after, strict=True)]
    about = f"control, API process, watcher and guard, {len(families[0])} processes in all"
    return [
        Outcome(
            "sidecar-memory",
            f"{max(pss):.0f} MB",
            "-",
            max(pss),
            " MB",
            Bar(90, at_most=True),
            notes=(about, "PSS"),
            details={"mb": pss},
        ),
        Outcome(
            "sidecar-processor",
            f"{max(loads):.2f} %",
            "-",
            max(loads),
            " %",
            Bar(0.5, at_most=True),
            notes=(about, f"of a core, over {IDLE:g} s, preset normal, Redis"),
            details={"percent": loads},
        ),
    ]


CASES = (
    *(
        Case(f"takeover-{kind}-{victim}", 20, partial(takeover, kind, victim, bar))
        for kind, bar in (("file", 0.05), ("redis", 0.5))
        for victim in VICTIMS
    ),
    Case("takeover-host-cut", 5, host_cut),
    Case("takeover-first-publish", 2, first_publish),
    Case("switchover-gap", 20, switchover),
    Case("sidecar-idle", 1, idle),
)
