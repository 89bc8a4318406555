"""A group of real sidecars on this machine, to be broken: the command itself, one process each.

Rules
* Every port, folder and key is this estate's own, so that tests may run side by side.
* What the test does is done to processes by their pid; what it believes is in the witness's book.
* Leaving the context ends everything, by SIGKILL where it must be, and nothing is left behind. If
  this process is killed, or the thread that started them ends, so do the sidecars, and their guards
  see to the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from understudy.testing.brokers.ports import Port
from understudyd.testing import witness
from understudyd.testing.asking import Asking, operations

__all__ = ["QUICK", "TOKEN", "Clients", "Sidecar", "SidecarEstate", "eventually"]

TOKEN = "let-me-in"
PATIENCE = 60.0  # s; generous, for a machine that is busy with other tests
EXITING = 0x4  # of the flags in /proc/PID/stat: it runs no line of its own any more
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
QUICK = {"lease": "1s", "renew": "200ms", "attempt": "150ms", "kill": "200ms", "margin": "50ms"}


def eventually(what: Callable[[], object], patience: float = PATIENCE) -> Any:
    """What ``what`` returns, once that is true. Raises TimeoutError."""
    deadline = time.monotonic() + patience
    while True:
        found = what()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {patience:g} s")
        time.sleep(0.01)


class Sidecar:
    """One node's sidecar: a process that can be started, killed, frozen and asked."""

    def __init__(self, estate: SidecarEstate, name: str) -> None:
        self.estate = estate
        self.name = name
        self.api = Port()
        self.port = Port()
        self.log_file = estate.folder / f"{name}.log"
        self.prefix: tuple[str, ...] = ()  # a command to run the sidecar by
        self.program = "from understudyd.cli import main; main()"
        self.inside: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        """Within it this thread's sockets reach the node's ports."""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> Sidecar:
        argv = [sys.executable, "-c", self.program, "sidecar"]
        place = ["-c", str(self.estate.file), "--node", f"{self.estate.group}/{self.name}"]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*DIES_WITH_US, *self.prefix, *argv, *place],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.estate.environment,
                start_new_session=True,
            )
        return self

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> float:
        """SIGKILL the sidecar, and nothing else; returns when (seconds since 1970)."""
        assert self.process is not None
        moment = time.time()
        self.process.kill()
        self.process.wait()
        return moment

    def kill_all(self) -> float:
        """SIGKILL sidecar, guards and broker, before one of them sees another die.

        Nobody is left to let the lock go. Returns when it began (seconds since 1970).
        """
        broker = self.broker
        assert broker is not None
        pids = (self.pid, *self.guards, broker)
        moment = time.time()
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):  # a broker dies with its guard
                    os.kill(pid, number)
        self.kill()
        return moment

    def stop(self, patience: float = PATIENCE) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(patience)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def said(self, text: str) -> list[float]:
        """When the log says so: seconds since 1970."""
        lines = [line for line in self.log.splitlines() if text in line]
        return [datetime.fromisoformat(line.split()[0]).timestamp() for line in lines]

    def get(self, path: str, timeout: float = 5.0) -> tuple[int, str]:
        """Code and body of the API's answer; 0 when there is none."""
        return self._ask(urllib.request.Request(self._url(path)), timeout)

    def until(self, path: str) -> None:
        """Wait until the API answers this with 200."""
        eventually(lambda: self.get(path)[0] == 200)

    def move(self, to: Sidecar) -> None:
        """Switch over; 409 until the board has told of the candidate."""

        def is_accepted() -> bool:
            code, body = self.post("switchover", {"to": to.name})
            assert code in (202, 409), body
            return code == 202

        eventually(is_accepted)

    def post(self, command: str, body: Mapping[str, str] | None = None) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        data = json.dumps(body or {}).encode()
        return self._ask(urllib.request.Request(self._url(f"/{command}"), data, headers), 10.0)

    @property
    def status(self) -> dict[str, Any]:
        """Empty when the API does not answer."""
        code, body = self.get("/status")
        found: dict[str, Any] = json.loads(body) if code == 200 else {}
        return found

    @property
    def token(self) -> int:
        """Of its reign; 0 when it has none, or its API does not answer."""
        return self.status.get("token") or 0

    @property
    def is_master(self) -> bool:
        return self.is_running and self.get("/master")[0] == 200

    @property
    def broker(self) -> int | None:
        """The pid of the broker's first process."""
        broker = self.status.get("broker") or {}
        pid: int | None = broker.get("pid")
        return pid

    @property
    def answerer(self) -> int | None:
        """The pid of the process that answers for its API; None while there is none, or two."""
        found = [pid for pid in children(self.pid) if "understudyd.api" in command_line(pid)]
        return found[0] if len(found) == 1 else None

    @property
    def guards(self) -> list[int]:
        """Watcher and guard, in this order."""
        found = []
        parent = self.pid
        for _ in range(2):
            own = [pid for pid in children(parent) if "understudyd.guard" in command_line(pid)]
            if not own:
                break
            parent = own[0]
            found.append(parent)
        return found

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.api.number}{path}"

    def _ask(self, request: urllib.request.Request, timeout: float) -> tuple[int, str]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with self.inside(), opener.open(request, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""


class SidecarEstate:
    """One group, its configuration file, and its sidecars; a context manager."""

    def __init__(
        self,
        lock: str | None = None,
        *,
        names: str = "ab",
        group: str = "orders",
        timings: Mapping[str, str] | str = QUICK,
        witness_options: Sequence[str] = (),
        broker: Mapping[str, Any] | None = None,
        per_node: Callable[[Sidecar], Mapping[str, Any]] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """``lock``: a file in the estate's folder, unless given. ``timings``: a preset, or keys.

        ``broker``: keys of each node's broker, over those of a witness (None: not that one);
        ``per_node`` gives more of them for a node; ``more``: keys of the group.
        """
        self._temporary = tempfile.TemporaryDirectory(prefix="understudy-estate-")
        self.folder = Path(self._temporary.name)
        self.file = self.folder / "understudy.toml"
        self.book = self.folder / "book"
        self.group = group
        self.lock = lock or f"file:{self.folder}/orders.lock"
        self.environment = dict(os.environ)
        self.nodes = {name: Sidecar(self, name) for name in names}
        self._timings = timings
        self._options = witness_options
        self._broker = dict(broker or {})
        self._per_node = per_node or (lambda _: {})
        self._more = dict(more or {})
        self.write()

    def __enter__(self) -> SidecarEstate:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.tell()
        for node in self.nodes.values():
            if node.is_running:
                for pid in (*node.guards, node.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
                node.signal(signal.SIGTERM)
        for node in self.nodes.values():
            if node.process is not None:
                try:
                    node.process.wait(10)
                except subprocess.TimeoutExpired:
                    node.kill()
        self._temporary.cleanup()

    def __getitem__(self, name: str) -> Sidecar:
        return self.nodes[name]

    def write(self, **more: Any) -> None:
        """Write the configuration, with these keys of the group besides."""
        group: dict[str, Any] = {"lock": self.lock, **self._more, **more}
        timings = self._timings
        group |= {"preset": timings} if isinstance(timings, str) else {"timings": dict(timings)}
        group["nodes"] = {name: self._node(node) for name, node in self.nodes.items()}
        tables = {"api": {"token": TOKEN}, "groups": {self.group: group}}
        self.file.write_text("\n".join(_toml(tables, ())))

    def start(self) -> SidecarEstate:
        for node in self.nodes.values():
            node.start()
        return self

    def master(self, patience: float = PATIENCE) -> Sidecar:
        """The node that is master, once there is one."""
        found: Sidecar = eventually(
            lambda: next((node for node in self.nodes.values() if node.is_master), None), patience
        )
        return found

    def other(self, node: Sidecar) -> Sidecar:
        return next(one for one in self.nodes.values() if one is not node)

    def reigns(self, at_least: int = 1) -> list[witness.Interval]:
        """What the witness saw, once it saw so many reigns: a master is one before it is asked."""

        def seen() -> list[witness.Interval] | None:
            rows = witness.intervals(self.book)
            return rows if len(rows) >= at_least else None

        rows: list[witness.Interval] = eventually(seen)
        return rows

    def judge(self) -> list[str]:
        """What the witness saw that must not be."""
        return witness.judge(witness.intervals(self.book))

    def tell(self) -> None:
        """Print the logs, for a test that fails: pytest shows what such a one printed."""
        for node in self.nodes.values():
            print(f"--- {node.name} ---\n{node.log}", file=sys.stderr)

    def _node(self, node: Sidecar) -> dict[str, Any]:
        broker: dict[str, Any] = {
            "driver": "process",
            "command": list(witness.command(node.port.number, self.book, *self._options)),
            "health": "tcp",
            "health_interval": "100ms",
            "health_timeout": "500ms",
            **self._broker,
        }
        settings: dict[str, Any] = {
            "uri": f"tcp://127.0.0.1:{node.port.number}",
            "api": f"127.0.0.1:{node.api.number}",
        }
        own = dict(self._per_node(node))
        settings |= own.pop("node", {})
        broker = {key: value for key, value in {**broker, **own}.items() if value is not None}
        return {**settings, "broker": broker}


class Clients(Asking):
    """Keeps asking every node's witness for operations, from a thread for each node."""

    def __init__(self, estate: SidecarEstate) -> None:
        super().__init__(partial(self._run, node) for node in estate.nodes.values())

    def _run(self, node: Sidecar) -> None:
        for _ in operations(node.port.number, self.is_over, timeout=0.5, inside=node.inside):
            pass


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(one) for task in tasks for one in (task / "children").read_text().split()]
    return []


def is_alive(pid: int) -> bool:
    """Whether it can do anything, now or when it thaws: not what is dead and not reaped yet."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0] not in "ZX" and not int(fields[6]) & EXITING
    return False


def command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def _toml(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Values are written as JSON, which TOML reads alike for texts, numbers, flags and lists."""
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"[{'.'.join(path)}]"] if plain and path else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _toml(value, (*path, key))
    return lines
