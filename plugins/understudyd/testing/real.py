"""Real brokers of a group: for each node a configuration and ports of its own, one data folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.testing.brokers import ActiveMQ, RabbitMQ

__all__ = ["SharedBrokers"]


class SharedBrokers:
    """Brokers of one kind, started by sidecars and not from here; a context manager's ``close``
    gives their ports back. Raises ServerMissing when they are not installed."""

    def __init__(self, kind: str, folder: Path, names: str = "ab") -> None:
        data = folder / "data"
        data.mkdir(parents=True)
        self.servers: dict[str, RabbitMQ | ActiveMQ] = {}
        node = f"orders-{os.getpid()}-{id(self):x}@localhost"
        for name in names:
            own = folder / name
            own.mkdir()
            server = (
                RabbitMQ(name=name, folder=own, node=node)
                if kind == "rabbitmq"
                else ActiveMQ(name="orders", folder=own)
            )
            (own / ("mnesia" if kind == "rabbitmq" else "data")).symlink_to(data)
            server.check_installed()
            self.servers[name] = server

    def keys(self, name: str) -> Mapping[str, Any]:
        """What the node's part of the configuration says of its broker."""
        server = self.servers[name]
        command = server._prepare_in_folder()
        return {
            "node": {"uri": server.uri},
            "command": list(command.argv),
            "env": {"LANG": "C.UTF-8", **command.env},
            "cwd": str(server.folder),
            "health": "amqp" if isinstance(server, RabbitMQ) else "stomp",
            "health_interval": "300ms",
            "health_timeout": "5s",
        }

    def uri(self, **options: object) -> str:
        """A failover URI of all nodes."""
        members = ",".join(server.uri for server in self.servers.values())
        text = "&".join(f"{name}={value}" for name, value in options.items())
        return f"failover:({members})?{text}"

    def close(self) -> None:
        for server in self.servers.values():
            server.close()
