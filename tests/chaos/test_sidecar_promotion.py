"""Who is promoted, and what may go wrong between the lock and the master."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from understudy.testing.brokers import Redis
from understudyd.testing.estate import QUICK, Clients, Sidecar, SidecarEstate, eventually
from understudyd.testing.sentinels import Sentinels

pytestmark = pytest.mark.chaos

LEASE = 1.0  # s; of the estate's quick timings
BUDGET = 0.75  # s; the last renewal of a master is no older
ELECTED = "the lock is ours"


@contextlib.contextmanager
def running(lock: str | None = None, **options: Any) -> Iterator[SidecarEstate]:
    with SidecarEstate(lock, **options) as estate, Clients(estate):
        yield estate.start()
        assert estate.judge() == []


def test_the_heaviest_that_may_goes_first() -> None:
    """Catalogue 89, 90: each next one when the best is killed; who is not to be master never is,
    not even when nobody else is left."""
    weights = {"a": 1, "b": 3, "c": 2, "d": 9}

    def weight(node: Sidecar) -> dict[str, Any]:
        return {"node": {"weight": weights[node.name], "nofailover": node.name == "d"}}

    with running(names="abcd", per_node=weight) as estate:
        first = estate.master()
        others = [node for node in estate.nodes.values() if node is not first]
        for node in others:
            eventually(lambda node=node: len(_standbys(node)) == 3)  # type: ignore[misc]
        left = sorted((node for node in others if node.name != "d"), key=lambda n: -weights[n.name])
        first.kill()
        for node in left:
            eventually(lambda: any(one.is_master for one in left))
            assert node.is_master
            node.kill()
        time.sleep(2 * LEASE)
        assert not estate["d"].is_master
        assert estate["d"].said(ELECTED) == []


def _standbys(node: Sidecar) -> list[str]:
    """Of whom this node knows that they could take over."""
    code, body = node.get("/cluster")
    rows = json.loads(body)["nodes"] if code == 200 else []
    return [row["name"] for row in rows if row["role"] == "standby" and row["healthy"]]


def test_a_sidecar_that_is_frozen_before_its_promotion_is_not_promoted(
    redis_server: Redis, unique: str
) -> None:
    """Catalogue 29: its hook freezes it, between the lock and the broker, for more than a lease.
    The other is master by then, and the broker of the thawed one is never started."""
    lock = f"redis://127.0.0.1:{redis_server.port}/0?key={unique}"
    freeze = 'test "$UNDERSTUDY_NODE" != a || kill -STOP $PPID'
    with running(lock, more={"hooks": {"pre_promote": ["sh", "-c", freeze]}}) as estate:
        a, b = estate["a"], estate["b"]
        if eventually(lambda: _is_stopped(a) or b.is_master) and b.is_master:
            b.move(a)
            eventually(lambda: _is_stopped(a))
        eventually(lambda: b.is_master)
        a.signal(signal.SIGCONT)
        a.until("/standby")
        assert b.is_master
        assert "starting the broker" not in a.log


def _is_stopped(node: Sidecar) -> bool:
    with open(f"/proc/{node.pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("is_done", [pytest.param(True, marks=pytest.mark.slow), False])
def test_the_old_master_is_fenced_where_nobody_can_say_that_it_is_dead(
    is_done: bool, redis_server: Redis, unique: str
) -> None:
    """Catalogue 95, I6: before the promotion and after its lease; a hook that fails is told of, and
    the lease alone decides."""
    lock = f"redis://127.0.0.1:{redis_server.port}/0?key={unique}"
    told = 'echo "$UNDERSTUDY_OLD_MASTER $UNDERSTUDY_NODE $UNDERSTUDY_LOCK_TOKEN" >> fenced'
    hook = ["sh", "-c", f"cd {{folder}} && {told}; {'true' if is_done else 'exit 7'}"]
    with SidecarEstate(lock) as estate, Clients(estate):
        words = [word.format(folder=estate.folder) for word in hook]
        estate.write(hooks={"fence": words})
        master = estate.start().master()
        standby = estate.other(master)
        standby.until("/readiness")
        dead = master.kill_all()
        eventually(lambda: standby.is_master)
        token = standby.token
        fenced = (estate.folder / "fenced").read_text().splitlines()
        assert fenced == [f"{master.name} {standby.name} {token}"]
        assert standby.said(ELECTED)[-1] >= dead + LEASE - BUDGET
        assert ("the hook fence failed" in standby.log) is not is_done
        assert estate.judge() == []


@pytest.mark.slow
def test_a_starved_machine_fails_nobody_over() -> None:
    """Catalogue 28: sixteen that spin beside sidecars of less right, on one processor."""
    (processor, *_) = os.sched_getaffinity(0)
    pin = ("taskset", "--cpu-list", str(processor))
    spin = [*pin, "timeout", "60", "sh", "-c", "while :; do :; done"]
    with SidecarEstate(timings="normal") as estate, Clients(estate):
        for node in estate.nodes.values():
            node.prefix = (*pin, "nice", "-n", "5")
        master = estate.start().master()
        standby = estate.other(master)
        standby.until("/readiness")
        token = master.token
        spinners = [subprocess.Popen(spin) for _ in range(16)]
        try:
            time.sleep(7)  # more than a lease
        finally:
            for spinner in spinners:
                spinner.terminate()
                spinner.wait()
        assert eventually(lambda: master.is_master)
        assert (master.token, standby.said(ELECTED)) == (token, [])
        assert estate.judge() == []


def test_a_failover_of_the_sentinels_lets_no_old_master_live_on() -> None:
    """Catalogue 64: the promoted replica shows the old record. Nobody believes it: either its
    holder has renewed it there in time, or it is dead and the token rises."""
    timings = {**QUICK, "lease": "2500ms", "renew": "500ms", "attempt": "500ms"}
    with Sentinels() as lab, running(lab.uri, timings=timings) as estate:
        master = estate.master()
        standby = estate.other(master)
        standby.until("/readiness")
        token = master.token
        lab.servers[0].freeze()
        eventually(lambda: lab.named(lab.sentinels[0]) != lab.servers[0].port)
        eventually(lambda: estate.master().token > token)
        lab.servers[0].thaw()  # with the record of the old master, and a primary still
        time.sleep(1)
        after = estate.master()
        assert after.token > token
        tokens = [row.token for row in estate.reigns(2)]
        assert tokens == sorted(tokens)
