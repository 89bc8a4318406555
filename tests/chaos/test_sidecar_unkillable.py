"""A broker that can't be killed: nobody gets the lock while it lives, and everybody is told."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from understudy.testing.brokers import Redis
from understudyd.testing.estate import Clients, SidecarEstate, eventually

pytestmark = pytest.mark.chaos

LEASE = 1.0  # s; of the estate's quick timings
ELECTED = "the lock is ours"
FREEZER = Path("/sys/fs/cgroup/freezer")


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Meanwhile not even SIGKILL ends it: the freezer of cgroup v1, as a dead mount does."""
    group = FREEZER / f"understudy-{pid}"
    try:
        group.mkdir()
    except OSError as exc:
        pytest.skip(f"needs root and the freezer of cgroup v1: {exc}")
    try:
        (group / "tasks").write_text(str(pid))
        (group / "freezer.state").write_text("FROZEN")
        eventually(lambda: "FROZEN" in (group / "freezer.state").read_text())
        yield
    finally:
        (group / "freezer.state").write_text("THAWED")
        eventually(lambda: not (group / "tasks").read_text())
        group.rmdir()


@pytest.mark.parametrize("kind", [pytest.param("file", marks=pytest.mark.slow), "redis"])
def test_the_lock_of_a_broker_that_cannot_be_killed_is_kept(
    kind: str, redis_server: Redis, unique: str
) -> None:
    """Catalogue 17: by lease and by file; its node tells that it is no master, and what it could
    not do. When it can be killed after all there is another master."""
    lock = f"redis://127.0.0.1:{redis_server.port}/0?key={unique}" if kind == "redis" else None
    with SidecarEstate(lock) as estate, Clients(estate):
        master = estate.start().master()
        standby = estate.other(master)
        standby.until("/readiness")
        token, broker = master.token, master.broker
        assert broker is not None
        with frozen(broker):
            assert master.post("failover")[0] == 202
            eventually(lambda: "FENCING FAILED, the lock is kept" in master.log)
            time.sleep(2 * LEASE)
            assert os.path.exists(f"/proc/{broker}")
            assert [node.get("/master")[0] for node in (master, standby)] == [503, 503]
            assert standby.said(ELECTED) == []
            assert "fenc" in master.status["state"]
        eventually(lambda: not os.path.exists(f"/proc/{broker}"))
        assert estate.master().token > token
        assert estate.judge() == []
