"""RabbitMQ, a private node per object.

Facts it rests on (Debian 12, 3.10.8): the wrapper in /usr/sbin switches user, so the script behind
it is run; with RUNNING_UNDER_SYSTEMD that script execs Erlang instead of waiting for it, so that
SIGTERM reaches the node; a node is fully up only when its log says so, long after its AMQP port
accepts; the data folder belongs to a node name, which is therefore kept beside it; what was just
declared is not yet safe from SIGKILL, see ``settle()``.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from understudy.testing.brokers.erlang import Erlang
from understudy.testing.brokers.ports import Port
from understudy.testing.brokers.probes import answers_amqp, answers_http, answers_stomp
from understudy.testing.brokers.server import Command, Server, ServerMissing

__all__ = ["RabbitMQ"]

_PROGRAMS = Path("/usr/lib/rabbitmq/bin")
_UP = "Server startup complete"
_LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false"


class RabbitMQ(Server):
    """A RabbitMQ node with its own data, ports, port mapper and cookie; up in about 8 seconds.

    ``users`` maps names to passwords, the first is the one of ``uri``; every user may do
    everything in every one of ``vhosts``. ``stomp`` and ``management`` switch those plugins on,
    ``plugins`` names further ones and ``settings`` adds lines to rabbitmq.conf. ``node`` is the
    Erlang name; two objects on one ``folder`` get the same one, as a standby on shared data needs.
    """

    kind = "rabbitmq"
    package = "rabbitmq-server"

    def __init__(
        self,
        *,
        name: str | None = None,
        folder: Path | None = None,
        port: int | None = None,
        stomp: bool = False,
        management: bool = False,
        users: Mapping[str, str] | None = None,
        vhosts: Sequence[str] = ("/",),
        plugins: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        node: str | None = None,
    ) -> None:
        super().__init__(name=name, folder=folder, port=port)
        self.users = dict(users or {"guest": "guest"})
        self.vhosts = tuple(vhosts)
        self.stomp_port = self._claim_port() if stomp else None
        self.management_port = self._claim_port() if management else None
        self.settings = dict(settings or {})
        self._plugins = [
            *plugins,
            *(["rabbitmq_stomp"] if stomp else []),
            *(["rabbitmq_management"] if management else []),
        ]
        self._dist_port = self._claim_port()
        self._node = node
        self._world: Erlang | None = None

    @property
    def node(self) -> str:
        """The Erlang node name."""
        if self._node is None:
            kept = self.folder / "node"
            self._node = (
                kept.read_text(encoding="utf-8")
                if kept.exists()
                else f"{self.name}-{os.getpid()}-{secrets.token_hex(3)}@localhost"
            )
        return self._node

    @property
    def uri(self) -> str:
        return self.uri_for()

    @property
    def stomp_uri(self) -> str:
        """The STOMP address of the first user; needs ``stomp=True``."""
        return f"stomp://{self._login(None)}@{self.host}:{self._needed(self.stomp_port, 'stomp')}"

    @property
    def management_uri(self) -> str:
        """The base of the HTTP interface; needs ``management=True``."""
        port = self._needed(self.management_port, "management")
        return f"http://{self._login(None)}@{self.host}:{port}"

    def uri_for(self, user: str | None = None, vhost: str = "/") -> str:
        """The AMQP address for one of ``users``, in one of ``vhosts``."""
        path = "" if vhost == "/" else "/" + quote(vhost, safe="")
        return f"amqp://{self._login(user)}@{self.host}:{self.port}{path}"

    def ctl(self, *arguments: str, timeout: float = 120.0) -> str:
        """Run rabbitmqctl on this node and return what it printed; about a second each.

        Raises RuntimeError with its output when it fails, TimeoutExpired when it hangs.
        """
        if self._world is None:
            raise RuntimeError(f"{self.name} was never started")
        port = Port()  # the tool is an Erlang node too and listens, by default on all interfaces
        env = {
            **self._environment(self._world),
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "RABBITMQ_CTL_DIST_PORT_MIN": str(port.number),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(port.number),
            "RABBITMQ_CTL_ERL_ARGS": _LOOPBACK,
        }
        try:
            done = subprocess.run(
                [str(_PROGRAMS / "rabbitmqctl"), "--node", self.node, "--quiet", *arguments],
                env=env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        finally:
            port.release()
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def queue_depth(self, name: str, vhost: str = "/") -> int:
        """How many messages are ready in a queue; LookupError if there is no such queue.

        Asked by a passive declare, which takes milliseconds, so py-amqp must be installed. Messages
        delivered and not yet acknowledged are not counted.
        """
        with self._connection(vhost) as connection:
            from amqp import NotFound

            try:
                return int(connection.channel().queue_declare(name, passive=True).message_count)
            except NotFound as error:
                raise LookupError(str(error)) from error

    def settle(self, vhost: str = "/") -> None:
        """Make every queue, exchange and binding declared so far survive a ``kill()``.

        Without it about one in twenty durable queues declared in the last two seconds is gone
        after SIGKILL, with the confirmed messages in it: the record that decides its Mnesia
        transaction may sit in a write cache of two seconds. The next such transaction flushes it,
        so one is made here. Needs py-amqp.
        """
        with self._connection(vhost) as connection:
            channel = connection.channel()
            name = f"settle-{secrets.token_hex(8)}"
            channel.queue_declare(name, durable=True, auto_delete=False)
            channel.queue_delete(name)

    def close(self) -> None:
        super().close()
        world, self._world = self._world, None
        if world:
            world.leave()

    def _connection(self, vhost: str) -> Any:
        try:
            import amqp
        except ImportError as error:
            raise ImportError("this needs py-amqp: pip install 'understudy[kombu]'") from error
        user, password = next(iter(self.users.items()))
        return amqp.Connection(
            f"{self.host}:{self.port}", userid=user, password=password, virtual_host=vhost
        )

    def check_installed(self) -> None:
        if not (_PROGRAMS / "rabbitmq-server").exists():
            raise ServerMissing(self.package)

    def _prepare(self) -> Command:
        if self._world is None:
            self._world = Erlang.join()
        self._write("node", self.node)
        self._write("enabled_plugins", f"[{','.join(self._plugins)}].")
        self._write("rabbitmq.conf", "".join(f"{k} = {v}\n" for k, v in self._settings().items()))
        return Command([str(_PROGRAMS / "rabbitmq-server")], self._environment(self._world))

    def _is_ready(self) -> bool:
        user, password = next(iter(self.users.items()))
        return (
            _UP in self._boot_output()
            and answers_amqp(self.port)
            and (self.stomp_port is None or answers_stomp(self.stomp_port, user, password))
            and (self.management_port is None or answers_http(self.management_port))
        )

    def _settings(self) -> dict[str, str]:
        user, password = next(iter(self.users.items()))
        settings = {
            "listeners.tcp.1": f"{self.host}:{self.port}",
            "loopback_users": "none",
            "default_user": user,
            "default_pass": password,
            "default_vhost": self.vhosts[0],
            "log.console": "true",
            "log.file": "false",
            # A test machine that is low on memory or disk must not block publishers.
            "vm_memory_high_watermark.relative": "0.9",
            "disk_free_limit.absolute": "1MB",
        }
        if self.stomp_port:
            settings["stomp.listeners.tcp.1"] = f"{self.host}:{self.stomp_port}"
        if self.management_port:
            settings["management.tcp.ip"] = self.host
            settings["management.tcp.port"] = str(self.management_port)
        if len(self.users) > 1 or len(self.vhosts) > 1:
            self._write("definitions.json", json.dumps(self._definitions()))
            settings["load_definitions"] = str(self.folder / "definitions.json")
        return {**settings, **self.settings}

    def _definitions(self) -> dict[str, list[dict[str, str]]]:
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        return {
            "vhosts": [{"name": vhost} for vhost in self.vhosts],
            "users": [
                {"name": user, "password": password, "tags": "administrator"}
                for user, password in self.users.items()
            ],
            "permissions": [
                {"user": user, "vhost": vhost, **everything}
                for user in self.users
                for vhost in self.vhosts
            ],
        }

    def _environment(self, world: Erlang) -> dict[str, str]:
        at = self.folder
        return {
            **world.environment(at / "home"),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_CONF_ENV_FILE": str(at / "no-rabbitmq-env.conf"),  # not the one in /etc
            "RABBITMQ_CONFIG_FILE": str(at / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(at / "advanced.config"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(at / "config"),
            "RABBITMQ_SCHEMA_DIR": str(at / "schema"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(at / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(at / "mnesia"),
            "RABBITMQ_LOG_BASE": str(at / "log"),
            "RABBITMQ_PID_FILE": str(at / "pid"),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _LOOPBACK,
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def _login(self, user: str | None) -> str:
        user = user or next(iter(self.users))
        return f"{quote(user, safe='')}:{quote(self.users[user], safe='')}"

    @staticmethod
    def _needed(port: int | None, option: str) -> int:
        if port is None:
            raise ValueError(f"give RabbitMQ({option}=True) for this")
        return port
