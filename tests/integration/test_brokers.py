"""The private brokers: they answer, keep their data, freeze, and never outlive who started them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import amqp
import pytest
import redis

from understudy.testing.brokers import (
    ActiveMQ,
    RabbitMQ,
    Redis,
    Server,
    ServerMissing,
    StartFailed,
    start_all,
)
from understudy.testing.brokers.server import Command

pytestmark = pytest.mark.integration

SILENCE = 0.5  # how long "no answer" is observed; a live broker on this machine needs 0.001


class Script(Server):
    """A "server" that is a shell script; ready when it has printed so."""

    kind = "script"
    package = "none"

    def __init__(self, script: str, *, folder: Path | None = None) -> None:
        super().__init__(folder=folder)
        self.script = script

    @property
    def uri(self) -> str:
        return f"script:{self.port}"

    def check_installed(self) -> None:
        pass

    def _prepare(self) -> Command:
        return Command(["sh", "-c", self.script])

    def _is_ready(self) -> bool:
        return "ready" in self._boot_output()


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition, for a bounded time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def connect(broker: RabbitMQ, **options: Any) -> Any:
    connection = amqp.Connection(f"{broker.host}:{broker.port}", **options)
    connection.connect()
    return connection


def publish(broker: RabbitMQ, queue: str, body: str) -> None:
    """Publish one persistent message to a durable queue and wait for the confirm."""
    with connect(broker, confirm_publish=True) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True, auto_delete=False)
        channel.basic_publish(amqp.Message(body, delivery_mode=2), routing_key=queue)


def take(broker: RabbitMQ, queue: str) -> str:
    with connect(broker) as connection:
        message = connection.channel().basic_get(queue, no_ack=True)
        return str(message.body)


def process_tree(root: int) -> dict[int, str]:
    """Every living process below ``root``, with its start time, which tells reused numbers."""
    parents, born = {}, {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = Path("/proc", entry, "stat").read_text(errors="replace").rpartition(")")[2]
            parents[int(entry)], born[int(entry)] = int(fields.split()[1]), fields.split()[19]
    tree, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in tree} - tree
        grown = bool(more)
        tree |= more
    return {pid: born[pid] for pid in tree - {root}}


def is_left(pid: int, born: str) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return False
    return stat[19] == born and stat[0] != "Z"  # a zombie waits for init and holds nothing


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def command(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[dict[str, Any]]]]:
    """``python -m understudy.testing.brokers``, up, and what it says about its servers."""
    argv = [sys.executable, "-m", "understudy.testing.brokers", *arguments, "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process, json.loads(process.stdout.readline())["servers"]
        finally:
            process.kill()


def test_a_persistent_message_survives_sigkill(
    rabbits: tuple[RabbitMQ, RabbitMQ], unique: str
) -> None:
    for broker in rabbits:
        publish(broker, unique, f"from {broker.name}")
        broker.settle()
        broker.kill()
        assert not broker.is_running
        assert is_free(broker.port)
    start_all(*rabbits)
    for broker in rabbits:
        assert broker.queue_depth(unique) == 1
        assert take(broker, unique) == f"from {broker.name}"


def test_a_frozen_broker_answers_no_byte_until_thawed(
    rabbits: tuple[RabbitMQ, RabbitMQ],
) -> None:
    frozen, other = rabbits
    frozen.freeze()
    assert frozen.is_frozen
    assert frozen.is_running
    with socket.create_connection((frozen.host, frozen.port), 5) as client:
        client.sendall(b"AMQP\x00\x00\x09\x01")
        client.settimeout(SILENCE)
        with pytest.raises(TimeoutError):
            client.recv(1)
        connect(other).close()
        frozen.thaw()
        client.settimeout(60)
        assert client.recv(1) == b"\x01"
    assert not frozen.is_frozen


def test_the_depth_of_no_queue_is_an_error(rabbit_a: RabbitMQ, unique: str) -> None:
    with pytest.raises(LookupError, match=unique):
        rabbit_a.queue_depth(unique)


def test_everything_a_node_opens_is_on_loopback(rabbit_a: RabbitMQ) -> None:
    ours = {os.readlink(link) for link in Path(f"/proc/{rabbit_a.pid}/fd").iterdir()}
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in ours:
                listening.append(fields[1].split(":")[0])
    assert listening == ["0100007F"] * 3  # AMQP, STOMP, and Erlang's own


def test_users_vhosts_stomp_management_and_rabbitmqctl(
    launch: Callable[[RabbitMQ], RabbitMQ],
) -> None:
    users = {"ada": "pass word", "bob": "b/o@b"}
    broker = launch(RabbitMQ(users=users, vhosts=["/", "a/b"], stomp=True, management=True))
    for user, password in users.items():
        for vhost in broker.vhosts:
            connect(broker, userid=user, password=password, virtual_host=vhost).close()
    assert sorted(line.split()[0] for line in broker.ctl("list_users").splitlines()[1:]) == [*users]
    with pytest.raises(RuntimeError, match="does not exist"):
        broker.ctl("delete_user", "nobody")
    assert broker.uri_for("bob", "a/b") == f"amqp://bob:b%2Fo%40b@127.0.0.1:{broker.port}/a%2Fb"
    assert broker.stomp_uri == f"stomp://ada:pass%20word@127.0.0.1:{broker.stomp_port}"
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.management_port}", timeout=10) as page:
        assert page.status == 200
    broker.stop()
    assert not broker.is_running
    broker.start()
    connect(broker, userid="bob", password="b/o@b", virtual_host="a/b").close()


def test_two_nodes_on_one_folder_have_one_name(tmp_path: Path) -> None:
    (tmp_path / "node").write_text("twin@localhost", encoding="utf-8")
    assert RabbitMQ(folder=tmp_path).node == RabbitMQ(folder=tmp_path).node == "twin@localhost"


def test_redis_keeps_what_it_was_told_to_keep(
    launch: Callable[[Redis], Redis], redis_server: Redis, unique: str
) -> None:
    keeping = launch(Redis(appendonly=True, password='p "w'))
    for server, kept in ((keeping, b"1"), (redis_server, None)):
        with redis.Redis(port=server.port, password=server.password) as client:
            client.set(unique, "1")
            server.restart()
            assert client.get(unique) == kept


def stomp(connection: socket.socket, *frames: str) -> str:
    """Send frames and read until something answers, one whole frame."""
    connection.sendall("".join(frame + "\0" for frame in frames).encode())
    answer = b""
    while not answer.endswith(b"\0\n"):
        chunk = connection.recv(4096)
        assert chunk, answer
        answer += chunk
    return answer.decode()


def test_activemq_keeps_a_persistent_message(
    launch: Callable[[ActiveMQ], ActiveMQ], unique: str
) -> None:
    broker = launch(ActiveMQ(users={"ada": "secret"}))
    login = "CONNECT\naccept-version:1.2\nhost:/\nlogin:ada\npasscode:secret\n\n"
    with socket.create_connection((broker.host, broker.port), 60) as client:
        assert stomp(client, login).startswith("CONNECTED")
        send = f"SEND\ndestination:/queue/{unique}\npersistent:true\nreceipt:1\n\nkept"
        assert stomp(client, send).startswith("RECEIPT")
    broker.restart()
    with socket.create_connection((broker.host, broker.port), 60) as client:
        assert stomp(client, login).startswith("CONNECTED")
        answer = stomp(client, f"SUBSCRIBE\nid:1\ndestination:/queue/{unique}\n\n")
        assert answer.startswith("MESSAGE")
        assert "kept" in answer


def test_activemq_lets_anybody_in_without_users(activemq: ActiveMQ) -> None:
    with socket.create_connection((activemq.host, activemq.port), 60) as client:
        connected = stomp(client, "CONNECT\naccept-version:1.2\nhost:/\n\n")
        assert connected.startswith("CONNECTED")


def test_start_is_idempotent_and_revives_the_dead_and_the_frozen(
    launch: Callable[[Redis], Redis],
) -> None:
    alive, frozen, dead = (launch(Redis(name=name)) for name in ("alive", "frozen", "dead"))
    before = alive.pid, frozen.pid
    frozen.freeze()
    dead.kill()
    assert repr(dead) == f"<Redis dead 127.0.0.1:{dead.port} down>"
    start_all(alive, frozen, dead)
    assert (alive.pid, frozen.pid) == before
    assert repr(dead) == f"<Redis dead 127.0.0.1:{dead.port} up, process {dead.pid}>"


def test_a_helper_in_a_session_of_its_own_dies_too() -> None:
    helper = "(setsid setsid sleep 1000 & ) ; (trap '' TERM; setsid sleep 1000 &) ; echo ready"
    with Script(f"{helper}; exec sleep 1000") as server:
        started = process_tree(os.getpid())
        assert server._leash
        ours = process_tree(server._leash.watcher)
        assert len(ours) == 3
        server.freeze()
        states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2] for pid in ours]
        assert [state.split()[0] for state in states] == ["T", "T", "T"]
        server.kill()
        assert not any(is_left(*process) for process in ours.items())
        assert process_tree(os.getpid()).keys() >= started.keys() - ours.keys()


def test_stop_is_bounded() -> None:
    with Script("trap '' TERM; echo ready; while :; do sleep 1000; done") as server:
        begun = time.monotonic()
        server.stop(timeout=0.3)
        assert not server.is_running
        assert time.monotonic() - begun < 30


def test_a_failed_start_shows_the_log_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(StartFailed, match="no such option") as failed,
        Script("echo no such option; exit 3"),
    ):
        pass
    assert "ended while it was starting" in str(failed.value)
    hanging = Script("echo thinking; exec sleep 1000", folder=tmp_path / "kept")
    with pytest.raises(StartFailed, match=r"did not answer within 2 s"):
        hanging.start(timeout=2.0)
    assert not hanging.is_running
    hanging.close()
    assert (tmp_path / "kept/server.log").read_text() == "thinking\n"


@pytest.mark.parametrize(
    ("kind", "package"),
    [(Redis, "redis-server"), (ActiveMQ, "activemq"), (RabbitMQ, "rabbitmq-server")],
)
def test_a_missing_server_names_the_command(
    kind: type[Redis | ActiveMQ | RabbitMQ],
    package: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("understudy.testing.brokers.activemq._HOME", tmp_path)
    monkeypatch.setattr("understudy.testing.brokers.rabbitmq._PROGRAMS", tmp_path)
    server = kind()
    with pytest.raises(ServerMissing) as missing:
        server.start()
    assert str(missing.value) == f"apt-get install {package}"
    assert not server.folder.exists()


@pytest.mark.parametrize(("kind", "processes"), [(RabbitMQ, 8), (ActiveMQ, 2), (Redis, 2)])
def test_nothing_outlives_a_starter_that_is_killed(
    kind: type[Redis | ActiveMQ | RabbitMQ],
    processes: int,
    installed: Callable[[Server], None],
) -> None:
    installed(kind())
    with command(kind.kind) as (process, servers):
        tree = process_tree(process.pid)
        assert len(tree) >= processes  # the watchers and everything below them
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: not any(is_left(*one) for one in tree.items()))
        assert is_free(servers[0]["port"])
        assert not Path(servers[0]["folder"]).exists()


def test_a_forked_child_of_the_starter_keeps_nothing_alive(
    installed: Callable[[Server], None],
) -> None:
    installed(Redis())
    program = """
import os, sys, time
from understudy.testing.brokers import Redis
server = Redis().start()
server.freeze()
child = os.fork()
if not child:
    time.sleep(1000)
print(server._leash.watcher, server.folder, child, flush=True)
time.sleep(1000)
"""
    argv = [sys.executable, "-c", program]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        watcher, folder, child = process.stdout.readline().split()
        tree = process_tree(int(watcher)) | {int(watcher): process_tree(process.pid)[int(watcher)]}
        process.kill()
        process.wait()
        try:
            until(lambda: not any(is_left(*one) for one in tree.items()))
            assert not Path(folder).exists()
        finally:
            os.kill(int(child), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_cleans_up_when_told_to_end(
    number: int, installed: Callable[[Server], None]
) -> None:
    installed(Redis())
    with command("redis", "--count", "2") as (process, servers):
        assert [server["name"] for server in servers] == ["redis-1", "redis-2"]
        tree = process_tree(process.pid)
        process.send_signal(number)
        assert process.wait(60) == 0
        until(lambda: not any(is_left(*one) for one in tree.items()))
        assert not any(Path(server["folder"]).exists() for server in servers)


def test_the_package_of_test_tools_names_what_can_be_run() -> None:
    argv = [sys.executable, "-m", "understudy.testing"]
    told = subprocess.run([*argv, "--help"], capture_output=True, text=True, check=True)
    assert "understudy.testing.brokers" in told.stdout
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 2
