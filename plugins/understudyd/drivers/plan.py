"""What the fencer of an exec driver has to know from the start."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from understudyd.config.model import BrokerConfig, Command
from understudyd.guard.launch import Ids, identity
from understudyd.guard.words import Lock
from understudyd.lock.timings import Timings

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    promote: Command
    demote: Command
    fence: Command
    cwd: str
    ids: Ids | None  # of the user that the commands run as; None: our own
    env: Mapping[str, str]  # of a fence command for a broker of which only the token is known
    lock: Lock
    slack: float = Timings.margin / 2  # s; how much later than the fencer its deputy acts

    @classmethod
    def of(
        cls,
        config: BrokerConfig,
        env: Mapping[str, str],
        lock: Lock,
        *,
        margin: float = Timings.margin,
    ) -> Plan:
        """``margin``: m of the timings. Raises ConfigurationError for an unknown user."""
        assert config.promote is not None
        assert config.demote is not None
        assert config.fence is not None
        cwd = str(config.cwd or "/")
        ids = None if config.user is None else identity(config.user)
        return cls(config.promote, config.demote, config.fence, cwd, ids, env, lock, margin / 2)

    def command(self, name: str) -> Command:
        """``name``: promote, demote or fence."""
        command: Command = getattr(self, name)
        return command

    def hidden(self) -> int:
        """A descriptor for `of_descriptor`: in a command line all users of the machine would read
        the passwords that the lock's URI and the environment may hold."""
        descriptor = os.memfd_create("understudy-plan")
        os.pwrite(descriptor, json.dumps(asdict(self)).encode(), 0)
        return descriptor

    @classmethod
    def of_descriptor(cls, descriptor: int) -> Plan:
        """Closes it."""
        with open(descriptor, "rb") as file:
            file.seek(0)
            data = json.load(file)
        for name in ("promote", "demote", "fence"):
            data[name] = Command(tuple(data[name]["argv"]), data[name]["timeout"])
        if data["ids"] is not None:
            user, group, groups = data["ids"]
            data["ids"] = (user, group, tuple(groups))
        return cls(**{**data, "lock": Lock(**data["lock"])})
