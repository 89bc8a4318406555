"""The command ``understudy cluster``, and a group whose APIs the test answers for."""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from understudy.testing.brokers import free_port
from understudyd.api.client import ApiProcess
from understudyd.api.page import Snapshot
from understudyd.api.words import Order, Settings
from understudyd.board.file import FileBoard
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

__all__ = ["COMMAND", "SECONDS", "SECRET", "Call", "Estate", "run"]

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


Call = Callable[..., subprocess.CompletedProcess[str]]
