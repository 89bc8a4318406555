"""The broker as a process of its own, under the guards."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from understudy.errors import UnderstudyError
from understudyd.config.model import BrokerConfig
from understudyd.drivers.port import Event, Reign
from understudyd.guard.client import Guard
from understudyd.guard.words import Command, GuardLost, Lock
from understudyd.lock.timings import Timings

__all__ = ["ProcessDriver", "environment"]


def environment(
    config: BrokerConfig, reign: Reign | None, own: Mapping[str, str]
) -> dict[str, str]:
    """What a command of ours sees: the sidecar's own environment, the configured one, the token."""
    ours = {name: value for name, value in own.items() if not name.startswith("UNDERSTUDY_")}
    if reign is None:
        return {**ours, **config.env}
    token = {
        "UNDERSTUDY_LOCK_TOKEN": str(reign.token),
        "UNDERSTUDY_LOCK_EPOCH": reign.epoch,
    }
    return {**ours, **config.env, **token}


class ProcessDriver:
    def __init__(
        self,
        config: BrokerConfig,
        lock: Lock | None,
        *,
        timings: Timings,
        owned: Callable[[], Iterable[int]],
    ) -> None:
        """``lock`` and ``owned`` as `Guard` takes them."""
        self._config = config
        self._lock = lock
        self._terms: dict[str, Any] = {
            "kill": timings.kill,
            "margin": timings.margin,
            "owned": owned,
        }
        self._guard = Guard(lock, **self._terms)
        self._token = 0

    def start(self) -> None:
        self._guard.start()

    @property
    def is_ready(self) -> bool:
        return self._guard.is_ready

    def hand_on(self) -> str:
        return self._guard.expect_restart()

    def adopt(self, state: str, token: int) -> None:
        self._guard.close()
        self._guard = Guard.adopt(state, self._lock, **self._terms)
        self._token = token

    def fileno(self) -> int:
        return self._guard.fileno()

    def events(self) -> list[Event]:
        events: list[Event] = self._guard.events()
        if any(isinstance(event, GuardLost) and event.were_up for event in events):
            with contextlib.suppress(UnderstudyError):  # `promote` tries again, and tells
                self._guard.begin()
        return events

    def promote(self, reign: Reign, deadline: float, descriptors: tuple[int, ...] = ()) -> None:
        self._token = reign.token
        command = Command(
            argv=self._config.command,
            env=environment(self._config, reign, os.environ),
            cwd=str(self._config.cwd or "/"),
            user=self._config.user,
        )
        if not self._guard.is_begun:
            self._guard.begin()
        self._guard.extend(deadline, reign.token)
        self._guard.launch(command, reign.token, descriptors)

    def beat(self) -> None:
        self._guard.beat()

    def configure(self, config: BrokerConfig) -> None:
        self._config = config

    def extend(self, deadline: float) -> None:
        self._guard.extend(deadline, self._token)

    def demote(self, until: float) -> None:
        self._guard.stop(signal.SIGTERM, until)

    def fence(self, cause: str) -> None:
        self._guard.kill(cause)

    def over(self) -> None:
        self._guard.over()

    def close(self) -> None:
        self._guard.close()
