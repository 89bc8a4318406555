"""The real sidecar asked by API and by command line, while something is broken beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from understudy.testing.brokers import Redis
from understudyd.testing.estate import QUICK, Clients, Sidecar, SidecarEstate, eventually

pytestmark = pytest.mark.integration

SECONDS = 60.0  # nothing here takes so long
COMMAND = [sys.executable, "-c", "from understudyd.cli import main; main()", "cluster"]


@pytest.fixture
def estate() -> Iterator[SidecarEstate]:
    with SidecarEstate() as estate, Clients(estate):
        yield estate.start()
        assert estate.judge() == []


def cluster(estate: SidecarEstate, command: str, *arguments: str) -> Any:
    """What the command says as JSON; None when it failed."""
    words = [*COMMAND, command, "-c", str(estate.file), "--json", *arguments]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=SECONDS, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def reason(node: Sidecar, path: str) -> str:
    """Why it is a 503."""
    code, body = node.get(path)
    return str(json.loads(body)["reason"]) if code == 503 else ""


def test_answers_while_the_lock_is_down(unique: str) -> None:
    """Catalogue 3: standby, not ready, ended within a second; master when the lock comes up."""
    with Redis() as redis:
        redis.kill()
        lock = f"redis://127.0.0.1:{redis.port}/0?key={unique}"
        with SidecarEstate(lock, names="a") as estate:
            a = estate.start()["a"]
            eventually(lambda: a.get("/liveness")[0] == 200)
            assert reason(a, "/readiness")
            assert a.get("/master")[0] == 503
            assert cluster(estate, "list")[0]["master"] is None
            redis.start()
            assert estate.master() is a
            assert a.get("/readiness")[0] == 200


def test_a_sidecar_that_is_cut_off_says_that_it_is_not_ready(unique: str) -> None:
    """Catalogue 40 and 38: without the lock no standby is ready, and no master stays one."""
    with Redis() as redis:
        lock = f"redis://127.0.0.1:{redis.port}/0?key={unique}"
        with SidecarEstate(lock) as estate, Clients(estate):
            master = estate.start().master()
            standby = estate.other(master)
            eventually(lambda: standby.get("/readiness")[0] == 200)
            redis.freeze()
            eventually(lambda: standby.get("/readiness")[0] == 503)
            eventually(lambda: master.get("/master")[0] == 503)
            assert standby.get("/master")[0] == 503
            redis.thaw()
            estate.master()
            assert estate.judge() == []


def test_a_bad_file_is_refused_and_the_running_one_stays(estate: SidecarEstate) -> None:
    """Catalogue 6: at start with exit code 2, at a reload with the reason, and nothing changes."""
    master = estate.master()
    good = estate.file.read_text()
    estate.file.write_text(good.replace('"1s"', '"300ms"'))
    code, body = master.post("reload")
    assert code == 409
    assert "these timings are not safe" in json.loads(body)["reason"]
    assert master.is_master
    standby = estate.other(master)
    assert standby.stop() == 0
    assert standby.start().process is not None
    assert standby.process is not None
    assert standby.process.wait(SECONDS) == 2
    assert "groups.orders.timings can't be used: these timings are not safe" in standby.log
    estate.file.write_text(good)
    assert master.post("reload")[0] == 202
    assert master.is_master


def test_a_frozen_sidecar_is_not_alive_and_goes_on_when_it_thaws() -> None:
    """Catalogue 22 and 27: shorter than its lease nothing else happens."""
    with SidecarEstate(timings={**QUICK, "lease": "5s"}) as estate, Clients(estate):
        master = estate.start().master()
        token = master.token
        master.signal(signal.SIGSTOP)
        eventually(lambda: reason(master, "/liveness").startswith("the sidecar has been silent"))
        master.signal(signal.SIGCONT)
        eventually(lambda: master.is_master)
        assert master.token == token
        assert estate.judge() == []


def test_a_master_whose_api_is_cut_stays_master(estate: SidecarEstate) -> None:
    """Catalogue 49: the other nodes, and the command line, tell who it is."""
    master = estate.master()
    token = master.token
    api = master.answerer
    assert api is not None
    eventually(lambda: '"role": "master"' in estate.other(master).get("/cluster")[1])
    os.kill(api, signal.SIGSTOP)
    (seen,) = cluster(estate, "list")
    assert (seen["master"], seen["token"], seen["source"]) == (master.name, token, "api")
    assert seen["errors"].keys() == {master.name}
    assert {node["role"] for node in seen["nodes"]} == {"master", "standby"}
    # frozen for long it is replaced
    eventually(lambda: master.is_master and master.answerer not in (None, api))
    assert master.token == token


def test_commands_need_the_token_and_roles_do_not(estate: SidecarEstate) -> None:
    """Catalogue 101."""
    master = estate.master()
    assert master.get("/pause")[0] == 405
    token = master.token
    assert master.get("/cluster")[0] == 200
    estate.file.write_text(estate.file.read_text().replace("let-me-in", "changed"))
    master.signal(signal.SIGHUP)
    eventually(lambda: master.post("pause")[0] == 401)
    assert master.token == token


def test_a_board_that_is_full_or_gone_costs_no_master(estate: SidecarEstate) -> None:
    """Catalogue 102: what the board is on may break; the API tells, the group goes on."""
    master = estate.master()
    token = master.token
    board = estate.folder / "orders.lock.board"
    board.rename(estate.folder / "away")
    board.write_text("no folder")
    eventually(lambda: "understudy_board_failures_total" in _failures(master.get("/metrics")[1]))
    assert master.is_master
    assert master.token == token
    board.unlink()
    eventually(lambda: (board / "nodes" / f"{master.name}.json").exists())


def _failures(text: str) -> str:
    """The counter's line, once it is above 0."""
    lines = [line for line in text.splitlines() if "board_failures_total{" in line]
    return next((line for line in lines if float(line.split()[-1]) > 0), "")


def test_a_log_that_is_full_costs_no_master() -> None:
    """Catalogue 102: nothing can be told any more, and all is done as ever."""
    with SidecarEstate() as estate, Clients(estate):
        for node in estate.nodes.values():
            node.prefix = ("sh", "-c", 'exec "$@" >/dev/full 2>&1', "sh")
        master = estate.start().master()
        other = estate.other(master)
        other.until("/readiness")
        master.move(other)
        other.until("/master")
        master.until("/readiness")
        other.kill()
        master.until("/master")
        assert (master.log, other.log) == ("", "")
        assert estate.judge() == []


def test_a_hook_that_fails_does_not_change_the_role_that_is_told() -> None:
    """Catalogue 88 and 94: who labels pods after a promotion may fail; /master is the truth."""
    hooks = {"post_promote": "false"}
    with SidecarEstate(more={"hooks": hooks}) as estate, Clients(estate):
        master = estate.start().master()
        eventually(lambda: master.said("post_promote"))
        assert master.is_master
        assert estate.other(master).get("/master")[0] == 503
        assert estate.judge() == []


def test_is_moved_and_paused_by_the_command_line(estate: SidecarEstate) -> None:
    """Catalogue 97 and 98, through the API and through the board."""
    before = estate.master()
    other = estate.other(before)
    eventually(lambda: other.get("/readiness")[0] == 200)
    eventually(lambda: other.name in _ready(cluster(estate, "list")))
    done = cluster(estate, "switchover", "--to", other.name)
    assert (done["master"], done["way"]) == (other.name, "api")
    assert cluster(estate, "pause") == {"group": "orders", "paused": True, "way": "api"}
    assert cluster(estate, "switchover") is None  # refused while it is paused
    assert cluster(estate, "resume")["paused"] is False
    causes = [entry["cause"] for entry in json.loads(other.get("/history")[1])]
    assert any("switchover" in cause for cause in causes)


def _ready(looks: Any) -> list[str]:
    return [node["name"] for look in looks for node in look["nodes"] if node["healthy"]]


def test_is_moved_through_the_board_without_a_token(estate: SidecarEstate) -> None:
    before = estate.master()
    other = estate.other(before)
    eventually(lambda: other.name in _ready(cluster(estate, "list")))
    text = estate.file.read_text()
    estate.file.write_text(text.replace('token = "let-me-in"\n', ""))
    done = cluster(estate, "switchover", "--to", other.name)
    assert (done["master"], done["way"]) == (other.name, "board")
