"""A broker that commands start and stop: promote, demote and fence, each with a time limit.

What fences within its time limit has to begin that much before the lease and its K are over: see
`Timings.fencing`, which bounds that limit.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

from understudy.errors import UnderstudyError
from understudyd.config.model import BrokerConfig
from understudyd.drivers.plan import Plan
from understudyd.drivers.port import Event, Reign
from understudyd.drivers.process import environment
from understudyd.guard.end import End, wait_readable
from understudyd.guard.page import Page
from understudyd.guard.wire import Wire
from understudyd.guard.words import Dead, Exited, GuardLost, Kill, Launch, Lock, Seen, Started, Stop
from understudyd.lock.timings import Timings

__all__ = ["ExecDriver"]

START = 30.0  # s for the fencer, an interpreter, to be there
CLOSE = 10.0  # s beyond the fence command's own limit


class ExecDriver:
    def __init__(
        self,
        config: BrokerConfig,
        lock: Lock,
        *,
        timings: Timings,
        owned: Callable[[], Iterable[int]],
    ) -> None:
        del owned  # no orphans come to us
        self._config = config  # of the broker that lives
        self._wanted = config  # of the next one
        self._lock = lock
        self._timings = timings
        self._early = _early(config, timings)
        self._page = Page.create()
        self._token = 0
        self._living = 0  # the token of a broker that may live; 0: none does
        self._is_alarmed = False  # it has been told that nobody can fence that one
        self._fencer: End | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = 0.0
        self._poll = select.epoll()

    def start(self) -> None:
        self._begin()
        while self._fencer is None or not self._fencer.is_up:
            wait_readable(self.fileno(), self._begun + START)
            is_late = time.monotonic() >= self._begun + START
            if self.events() or is_late:
                self._end_fencer()
                raise UnderstudyError("the fencer did not start")

    def fileno(self) -> int:
        return self._poll.fileno()

    def events(self) -> list[Event]:
        fencer = self._fencer
        if fencer is None:
            return []
        events: list[Event] = []
        for message in fencer.receive(self._poll):
            if isinstance(message, (Started, Exited, Dead)):
                events.append(message)
                if isinstance(message, Dead) and not message.left:
                    self._living = 0
                    self._is_alarmed = False
                    self._send(Seen(message.token))
        fencer.look(self._poll)
        if not fencer.is_alive:
            events += self._lost(fencer)
        return events

    def promote(self, reign: Reign, deadline: float, descriptors: tuple[int, ...] = ()) -> None:
        if self._fencer is None:
            self._begin()
        assert self._fencer is not None
        self._config = self._wanted
        self._early = _early(self._config, self._timings)
        self._token = self._living = reign.token
        self.extend(deadline)
        env = environment(self._config, reign, os.environ)
        launch = Launch(reign.token, (), env, "/", 0o022, None, bool(descriptors))
        plan = self._plan()
        try:
            self._fencer.wire.send(launch, (plan, *descriptors))
        finally:
            os.close(plan)

    def beat(self) -> None:
        if self._fencer is None:
            if self._living:
                with contextlib.suppress(UnderstudyError):
                    self._begin()
        elif self._fencer.is_up:
            self._fencer.doubt(self._page.sign_of("fencer"), time.monotonic())
        elif time.monotonic() >= self._begun + START:
            assert self._process is not None
            self._process.kill()

    def configure(self, config: BrokerConfig) -> None:
        self._wanted = config

    def extend(self, deadline: float) -> None:
        self._page.extend(deadline - self._early, self._token)

    def demote(self, until: float) -> None:
        self._send(Stop(self._token, 0, until))

    def fence(self, cause: str) -> None:
        self._send(Kill(self._token, cause))

    def over(self) -> None:
        self._page.clear()

    def close(self) -> None:
        if self._fencer is not None:
            self._fencer.hang_up(self._poll)
        if self._process is not None:
            assert self._config.fence is not None
            with contextlib.suppress(subprocess.TimeoutExpired):  # it goes on trying to fence
                self._process.wait(self._config.fence.timeout + CLOSE)
            if self._process.returncode == 0:  # what lived is fenced, so no deputy has to
                self._page.clear()
        if self._fencer is not None:
            self._fencer.close(self._poll)
            self._fencer = None
        self._poll.close()
        self._page.close()

    # --------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start a fencer, which fences first what may live; orders wait for it."""
        plan = self._plan()
        ours, theirs = Wire.pair()
        ourselves = _ourselves()
        descriptors = (plan, theirs.fileno(), self._page.descriptor, ourselves)
        argv = [sys.executable, "-m", "understudyd.drivers.fencer", *map(str, descriptors)]
        argv.append(str(self._living))
        try:
            self._process = subprocess.Popen(
                argv,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONSAFEPATH": "1"},
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise UnderstudyError(f"the fencer could not be started: {error}") from error
        finally:
            theirs.close()
            os.close(plan)
            os.close(ourselves)
        pid = self._process.pid
        self._begun = time.monotonic()
        self._fencer = End("fencer", ours, pid, os.pidfd_open(pid))
        self._fencer.register(self._poll)

    def _plan(self) -> int:
        env = environment(self._config, None, os.environ)
        margin = self._timings.margin
        return Plan.of(self._config, env, self._lock, margin=margin).hidden()

    def _send(self, order: Stop | Kill | Seen) -> None:
        if self._fencer is not None:
            with contextlib.suppress(OSError):  # it has died: `events` tells what follows
                self._fencer.wire.send(order)

    def _lost(self, fencer: End) -> list[Event]:
        """If a broker may live, another fencer fences it. Nobody waits for that one: to renew the
        lease is what keeps others from the lock meanwhile."""
        self._end_fencer()
        cause = f"the process that fences the broker {fencer.cause}"
        events: list[Event] = [GuardLost(cause, fencer.is_up)]
        if fencer.is_up:  # else `beat` or `promote` tries again
            with contextlib.suppress(UnderstudyError):
                self._begin()
        if self._fencer is None and self._living and not self._is_alarmed:
            self._is_alarmed = True
            events.append(Dead(self._living, 0.0, (f"the broker ({cause})",)))
        return events

    def _end_fencer(self) -> None:
        if self._fencer is None:
            return
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._fencer.close(self._poll)
        self._fencer = None


def _ourselves() -> int:
    """A pidfd. A fencer that asked for its parent would find another, where we die early."""
    return os.pidfd_open(os.getpid())


def _early(config: BrokerConfig, timings: Timings) -> float:
    """How long before the deadline fencing has to begin."""
    assert config.fence is not None
    return max(0.0, config.fence.timeout - timings.kill)
