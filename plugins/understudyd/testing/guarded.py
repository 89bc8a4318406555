"""A control of its own for tests: a process that holds a lock and has its broker guarded.

    with Guarded(uri, tmp_path) as control:
        control.tell("launch")
        control.wait("Started")
        control.kill("control", "guard")

It obeys one word per line: ``extend S``, ``launch``, ``stop S``, ``kill``, ``over``, ``close``, and
ways to end without a goodbye: ``exit``, ``raise``, ``collect``, ``exec``; and ``restart``, an exec
that is announced. What the guards report comes back as JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from understudyd.clock import now
from understudyd.guard.client import Guard
from understudyd.guard.words import Command, Lock
from understudyd.lock.open import open_backend
from understudyd.lock.port import Inheritable
from understudyd.lock.record import LockRecord

__all__ = ["GROUP", "PLAIN", "TREE", "Guarded", "Witness", "wait_until"]

GROUP = "orders"
INSTANCE = "a-1"
TOKEN = 7
BOUND = 30.0  # s, for whatever a test waits for

# A broker that proves its life by a lock of its own, which all its processes inherit.
_PROOF = 'exec 9<>"$ALIVE"; flock 9; '
PLAIN = ("sh", "-c", _PROOF + "exec sleep 1000")
# Helpers in sessions of their own, forked twice, and of another user; deaf to SIGTERM.
TREE = (
    "sh",
    "-c",
    "trap '' TERM; "
    + _PROOF
    + "setsid sleep 1000 & (setsid sh -c 'sleep 1000 & wait' &); "
    + "su nobody -s /bin/sh -c 'sleep 1000; true' & while :; do sleep 1000; done",
)

TREE_SIZE = 8  # processes


class Witness:
    """Whether any process of the broker lives, however it is called and whoever its parent is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        path.chmod(0o666)

    @property
    def is_alive(self) -> bool:
        with open(self.path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # many may ask at once
            except BlockingIOError:
                return True
            return False


class Guarded:
    def __init__(
        self,
        uri: str,
        folder: Path,
        argv: Sequence[str] = PLAIN,
        *,
        env: dict[str, str] | None = None,
        user: str | None = None,
        lease: float = 60.0,
        kill: float = 5.0,
    ) -> None:
        """The deadline is ``lease`` seconds after the start, unless it is extended."""
        self.uri = uri
        self.witness = Witness(folder / "alive")
        self.pids: dict[str, int] = {}
        self._size = TREE_SIZE if argv is TREE else 1
        self.events: list[dict[str, Any]] = []
        settings = {
            "uri": uri,
            "argv": list(argv),
            "env": {"PATH": os.environ["PATH"], "ALIVE": str(self.witness.path), **(env or {})},
            "user": user,
            "lease": lease,
            "kill": kill,
        }
        module = [sys.executable, "-m", "understudyd.testing.guarded", json.dumps(settings)]
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            module,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._rest = b""
        self.pids["control"] = self._process.pid
        up = self.wait("Up")
        self.pids |= {"watcher": up["watcher"], "guard": up["guard"]}
        self._handles = {name: os.pidfd_open(pid) for name, pid in self.pids.items()}

    def __enter__(self) -> Guarded:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.thaw("control", "watcher", "guard")
        self._process.kill()
        self.kill_broker()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert stream is not None
                stream.close()
        for name in ("guard", "watcher"):
            if not self.is_gone(name, BOUND):
                signal.pidfd_send_signal(self._handles[name], signal.SIGKILL)
        for handle in self._handles.values():
            os.close(handle)

    def tell(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order}\n".encode())
        self._process.stdin.flush()

    def launch(self) -> int:
        """Start the broker and wait until all of it lives; its pid."""
        self.tell("launch")
        pid: int = self.wait("Started")["pid"]
        wait_until(lambda: self.witness.is_alive and len(self.broker()) >= self._size)
        return pid

    def broker(self) -> list[int]:
        """The pids of all its processes, whoever their parent is by now."""
        proof = f"ALIVE={self.witness.path}".encode()
        pids = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and proof in (folder / "environ").read_bytes():
                    pids.append(int(folder.name))
        return pids

    def kill_broker(self) -> None:
        for pid in self.broker():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait(self, name: str, seconds: float = BOUND) -> dict[str, Any]:
        """The next event of this name; those before it are passed over."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        while True:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                event: dict[str, Any] = json.loads(line)
                self.events.append(event)
                if event["event"] == name:
                    return event
                continue
            patience = max(deadline - time.monotonic(), 0)
            readable, _, _ = select.select([self._process.stdout], [], [], patience)
            data = os.read(self._process.stdout.fileno(), 65536) if readable else b""
            if not data:
                raise AssertionError(f"no {name} came, but {self.events}")
            self._rest += data

    def kill(self, *names: str) -> None:
        """SIGKILL, to all of them before any can react."""
        for name in names:
            signal.pidfd_send_signal(self._handles[name], signal.SIGSTOP)
        for name in names:
            signal.pidfd_send_signal(self._handles[name], signal.SIGKILL)

    def freeze(self, *names: str) -> None:
        for name in names:
            signal.pidfd_send_signal(self._handles[name], signal.SIGSTOP)

    def thaw(self, *names: str) -> None:
        for name in names:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handles[name], signal.SIGCONT)

    def is_gone(self, name: str, seconds: float = 0.0) -> bool:
        """Whether this process has ended, or does within so many seconds."""
        return bool(select.select([self._handles[name]], [], [], seconds)[0])


def wait_until(condition: Any, seconds: float = BOUND) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for does not come"
        time.sleep(0.001)


# --- in the process ---------------------------------------------------------------------------


class _Control:
    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._lock = Lock(settings["uri"], GROUP, INSTANCE, 1.0)
        self._backend = open_backend(self._lock.uri, GROUP, self._lock.attempt)
        self._guard: Guard | None = None

    def begin(self) -> None:
        state = os.environ.pop("HANDED_ON", None)
        if state is not None:
            guard = Guard.adopt(state, self._lock, kill=self._settings["kill"], owned=lambda: ())
            self._guard = guard
            _tell("Adopted")
            return
        seen = self._backend.read()
        record = LockRecord(
            GROUP, "a", INSTANCE, TOKEN, 1, lease=60.0, incarnation=seen.incarnation
        )
        if self._backend.swap(seen, record).record != record:
            raise RuntimeError("the lock is not free")
        guard = Guard(self._lock, kill=self._settings["kill"], owned=lambda: ())
        self._guard = guard
        guard.start()
        guard.extend(now() + self._settings["lease"], TOKEN)
        watcher, below = guard.pids
        _tell("Up", watcher=watcher, guard=below)

    def run(self) -> None:
        rest = b""
        while True:
            watched: list[Any] = [0] if self._guard is None else [0, self._guard]
            readable, _, _ = select.select(watched, [], [], 0.2)
            if self._guard is not None:
                for event in self._guard.events():
                    _tell(type(event).__name__, **dataclasses.asdict(event))
            if 0 in readable:
                data = os.read(0, 4096)
                if not data:
                    sys.exit(0)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._obey(*line.decode().split())

    def _obey(self, order: str, argument: str = "0") -> None:
        guard = self._guard
        assert guard is not None
        seconds = float(argument)
        if order == "extend":
            guard.extend(now() + seconds, TOKEN)
            guard.beat()
        elif order == "launch":
            guard.launch(self._command(), TOKEN, self._descriptors())
        elif order == "stop":
            guard.stop(signal.SIGTERM, now() + seconds)
        elif order == "kill":
            guard.kill("a test orders it")
        elif order == "over":
            guard.over()
        elif order == "start":
            guard.start()
            watcher, below = guard.pids
            _tell("Up", watcher=watcher, guard=below)
        elif order == "close":
            guard.close()
            self._guard = None
            _tell("Closed")
        else:
            self._end(order)

    def _end(self, order: str) -> None:
        assert self._guard is not None
        if order == "exit":
            sys.exit(3)
        elif order == "raise":
            raise RuntimeError("this control fails")
        elif order == "collect":
            self._guard = None
            gc.collect()
            _tell("Collected")
        elif order in ("exec", "restart"):
            if order == "restart":
                os.environ["HANDED_ON"] = self._guard.expect_restart()
                for descriptor in self._descriptors():
                    os.set_inheritable(descriptor, True)
                module = ["-m", "understudyd.testing.guarded", *sys.argv[1:]]
            else:
                module = ["-c", "import time; time.sleep(1000)"]
            os.execv(sys.executable, [sys.executable, *module])
        else:
            raise ValueError(order)

    def _command(self) -> Command:
        settings = self._settings
        return Command(tuple(settings["argv"]), settings["env"], user=settings["user"])

    def _descriptors(self) -> list[int]:
        is_held = isinstance(self._backend, Inheritable) and self._backend.descriptor is not None
        return [self._backend.descriptor] if is_held else []  # type: ignore[attr-defined]


def _tell(name: str, **values: object) -> None:
    print(json.dumps({"event": name, **values}), flush=True)


if __name__ == "__main__":
    control = _Control(json.loads(sys.argv[1]))
    control.begin()
    control.run()
