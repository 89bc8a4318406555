"""The README's first group, as it stands there: two RabbitMQ nodes, a kill, and what is seen."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from understudy.pika import BlockingConnection
from understudy.testing.brokers import free_port
from understudy.testing.brokers.erlang import Erlang
from understudyd.cli.sidecar import sidecar

pytestmark = pytest.mark.integration

README = Path(__file__).resolve().parents[2] / "README.md"
UNDERSTUDY = [sys.executable, "-c", "from understudyd.cli import main; main()"]
NUMBERS = ("5701", "5702", "8801", "8802")
LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false"


def written(language: str, mark: str) -> str:
    """The README's code block that begins so."""
    (found,) = re.findall(
        rf"```{language}\n({re.escape(mark)}.*?)```", README.read_text(), re.DOTALL
    )
    return str(found)


class Reader:
    """Does what the README says, in a fresh folder and with ports of its own."""

    def __init__(
        self, folder: Path, environment: dict[str, str], stack: contextlib.ExitStack
    ) -> None:
        self._folder = folder
        self._environment = environment
        self._stack = stack
        self._ports = {number: str(free_port()) for number in NUMBERS}
        text = self.fit(written("toml", "# understudy.toml"))
        (folder / "understudy.toml").write_text(text)

    def fit(self, text: str) -> str:
        """With this test's ports and node name for the README's."""
        text = re.sub("|".join(NUMBERS), lambda found: self._ports[found[0]], text)
        return text.replace("demo@localhost", f"demo-{self._ports['5701']}@localhost")

    def run(self, line: str, **options: Any) -> subprocess.Popen[str]:
        # RabbitMQ's own choice, port + 20000, may be a client's port here
        environment = {**self._environment, "RABBITMQ_DIST_PORT": str(free_port())}
        program, *arguments = shlex.split(line)
        assert program == "understudy"
        process = subprocess.Popen(
            [*UNDERSTUDY, *arguments],
            cwd=self._folder,
            env=environment,
            text=True,
            start_new_session=True,
            **options,
        )
        if process.stdout is not None:
            self._stack.callback(process.stdout.close)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        return process


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    if not shutil.which("rabbitmq-server"):
        pytest.skip("RabbitMQ is missing: apt-get install rabbitmq-server")
    with contextlib.ExitStack() as stack:
        world = Erlang.join()
        stack.callback(world.leave)
        plugins = tmp_path / "plugins"
        plugins.write_text("[].")
        environment = {
            **os.environ,
            **world.environment(tmp_path / "home"),
            "RABBITMQ_CONF_ENV_FILE": str(tmp_path / "none.conf"),
            "RABBITMQ_CONFIG_FILE": str(tmp_path / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": LOOPBACK,
        }
        yield Reader(tmp_path, environment, stack)


def test_the_first_group_survives_a_kill(reader: Reader) -> None:
    """L02 in small: what was confirmed before the kill is received after it, by one connection."""
    commands = written("sh", "understudy sidecar").splitlines()
    assert len(commands) == 2
    sidecars = dict(zip("ab", map(reader.run, commands), strict=True))
    watch = reader.run("understudy cluster watch -c understudy.toml --json", stdout=subprocess.PIPE)

    def master() -> str:
        """Who is shown as master next, running and healthy."""
        assert watch.stdout is not None
        for line in watch.stdout:
            for node in json.loads(line)["nodes"]:
                if node["role"] == "master" and node["healthy"]:
                    return str(node["name"])
        raise AssertionError("the watch has ended")

    (address,) = re.findall(r"`(failover:\(amqp://127.0.0.1:5701,[^`]*)`", README.read_text())
    first = master()
    connection = BlockingConnection(reader.fit(address) + "?timeout=60000")
    channel = connection.channel()
    channel.queue_declare("orders", durable=True)
    persistent = pika.BasicProperties(delivery_mode=2)
    for number in range(20):
        channel.basic_publish("", "orders", str(number).encode(), persistent)

    channel.queue_declare("settle", durable=True)  # what was just declared is not safe yet
    channel.queue_delete("settle")

    sidecars[first].kill()
    second = master()
    assert second != first
    seen = {int(channel.basic_get("orders", auto_ack=True)[2]) for _ in range(20)}
    assert seen == set(range(20))
    connection.close()

    (learning,) = re.findall(r"`\?(updateURIsURL=http://127.0.0.1:8801/uris)`", README.read_text())
    if second == "b":
        learning = learning.replace("8801", "8802")
    dead = {"a": "5701", "b": "5702"}[first]
    with BlockingConnection(
        reader.fit(f"failover:(amqp://127.0.0.1:{dead})?{learning}")
    ) as learned:
        learned.channel().queue_declare("orders", passive=True)

    history = reader.run("understudy cluster history -c understudy.toml", stdout=subprocess.PIPE)
    told = history.communicate()[0]
    assert f"{first} master" in told
    assert f"{second} master" in told
    sidecars[second].terminate()
    assert sidecars[second].wait(60) == 0


def test_the_service_unit_starts_a_node() -> None:
    """Its line is one that the command takes; comments stand on lines of their own."""
    unit = configparser.RawConfigParser(comment_prefixes="#", inline_comment_prefixes=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(written("ini", "# /etc/systemd/system/"))
    service = dict(unit["Service"])
    program, command, *arguments = shlex.split(service["ExecStart"])
    assert (Path(program).name, command) == ("understudy", "sidecar")
    said = sidecar.make_context("sidecar", arguments).params
    assert said == {"config": Path("/etc/understudy.toml"), "node": "demo/a"}
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")
    assert not any("#" in value for value in service.values())
    assert service["RestartPreventExitStatus"] == "2"
