"""``understudy cluster`` against APIs and boards: what it shows, orders, and how it ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from understudy.testing.brokers import free_port
from understudyd.api.client import ApiProcess
from understudyd.api.page import Snapshot
from understudyd.api.words import Order, Settings
from understudyd.board.file import FileBoard
from understudyd.board.port import Answer
from understudyd.cli.cluster import show
from understudyd.cli.cluster.look import Look
from understudyd.clock import now
from understudyd.config import load
from understudyd.status import (
    BrokerStatus,
    ClusterStatus,
    HistoryEntry,
    Member,
    NodeStatus,
    Role,
    stamp,
)

pytestmark = pytest.mark.integration

COMMAND = [sys.executable, "-c", "from understudyd.cli import main; main()", "cluster"]
SECONDS = 90.0  # nothing here takes so long
SECRET = "s3cret-Zq7"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


class Estate:
    """A group ``g`` of two nodes whose APIs the test answers for."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack, *, token: bool = True) -> None:
        self.file = folder / "understudy.toml"
        self._stack = stack
        text = '[groups.g]\nlock = "file:g.lock"\n'
        for name in "ab":
            text += f'[groups.g.nodes.{name}]\nuri = "amqp://app:{SECRET}@h-{name}:5672/x"\n'
            text += f'api = "127.0.0.1:{free_port()}"\nbroker.command = "sleep 1"\n'
        self.file.write_text(text + (f'[api]\ntoken = "{SECRET}"\n' if token else ""))
        self.estate = load(self.file, {})
        self.group = self.estate.groups["g"]
        self.board = FileBoard(folder / "g.lock")
        self.orders: list[Order] = []
        self.master, self.token = "a", 3
        self.is_paused = False
        self.warnings: tuple[str, ...] = ()
        self._apis: dict[str, ApiProcess] = {}

    def start(self, *names: str, obey: bool = True) -> None:
        """The sidecars of these nodes; they do what they are told unless they refuse."""
        for name in names:
            node = self.group.nodes[name]
            settings = Settings(node.listen, self.estate.api)
            self._apis[name] = self._stack.enter_context(ApiProcess(settings))
        self.show()
        for api in self._apis.values():
            api.start()
        over = threading.Event()
        thread = threading.Thread(target=self._serve, args=(over, obey))
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(over.set)

    def member(self, name: str) -> Member:
        role = Role.MASTER if name == self.master else Role.STANDBY
        token = self.token if name == self.master else None
        api = str(self.group.nodes[name].api)
        return Member(name, role, role, 1, api, True, 0.1, token=token)

    def show(self) -> None:
        members = tuple(map(self.member, "ab"))
        cluster = ClusterStatus(
            "g", "file:g.lock", self.master, self.token, members, self.is_paused
        )
        for name, api in self._apis.items():
            me = self.member(name)
            broker = BrokerStatus(name == self.master)
            status = NodeStatus(
                "g", name, me.role, me.state, me.token, None, self.master, broker, self.warnings
            )
            entry = HistoryEntry(self.token, self.master, Role.MASTER, stamp(9), "told so", 0.5)
            api.page.publish(Snapshot(status, cluster, (entry,)))
            api.page.beat(now() + 3600, me.token or 0)

    def _serve(self, over: threading.Event, obey: bool) -> None:
        while not over.is_set():
            select.select(list(self._apis.values()), [], [], 0.1)
            for api in self._apis.values():
                for word in api.receive():
                    if isinstance(word, Order):
                        self.orders.append(word)
                        api.reply(word, *((202, "") if obey else (409, "not now")))
                        self._obey(word.command, word.to) if obey else None
            self.show()

    def _obey(self, command: str, to: str | None) -> None:
        if command in ("pause", "resume"):
            self.is_paused = command == "pause"
        else:
            self.master, self.token = to or "b", self.token + 1


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Estate]:
    with contextlib.ExitStack() as stack:
        yield Estate(tmp_path, stack)


@pytest.fixture
def cluster(estate: Estate) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(command, "-c", str(estate.file), *arguments)

    return call


Call = Callable[..., subprocess.CompletedProcess[str]]


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
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *words, "-c", str(estate.file)],
        stdout=theirs,
        env={**os.environ, "COLUMNS": "120", "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)
    assert process.wait() == 0
    assert "master a token 3" in shown.decode()
    assert "standby" in shown.decode()
    assert "───────" in shown.decode()


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


def test_who_says_it_is_standby_is_not_shown_as_master(estate: Estate, cluster: Call) -> None:
    """Its own word goes before what it last saw of a lock that it can't reach any more."""
    estate.member = lambda name: Member(name, Role.STANDBY, "standby", seen_s=0.0)  # type: ignore[method-assign]
    estate.start("a", "b")
    assert cluster("list").stdout.startswith("group g no master lock")


def test_nothing_is_moved_where_nobody_is_master(estate: Estate, cluster: Call) -> None:
    """Not even asked on the board, where nobody would answer."""
    for name in "ab":
        estate.board.publish(replace(estate.member(name), role=Role.NONE, state="stopped"))
    done = cluster("switchover")
    assert (done.returncode, done.stderr) == (
        1,
        "understudy: g has no master now, so nothing can be moved\n",
    )
    assert list(estate.board.read().requests) == []


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


def test_switches_over_through_the_masters_api(estate: Estate, cluster: Call) -> None:
    """Catalogue 97."""
    estate.start("a", "b")
    done = cluster("switchover", "--to", "b")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("b is master of g now (token 4), after ")
    assert [(order.command, order.to) for order in estate.orders] == [("switchover", "b")]
    told = json.loads(cluster("failover", "--to", "a", "--json").stdout)
    assert (told["master"], told["token"], told["way"]) == ("a", 5, "api")


def test_tells_the_groups_refusal(estate: Estate, cluster: Call) -> None:
    estate.start("a", "b", obey=False)
    done = cluster("switchover")
    assert done.returncode == 1
    assert done.stderr == "understudy: a refused the switchover: not now\n"


def test_tells_of_a_token_that_is_not_the_sidecars(estate: Estate, cluster: Call) -> None:
    estate.start("a", "b")
    estate.file.write_text(
        estate.file.read_text().replace(f'token = "{SECRET}"', 'token = "other"')
    )
    done = cluster("pause")
    assert done.returncode == 1
    told = f"a refused the pause: its token is not that of {estate.file}"
    assert done.stderr == f"understudy: {told}\n"
    assert estate.orders == []


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


def test_gives_up_waiting(estate: Estate, cluster: Call) -> None:
    estate._obey = lambda *_: None  # type: ignore[method-assign]
    estate.start("a", "b")
    done = cluster("switchover", "--wait", "1s")
    assert done.returncode == 1
    assert "it is not done after 1 s" in done.stderr


def test_pauses_and_resumes(estate: Estate, cluster: Call) -> None:
    """Catalogue 98."""
    estate.start("a", "b")
    assert cluster("pause").stdout == "g is paused\n"
    assert "master a token 3 paused" in cluster("list").stdout
    assert cluster("resume").stdout == "g goes on\n"
    assert [order.command for order in estate.orders] == ["pause", "resume"]


def test_asks_on_the_board_when_no_api_answers(estate: Estate, cluster: Call) -> None:
    estate.board.publish(estate.member("a"))
    results: list[subprocess.CompletedProcess[str]] = []
    thread = threading.Thread(target=lambda: results.append(cluster("switchover", "--to", "b")))
    thread.start()
    request = _asked(estate.board)
    assert (request.command, request.to) == ("switchover", "b")
    estate.board.answer(request, Answer(409, "b is not ready"))
    thread.join()
    assert results[0].returncode == 1
    assert "the group refused the switchover: b is not ready" in results[0].stderr

    thread = threading.Thread(target=lambda: results.append(cluster("switchover", "--to", "b")))
    thread.start()
    _asked(estate.board, after=request.id)
    estate.master, estate.token = "b", 4
    for name in "ab":
        estate.board.publish(estate.member(name))
    thread.join()
    assert results[1].returncode == 0
    assert "b is master of g now (token 4)" in results[1].stdout
    assert json.loads(cluster("pause", "--json").stdout)["way"] == "board"
    assert [request.command for request in estate.board.read().requests] == ["pause", "switchover"]


def _asked(board: FileBoard, after: str = "") -> Any:
    over = threading.Event()
    for _ in range(int(SECONDS / 0.05)):
        for request in board.read().requests:
            if request.id != after:
                return request
        over.wait(0.05)
    raise AssertionError("nothing was asked")


def test_without_a_token_the_board_is_asked(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        estate = Estate(tmp_path, stack, token=False)
        estate.start("a", "b")
        done = run("switchover", "-c", str(estate.file), "--wait", "500ms")
        assert done.returncode == 1
        assert estate.orders == []
        assert [request.command for request in estate.board.read().requests] == ["switchover"]


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
