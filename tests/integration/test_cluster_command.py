"""``understudy cluster`` shows who is master, from APIs and boards, and how it ends."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from rich.console import Console

from understudyd.cli.cluster import show
from understudyd.cli.cluster.look import Look, look
from understudyd.config import load
from understudyd.lock.open import GROUP
from understudyd.status import (
    ClusterStatus,
    HistoryEntry,
    Member,
    Role,
    stamp,
)
from understudyd.testing.commanded import COMMAND, SECONDS, Call, Estate, run
from understudyd.testing.terminal import on_terminal

pytestmark = pytest.mark.integration


def test_lists_by_the_nodes_own_word(estate: Estate, cluster: Call) -> None:
    estate.start("a", "b")
    done = cluster("list")
    assert done.returncode == 0
    assert (
        done.stdout.splitlines()[0]
        == f"group g master a token 3 lock file:{estate.file.parent}/g.lock"
    )
    assert done.stdout.splitlines()[1].startswith("node g/a master state master token 3 healthy")
    assert done.stdout.splitlines()[2].startswith("node g/b standby state standby healthy")
    (told,) = json.loads(cluster("list", "--json", "g").stdout)
    assert (told["group"], told["master"], told["token"], told["source"]) == ("g", "a", 3, "api")
    assert {node["name"]: node["role"] for node in told["nodes"]} == {"a": "master", "b": "standby"}


@pytest.mark.parametrize("words", [("list",), ("watch", "--count", "2", "--interval", "10ms")])
def test_shows_a_table_on_a_terminal(estate: Estate, words: tuple[str, ...]) -> None:
    estate.start("a", "b")
    shown = on_terminal([*COMMAND, *words, "-c", str(estate.file)])
    assert "master a token 3" in shown
    assert "standby" in shown
    assert "───────" in shown


def test_tables_are_folded_and_not_cut_on_a_narrow_terminal() -> None:
    members = (
        Member(
            "a", Role.MASTER, "master (paused)", 1, "mq1.example.org:8801", True, 0.1, token=1000
        ),
        Member(
            "b", Role.NONE, "silent (was standby)", 1, "mq2.example.org:8801", False, 99.0, True
        ),
    )
    look = Look(ClusterStatus("g", "file:g.lock", "a", 1000, members), "api")
    entry = HistoryEntry(1000, "a", Role.MASTER, stamp(9), "b let go: the broker is ill", 0.5)
    for width in (60, 80):
        paper = io.StringIO()
        console = Console(width=width, file=paper)
        console.print(show.tables([look, look]))
        console.print(show.history_table([entry]))
        told = paper.getvalue()
        assert "…" not in told
        assert max(map(len, told.splitlines())) <= width
    assert "1970-01-01 00:00:09  1000   a     master" in told


def test_shows_what_others_say_of_a_node_that_is_silent(estate: Estate, cluster: Call) -> None:
    estate.start("b")
    done = cluster("list")
    assert done.returncode == 0
    assert "group g master a token 3" in done.stdout
    assert "note g a does not answer: Connection refused" in done.stdout


def test_shows_what_somebody_should_see_to(estate: Estate, cluster: Call) -> None:
    estate.warnings = ("the lock does not answer: refused",)
    estate.start("a", "b")
    assert "note g a: the lock does not answer: refused\n" in cluster("list").stdout
    assert json.loads(cluster("list", "--json").stdout)[0]["warnings"] == {
        name: ["the lock does not answer: refused"] for name in "ab"
    }


@pytest.mark.parametrize("command", ["pause", "resume", "history"])
def test_says_that_neither_sidecar_nor_board_can_be_reached(
    estate: Estate, cluster: Call, command: str
) -> None:
    text = estate.file.read_text().replace('"file:g.lock"', '"redis://127.0.0.1:1"')
    estate.file.write_text(text)
    done = cluster(command)
    assert done.returncode == 1
    assert "no sidecar" in done.stderr
    assert "the board beside the lock can't be" in done.stderr
    assert "redis://127.0.0.1:1" in done.stderr


@pytest.mark.parametrize("command", ["list", "pause", "history"])
def test_a_lock_of_no_known_kind_ends_with_2(estate: Estate, cluster: Call, command: str) -> None:
    text = estate.file.read_text().replace('"file:g.lock"', '"reddis://h"')
    estate.file.write_text(text)
    done = cluster(command)
    assert done.returncode == 2
    assert "groups.g.lock: no lock has the scheme" in done.stderr
    assert 'did you mean "redis:"' in done.stderr


def test_a_lock_of_others_may_have_no_board(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = estate.file.read_text().replace('"file:g.lock"', '"etcd://h"')
    estate.file.write_text(text)
    points = EntryPoints([EntryPoint("etcd", "understudyd.lock.memory:MemoryBackend", GROUP)])
    monkeypatch.setattr(metadata, "entry_points", lambda **wanted: points.select(**wanted))
    others = load(estate.file, {})
    seen = look(others, others.groups["g"])
    assert (seen.source, seen.errors["board"]) == ("", "locks of etcd: have no board")


def test_who_says_it_is_standby_is_not_shown_as_master(estate: Estate, cluster: Call) -> None:
    """Its own word goes before what it last saw of a lock that it can't reach any more."""
    estate.member = lambda name: Member(name, Role.STANDBY, "standby", seen_s=0.0)  # type: ignore[method-assign]
    estate.start("a", "b")
    assert cluster("list").stdout.startswith("group g no master lock")


def test_lists_from_the_board_when_no_api_answers(estate: Estate, cluster: Call) -> None:
    estate.board.publish(estate.member("a"))
    done = cluster("list")
    assert done.returncode == 0
    assert "group g master a token 3" in done.stdout
    assert "node g/b unknown" in done.stdout
    assert "no API answers: this is what the nodes last wrote on the board" in done.stdout


def test_fails_when_nothing_is_known(estate: Estate, cluster: Call) -> None:
    (estate.file.parent / "g.lock.board").write_text("no folder")
    done = cluster("list")
    assert done.returncode == 1
    assert "nothing is known" in done.stdout


def test_says_loudly_that_two_are_master(estate: Estate, cluster: Call) -> None:
    estate.member = lambda name: Member(name, Role.MASTER, "master", token=3, seen_s=0.0)  # type: ignore[method-assign]
    estate.start("a", "b")
    assert "MORE THAN ONE NODE SAYS IT IS MASTER: a, b" in cluster("list").stdout


def test_a_sidecar_does_not_import_what_prints_tables(tmp_path: Path) -> None:
    """It costs memory for as long as the sidecar runs."""
    code = (
        "import sys; from understudyd.cli.app import run; "
        f"run(['sidecar', '-c', '{tmp_path}/none', '--node', 'g/a']); "
        "import understudyd.sidecar.service; print('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert "can't be read: No such file" in done.stderr


def test_without_h11_a_sidecar_tells_the_pip_command() -> None:
    code = (
        "import sys; from understudyd.cli.app import run; sys.modules['h11'] = None; "
        "sys.exit(run(['sidecar', '-c', 'none', '--node', 'g/a']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == 'understudy: h11 is not installed: pip install "understudy[sidecar]"\n'


def test_shows_the_history(estate: Estate, cluster: Call) -> None:
    """I9."""
    entry = HistoryEntry(2, "b", Role.MASTER, stamp(8), "from the board", 1.5)
    estate.board.append(entry)
    assert cluster("history").stdout == (
        "1970-01-01T00:00:08.000Z token 2 b master after 1.5 s: from the board\n"
    )
    estate.start("a")
    (told,) = json.loads(cluster("history", "--json").stdout)
    assert (
        told
        == replace(entry, token=3, node="a", at=stamp(9), cause="told so", took_s=0.5).to_json()
    )


def test_prints_the_uris_without_credentials(estate: Estate, cluster: Call) -> None:
    estate.master = "b"
    estate.start("a", "b")
    assert cluster("uris").stdout == "amqp://h-b:5672,amqp://h-a:5672\n"
    assert json.loads(cluster("uris", "--json").stdout) == ["amqp://h-b:5672", "amqp://h-a:5672"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "nope"), "groups has no 'nope' (there are: g)"),
        (("switchover", "--to", "c"), "g has no node c (there are: a, b)"),
        (("watch", "--interval", "5"), '"5" must be a duration with its unit'),
    ],
)
def test_wrong_use_ends_with_2(
    estate: Estate, cluster: Call, arguments: tuple[str, ...], message: str
) -> None:
    done = cluster(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_certificates_that_are_none_end_with_2(estate: Estate, cluster: Call) -> None:
    estate.file.write_text(estate.file.read_text() + 'tls_ca = "absent.pem"\n')
    done = cluster("list")
    assert done.returncode == 2
    assert "api.tls_ca: " in done.stderr
    assert "absent.pem holds no certificates: [Errno 2]" in done.stderr


def test_speaks_tls_to_the_api(tmp_path: Path, certificate: Path) -> None:
    with contextlib.ExitStack() as stack:
        estate = Estate(tmp_path, stack)
        text = estate.file.read_text().replace("127.0.0.1", "localhost")
        text += f'tls_cert = "{certificate}"\ntls_key = "{certificate}"\n'
        estate.file.write_text(text + f'tls_ca = "{certificate}"\n')
        estate.estate = load(estate.file, {})
        estate.group = estate.estate.groups["g"]
        estate.start("a")
        assert run("list", "-c", str(estate.file)).stdout.startswith("group g master a token 3")
        estate.file.write_text(text)
        done = run("list", "-c", str(estate.file))
        assert "note g a does not answer: TLS failed: CERTIFICATE_VERIFY_FAILED" in done.stdout
        assert "tls_ca of [api] says whom to trust" in done.stdout


def test_watch_prints_a_change_and_ends_at_ctrl_c(estate: Estate) -> None:
    estate.start("a", "b")
    words = [*COMMAND, "watch", "-c", str(estate.file), "--json", "--interval", "50ms"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["master"] == "a"
        estate.master, estate.token = "b", 4
        masters = set()
        while "b" not in masters:
            masters.add(json.loads(process.stdout.readline())["master"])
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0
