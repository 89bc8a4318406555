"""HAProxy in front of a group: clients dial one address, the role API says where they get to."""

from __future__ import annotations

import shutil
import socket

from understudy.testing.brokers import Server, ServerMissing
from understudy.testing.brokers.server import Command
from understudyd.testing.estate import SidecarEstate

__all__ = ["HAProxy"]

# whom the check finds down, or not, is cut off from its clients: a master that is none any more
# must not keep those that it has
CONFIGURATION = """
global
    maxconn 500
defaults
    mode tcp
    timeout connect 2s
    timeout check 500ms
    timeout client 1h
    timeout server 1h
listen orders
    bind {host}:{port}
    option httpchk GET /master
    default-server check inter 100ms rise 1 fall 1 on-marked-down shutdown-sessions
"""
SERVER = "    server {name} 127.0.0.1:{broker} port {api}\n"


class HAProxy(Server):
    """It lets clients through to the node whose API says that it is the master."""

    kind = "haproxy"
    package = "haproxy"

    def __init__(self, estate: SidecarEstate) -> None:
        super().__init__()
        self._estate = estate

    @property
    def uri(self) -> str:
        return f"tcp://{self.host}:{self.port}"

    def check_installed(self) -> None:
        if shutil.which("haproxy") is None:
            raise ServerMissing(self.package)

    def _prepare(self) -> Command:
        file = self.folder / "haproxy.cfg"
        nodes = self._estate.nodes.values()
        servers = (
            SERVER.format(name=node.name, broker=node.port.number, api=node.api.number)
            for node in nodes
        )
        text = CONFIGURATION.format(host=self.host, port=self.port) + "".join(servers)
        file.write_text(text, encoding="utf-8")
        return Command(["haproxy", "-db", "-f", str(file)])

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), 2.0):
                return True
        except OSError:
            return False
