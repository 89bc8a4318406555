"""A broker that commands start and stop: promote, demote and fence, each with a time limit.

What fences within its time limit has to begin that much before the lease and its K are over. So the
lease must be long enough to be renewed in time all the same, or the timings are refused.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterable

from understudy.errors import ConfigurationError, UnderstudyError
from understudyd.config.model import BrokerConfig
from understudyd.drivers.fencer import Plan
from understudyd.drivers.port import Event, Reign
from understudyd.drivers.process import environment
from understudyd.guard.page import Page
from understudyd.guard.wire import Wire
from understudyd.guard.words import Dead, Exited, GuardLost, Kill, Launch, Lock, Seen, Started, Stop
from understudyd.lock.timings import ATTEMPTS, Timings

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
        """Raises ConfigurationError when the lease is too short for the fence command's limit."""
        del owned  # no orphans come to us
        self._config = config
        self._lock = lock
        self._early = _early(config, timings)
        self._page = Page.create()
        self._token = 0
        self._living = 0  # the token of a broker that may live; 0: none does
        self._orphaned = 0  # the same, of one whose fencer has died
        self._wire: Wire | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._poll = select.epoll()

    def start(self) -> None:
        ours, theirs = Wire.pair()
        descriptors = (theirs.fileno(), self._page.descriptor)
        plan = Plan.of(self._config, self._lock).to_json()
        argv = [sys.executable, "-m", "understudyd.drivers.fencer", plan, *map(str, descriptors)]
        argv.append(str(self._orphaned))
        env = {**os.environ, "PYTHONSAFEPATH": "1"}
        try:
            self._process = subprocess.Popen(
                argv,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                env=env,
                start_new_session=True,
            )
        except OSError as error:
            raise UnderstudyError(f"the fencer could not be started: {error}") from error
        finally:
            theirs.close()
        poll = select.poll()
        poll.register(ours.fileno(), select.POLLIN)
        try:
            if not poll.poll(START * 1000) or ours.receive() is None:
                raise EOFError
        except EOFError:
            self._process.kill()
            self._process.wait()
            ours.close()
            raise UnderstudyError("the fencer did not start") from None
        self._wire = ours
        self._orphaned = 0
        self._poll.register(ours.fileno(), select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    def events(self) -> list[Event]:
        events: list[Event] = []
        try:
            while self._wire is not None and (received := self._wire.receive()) is not None:
                if isinstance(received[0], (Started, Exited, Dead)):
                    events.append(received[0])
                    if isinstance(received[0], Dead) and not received[0].left:
                        self._living = 0
                        self._send(Seen(received[0].token))
        except EOFError:
            events += self._lost()
        return events

    def promote(self, reign: Reign, deadline: float, descriptors: tuple[int, ...] = ()) -> None:
        if self._wire is None:
            self.start()
        assert self._wire is not None
        self._token = self._living = reign.token
        self.extend(deadline)
        env = environment(self._config, reign, os.environ)
        launch = Launch(reign.token, (), env, "/", 0o022, None, bool(descriptors))
        self._wire.send(launch, descriptors)

    def beat(self) -> None:
        if self._wire is None and self._orphaned:
            with contextlib.suppress(UnderstudyError):
                self.start()

    def configure(self, config: BrokerConfig) -> None:
        self._config = config  # of the next fencer

    def extend(self, deadline: float) -> None:
        self._page.extend(deadline - self._early, self._token)

    def demote(self, until: float) -> None:
        self._send(Stop(self._token, 0, until))

    def fence(self, cause: str) -> None:
        self._send(Kill(self._token, cause))

    def over(self) -> None:
        self._page.clear()

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        if self._process is not None:
            assert self._config.fence is not None
            with contextlib.suppress(subprocess.TimeoutExpired):  # it goes on trying to fence
                self._process.wait(self._config.fence.timeout + CLOSE)
        self._poll.close()
        self._page.close()

    def _send(self, order: Stop | Kill | Seen) -> None:
        if self._wire is not None:
            with contextlib.suppress(OSError):  # it has died: `events` tells what follows
                self._wire.send(order)

    def _lost(self) -> list[Event]:
        """The fencer died. If a broker may live, another one fences it."""
        assert self._wire is not None
        assert self._process is not None
        self._wire.close()
        self._wire = None
        self._process.wait()
        self._orphaned = self._living
        events: list[Event] = [GuardLost("the process that fences the broker died")]
        try:
            self.start()
        except UnderstudyError as error:
            if self._orphaned:
                events.append(Dead(self._living, 0.0, (f"the broker ({error})",)))
        return events


def _early(config: BrokerConfig, timings: Timings) -> float:
    """How long before the deadline fencing has to begin."""
    assert config.fence is not None
    early = max(0.0, config.fence.timeout - timings.kill)
    needed = timings.renew + ATTEMPTS * timings.attempt + early
    if timings.budget < needed:
        raise ConfigurationError(
            f"the lease is too short for a fence command that may take {config.fence.timeout:g} s:"
            f" lease - kill - margin must be at least renew + {ATTEMPTS} x attempt + fence_timeout"
            f" - kill, but {timings.budget:.3g} s is less than {needed:.3g} s; set a shorter"
            " fence_timeout or a longer lease"
        )
    return early
