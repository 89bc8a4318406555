"""A link that runs in a thread of a test, and a bridge that runs as a process.

Both are asked from the test's own thread, and end with their `with`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, TypeVar

from understudyd.bridge.joints import Span, dialer_of
from understudyd.bridge.names import Pattern
from understudyd.bridge.pace import Pace
from understudyd.bridge.replies_shell import Replies
from understudyd.bridge.routes import Options, Routes
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.shell import LinkRunner
from understudyd.bridge.status import Glance

__all__ = ["BridgeProcess", "RunningLink", "until"]

T = TypeVar("T")
PATIENCE = 60.0  # s


def until(check: Callable[[], T], what: str, within: float = PATIENCE) -> T:
    """What ``check`` says once that is true; AssertionError when it does not become so."""
    deadline = time.monotonic() + within
    while not (value := check()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.02)
    return value


class RunningLink:
    """A queue of one broker moved to a queue of another."""

    def __init__(
        self,
        source: str,
        target: str,
        queue: str,
        *,
        name: str = "test",
        settings: LinkSettings | None = None,
        here: str = "source/",
        there: str = "target/",
        rate: float | None = None,
        reply_ttl: float | None = None,
        are_all_replies: bool = False,
        **options: Any,
    ) -> None:
        """``queue`` is a queue's name, or a pattern with its kind; ``options`` are of `Routes`.
        Without ``reply_ttl`` every reply-to is left as it is."""
        pattern = Pattern.parse(queue if "://" in queue else f"queue://{queue}")
        given = {"statically_included": [str(pattern)], **options}
        routes = Routes(Options(**given), here, there)
        self._loop = asyncio.new_event_loop()
        self._made = threading.Event()
        self._reply_ttl, self._are_all_replies = reply_ttl, are_all_replies
        self._runner: LinkRunner
        self._thread = threading.Thread(
            target=self._run,
            args=(name, source, target, pattern, routes, settings, rate),
            name="link",
            daemon=True,
        )

    def __enter__(self) -> RunningLink:
        self._thread.start()
        assert self._made.wait(PATIENCE)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the link does not end"

    @property
    def state(self) -> str:
        return self._runner.link.shown

    @property
    def reason(self) -> str:
        return self._runner.link.reason

    @property
    def went_back(self) -> int:
        """How many went to the tail of their queue."""
        return self._runner.link._stays.went

    @property
    def forwarded(self) -> int:
        return self._runner.link.forwarded

    @property
    def parked(self) -> int:
        return self._runner.link.parked

    @property
    def ports(self) -> tuple[int | None, ...]:
        """Of the brokers that source and target were connected to last."""
        found = [end.current for end in self._runner._dialers]
        return tuple(None if one is None else one.port for one in found)

    @property
    def glance(self) -> Glance:
        """As a status shows it."""
        made: Future[Glance] = Future()
        self._loop.call_soon_threadsafe(lambda: made.set_result(self._runner.look()))
        return made.result(PATIENCE)

    @property
    def retried(self) -> int:
        return self._runner.link.retried

    @property
    def in_flight(self) -> int:
        return len(self._runner.link.ledger)

    @property
    def in_flight_bytes(self) -> int:
        return self._runner.link.ledger.size

    def stop(self) -> None:
        """Ask it to drain and end; one that has ended says nothing."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._runner.stop)

    def is_over_within(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def await_state(self, *states: str, within: float = PATIENCE) -> None:
        until(lambda: self.state in states, f"state {states}", within)

    def await_forwarded(self, count: int, within: float = PATIENCE) -> None:
        until(lambda: self.forwarded >= count, f"{count} forwarded", within)

    def _run(
        self,
        name: str,
        source: str,
        target: str,
        pattern: Pattern,
        routes: Routes,
        settings: LinkSettings | None,
        rate: float | None,
    ) -> None:
        async def serve() -> None:
            rng = Random(1)
            pace = None if rate is None else Pace(rate)
            about = {"connection_name": f"understudy.bridge.{name}"}
            ends = (dialer_of(source, {**about}, rng), dialer_of(target, {**about}, rng))
            given = settings or LinkSettings()
            span = Span(name, ends[0], pattern, ends[1], routes, given)
            ttl, is_all = self._reply_ttl, self._are_all_replies
            self._runner = LinkRunner(
                span,
                replies=None if ttl is None else Replies(span, ttl=ttl, is_all=is_all, rng=rng),
                rng=rng,
                pace=pace,
            )
            self._runner.start()
            self._made.set()
            await self._runner.finished

        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(serve())
        finally:
            self._loop.close()


class BridgeProcess:
    """The command `understudy bridge` with one bridge of one queue."""

    def __init__(
        self, folder: Path, source: str, target: str, queue: str, **options: object
    ) -> None:
        self._file = folder / "understudy.toml"
        said = {
            "source": source,
            "target": target,
            "statically_included": [f"queue://{queue}"],
            **options,
        }
        lines = [f"{name} = {_toml(value)}" for name, value in said.items()]
        self._file.write_text("\n".join(["[bridges.test]", *lines, ""]), encoding="utf-8")
        self.log_file = folder / "bridge.log"
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def of(cls, folder: Path, text: str) -> BridgeProcess:
        """With this text as its configuration."""
        made = cls(folder, "", "", "")
        made._file.write_text(text, encoding="utf-8")
        return made

    def start(self, before: str = "") -> None:
        """``before`` is Python that the process does first."""
        command = f"{before}\nfrom understudyd.cli import main; main()"
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", command, "bridge", "-c", str(self._file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE)

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8") if self.log_file.exists() else ""

    def __enter__(self) -> BridgeProcess:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


def _toml(value: object) -> str:
    """As TOML says it; tables differ from JSON."""
    if isinstance(value, dict):
        pairs = [f"{json.dumps(name)} = {_toml(item)}" for name, item in value.items()]
        return f"{{ {', '.join(pairs)} }}"
    return json.dumps(value)
