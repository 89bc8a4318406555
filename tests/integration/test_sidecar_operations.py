"""What operators do, and what hooks and configurations may do wrong."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from understudy.testing.brokers import Redis, free_port
from understudyd.testing.estate import QUICK, Clients, SidecarEstate, eventually

pytestmark = pytest.mark.integration


@pytest.fixture
def estate() -> Iterator[SidecarEstate]:
    with SidecarEstate() as estate, Clients(estate):
        yield estate.start()
        assert estate.judge() == []


@contextlib.contextmanager
def running(**options: Any) -> Iterator[SidecarEstate]:
    with SidecarEstate(**options) as estate, Clients(estate):
        yield estate.start()
        assert estate.judge() == []


@pytest.mark.parametrize("kind", ["file", "redis"])
def test_one_of_five_is_master(kind: str, redis_server: Redis, unique: str) -> None:
    """Catalogue 1: all start at once; each API answers, so that a rollout goes on."""
    uri = f"redis://127.0.0.1:{redis_server.port}/0?key={unique}"
    with running(lock=uri if kind == "redis" else None, names="abcde") as estate:
        master = estate.master()
        others = [node for node in estate.nodes.values() if node is not master]
        for node in others:
            node.until("/readiness")
            assert node.get("/master")[0] == 503
        assert len(estate.reigns()) == 1


def test_switchover_and_back(estate: SidecarEstate) -> None:
    """Catalogue 97: to the node that was named, each with a higher token, told in the history."""
    first = estate.master()
    other = estate.other(first)
    for giver, taker in ((first, other), (other, first)):
        taker.until("/standby")
        giver.move(taker)
        taker.until("/master")
    tokens = [row.token for row in estate.reigns(3)]
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 3
    assert len(other.said(f"{first.name} has the lock, token {tokens[0]}")) == 1
    eventually(lambda: len(_causes(first, "switchover to")) >= 2)


def _causes(node: Any, text: str) -> list[str]:
    code, body = node.get("/history")
    entries = json.loads(body) if code == 200 else []
    return [entry["cause"] for entry in entries if text in entry["cause"]]


def test_a_switchover_without_a_candidate_touches_nothing(estate: SidecarEstate) -> None:
    """Catalogue 97: refused before the master is touched."""
    master = estate.master()
    other = estate.other(master)
    token = master.token
    other.stop()
    eventually(
        lambda: "could not be master now" in master.post("switchover", {"to": other.name})[1]
    )
    assert master.post("switchover", {"to": "nobody"})[0] == 409
    assert master.post("switchover", {"to": master.name})[0] == 409
    assert master.is_master
    assert master.token == token


def test_a_candidate_that_dies_midway_is_waited_for_no_longer_than_a_lease() -> None:
    """Catalogue 97: the old master, or a third, resumes."""
    with running(names="abc", broker={"stop_timeout": "2s"}, witness_options=["--deaf"]) as estate:
        master = estate.master()
        heir, third = (node for node in estate.nodes.values() if node is not master)
        master.move(heir)
        heir.kill()  # while the master still tries to stop its broker
        eventually(lambda: third.is_master or master.is_master)
        eventually(lambda: f"switchover to {heir.name}" in master.log)


def test_nothing_moves_while_paused(estate: SidecarEstate) -> None:
    """Catalogue 98: not even for a dead broker; a resume makes up for it."""
    master = estate.master()
    other = estate.other(master)
    assert other.post("pause")[0] == 202  # any node takes it
    eventually(
        lambda: (
            "paused" in master.status.get("state", "") and "paused" in other.status.get("state", "")
        )
    )
    assert master.post("switchover", {"to": other.name})[0] == 409
    refused = "switchover refused: the group is paused; resume it first"
    eventually(lambda: refused in master.log)
    broker = master.broker
    assert broker is not None
    os.kill(broker, signal.SIGKILL)
    eventually(lambda: "nothing is done about it" in master.log)
    assert not other.is_master
    assert master.get("/master")[0] == 503
    other.stop()
    other.start()  # finds the pause on the board
    eventually(lambda: "paused" in other.status.get("state", ""))
    master.kill()
    time.sleep(2)  # two leases
    assert not other.is_master
    assert other.post("resume")[0] == 202
    eventually(lambda: other.is_master)


def test_a_broker_restarts_in_place_as_often_as_it_may() -> None:
    """Catalogue 9: under the same token, and then the other node takes over."""
    with running(broker={"local_restarts": 1}) as estate:
        master = estate.master()
        token, broker = master.token, master.broker
        assert broker is not None
        os.kill(broker, signal.SIGKILL)
        again = eventually(
            lambda: master.is_master and master.broker not in (None, broker) and master.broker
        )
        assert master.token == token
        os.kill(again, signal.SIGKILL)
        eventually(lambda: estate.other(master).is_master)


def test_a_veto_leaves_the_lock_to_another_node(tmp_path: Path) -> None:
    """Catalogue 93, 94: pre_promote refuses on one node; a hanging post hook holds nobody up."""
    veto = ["sh", "-c", 'test "$UNDERSTUDY_NODE" != a']
    hooks = {
        "pre_promote": veto,
        "post_promote": ["sleep", "3600"],
        "post_promote_timeout": "300ms",
    }
    with running(more={"hooks": hooks}) as estate:
        eventually(lambda: estate["b"].is_master)
        assert [row.pid for row in estate.reigns()] == [estate["b"].broker]
        eventually(lambda: "post_promote failed: no end in time" in estate["b"].log)
        assert estate["b"].is_master


def test_a_group_whose_brokers_never_work_does_not_ping_pong() -> None:
    """Catalogue 96: each node sits out longer and longer."""
    broker = {"start_timeout": "300ms", "health": ["false"]}
    with SidecarEstate(broker=broker) as estate:
        estate.start()
        eventually(
            lambda: sum(len(node.said("not healthy within")) for node in estate.nodes.values()) >= 4
        )
        for node in estate.nodes.values():
            times = node.said("the lock is ours")
            gaps = [after - before for before, after in itertools.pairwise(times)]
            assert all(gap > 1.0 for gap in gaps), gaps  # a lease at least
            assert not node.is_master


def test_the_store_refuses_an_older_master(tmp_path: Path) -> None:
    """Catalogue 90, 92: a lock that knows less than the store's stamp has to learn first."""
    (tmp_path / ".understudy-token").write_text('{"token": 5000, "node": "z"}\n')
    with running(more={"store": str(tmp_path)}) as estate:
        master = estate.master()
        assert master.token > 5000
        assert "stamp of token 5000, of z" in "".join(node.log for node in estate.nodes.values())
        assert min(row.token for row in estate.reigns()) > 5000
    assert json.loads((tmp_path / ".understudy-token").read_text())["token"] > 5000


# --- the lock's store ---------------------------------------------------------------------------


def test_a_lock_file_that_is_replaced_ends_the_reign(estate: SidecarEstate) -> None:
    """Catalogue 51, L03."""
    master = estate.master()
    token = master.token
    path = estate.folder / "orders.lock"
    path.unlink()
    eventually(lambda: "was deleted or replaced" in master.log)
    eventually(lambda: estate.master().token > token)


def test_tokens_rise_when_the_lock_is_lost_while_no_node_is_there() -> None:
    """Catalogue 62: the history knows of the one before."""
    with running(names="a") as estate:
        master = estate.master()
        token = master.token
        eventually(lambda: _causes(master, ""))
        master.kill()
        (estate.folder / "orders.lock").unlink()
        master.start()
        assert estate.master().token > token


def test_redis_may_forget_everything(redis_server: Redis, unique: str) -> None:
    """Catalogue 61, 63: the master writes its record again, nobody takes over."""
    uri = f"redis://127.0.0.1:{redis_server.port}/0?key={unique}"
    with running(lock=uri) as estate:
        master = estate.master()
        token = master.token
        for _ in range(3):
            _redis(redis_server, "DEL", unique)
            time.sleep(0.7)
        assert master.is_master
        assert master.token == token


def test_a_redis_that_stands_still_ends_the_reign(redis_server: Redis, unique: str) -> None:
    """Catalogue 66, 17: fenced at the deadline, and one master when it is back."""
    uri = f"redis://127.0.0.1:{redis_server.port}/0?key={unique}"
    with running(lock=uri) as estate:
        master = estate.master()
        token = master.token
        redis_server.freeze()
        try:
            eventually(lambda: "could not be renewed in time" in master.log)
            assert [node.get("/master")[0] for node in estate.nodes.values()] == [503, 503]
        finally:
            redis_server.thaw()
        eventually(lambda: estate.master().token > token)


def test_a_node_starts_while_its_lock_is_down(unique: str) -> None:
    """Catalogue 3: it waits, its API answers, and it stops at once when told."""
    with SidecarEstate("redis://127.0.0.1:9/0") as estate:
        node = estate["a"].start()
        node.until("/liveness")
        assert node.get("/readiness")[0] == 503
        eventually(lambda: "the lock can't be reached: redis://127.0.0.1:9/0: " in node.log)
        assert node.stop() == 0
        assert node.log.count("the lock can't be reached") == 1


def _redis(server: Redis, *command: str) -> None:
    import redis

    with contextlib.closing(redis.Redis(port=server.port)) as client:
        client.execute_command(*command)


# --- refused ------------------------------------------------------------------------------------


def test_two_nodes_of_one_name(estate: SidecarEstate) -> None:
    """Catalogue 4: the second is refused, the first does not notice."""
    master = estate.master()
    twin = subprocess.run(
        [
            sys.executable, "-c", "from understudyd.cli import main; main()", "sidecar",
            "-c", str(_copy(estate, master.name)), "--node", f"orders/{master.name}",
        ],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert twin.returncode == 2
    assert f"another sidecar of the name '{master.name}' has the lock" in twin.stderr
    assert master.is_master


def test_a_lock_of_another_group_and_other_timings(estate: SidecarEstate) -> None:
    """Catalogue 5, L13."""
    estate.master()
    lock = estate.lock
    with SidecarEstate(lock, group="bills") as strangers:
        node = strangers["a"].start()
        assert node.process is not None
        assert node.process.wait(60) == 2
        assert "the lock is used by group 'orders'" in node.log
    with SidecarEstate(lock, names="cd", timings="fast") as slower:
        node = slower["c"].start()
        assert node.process is not None
        assert node.process.wait(60) == 2
        assert "has lease=3; all nodes of a group need the same timings" in node.log


def test_timings_that_are_too_short_for_the_broker() -> None:
    """Catalogue 6: where it runs the log, the status and the metrics tell; another node might be
    master before it is dead. A node that comes then is refused."""
    fat = "import time; some = b'x' * 400_000_000; time.sleep(1000)"
    broker = {"command": [sys.executable, "-c", fat], "health": ["true"]}
    with SidecarEstate(timings={**QUICK, "kill": "25ms"}, broker=broker) as estate:
        master = estate["a"].start()
        master.until("/master")
        eventually(lambda: master.said("to be killed, but kill of the timings is 0.025 s"))
        eventually(lambda: "to be killed" in str(master.status.get("warnings")))
        for name in ("limit", "estimate"):
            told = f"understudy_kill_{name}_seconds"
            eventually(lambda told=told: told in master.get("/metrics")[1])  # type: ignore[misc]
        standby = estate["b"].start()
        assert standby.process is not None
        assert standby.process.wait(60) == 2
        assert "but kill of the timings is 0.025 s" in standby.log
        assert master.is_master


def test_a_bad_reload_changes_nothing(estate: SidecarEstate) -> None:
    """Catalogue 6."""
    master = estate.master()
    token = master.token
    good = estate.file.read_text()
    estate.file.write_text(good.replace('"200ms"', '"900ms"'))
    master.signal(signal.SIGHUP)
    eventually(lambda: "these timings are not safe" in master.log)
    estate.file.write_text(good.replace('"1s"', '"2s"'))
    code, body = master.post("reload")
    assert code == 409
    assert "timings can't be changed while the sidecar runs" in body
    estate.file.write_text(
        good.replace("[groups.orders.nodes.a]", "[groups.orders.nodes.a]\nweight = 3")
    )
    assert master.post("reload")[0] == 202
    assert master.is_master
    assert master.token == token


def _copy(estate: SidecarEstate, name: str) -> Path:
    """The same configuration, but for the place of the API, which one process has already."""
    place = f"127.0.0.1:{estate[name].api.number}"
    file = estate.folder / "twin.toml"
    file.write_text(estate.file.read_text().replace(place, f"127.0.0.1:{free_port()}"))
    return file
