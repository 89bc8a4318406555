"""What the bridges of a file look like now, asked of the process that runs them; orders to it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from understudy.core.option_reader import nearest
from understudy.errors import ConfigurationError, UnderstudyError
from understudyd.bridge.status import CONNECTING
from understudyd.cli import ask
from understudyd.config.bridges import BridgeConfig
from understudyd.config.model import Place
from understudyd.config.network import NetworkConfig

__all__ = ["Look", "NotDone", "Question", "choose", "is_done"]

STEP = 0.1  # s between two looks
CONNECT = 5.0  # s; a login takes some tenths


class NotDone(UnderstudyError):
    """The bridge process did not do what it was told."""


@dataclass(frozen=True)
class Look:
    """``bridges`` as ``/status`` tells them."""

    bridges: list[dict[str, Any]]
    missing: tuple[str, ...] = ()
    """Those of the file that the process does not run."""

    def to_json(self) -> dict[str, Any]:
        return {"bridges": self.bridges, "not_run": list(self.missing)}


class Question:
    """Asks the process that runs bridges of a file."""

    def __init__(self, config: NetworkConfig, names: Sequence[str]) -> None:
        """``names``: which bridges are asked for. Raises ConfigurationError where nobody can be
        asked."""
        if config.api is None:
            raise ConfigurationError(
                f"{config.file}: has no [network] api, so no bridge process can be asked: write "
                '[network] api = "127.0.0.1:8900" and start `understudy bridge` again'
            )
        self._config = config
        self._place: Place = config.api
        self._names = tuple(names)

    def look(self) -> Look:
        """Raises NotDone when nobody answers."""
        try:
            answered = ask.get(self._place, self._config.shared, "/status")
        except ask.NoAnswer as error:
            raise NotDone(
                f"no bridge process answers at {self._place} ({error}): start it with "
                f"understudy bridge -c {self._config.file}, or mend [network] api"
            ) from error
        if answered.code != 200 or not isinstance(answered.data, dict):
            raise NotDone(f"the bridge process at {self._place} is not well: {answered.reason}")
        told = {bridge["name"]: bridge for bridge in answered.data.get("bridges", ())}
        bridges = [told[name] for name in self._names if name in told]
        return Look(bridges, tuple(name for name in self._names if name not in told))

    def one(self, name: str) -> dict[str, Any]:
        """The bridge of that name. Raises NotDone where it is not run."""
        for bridge in self.look().bridges:
            if bridge["name"] == name:
                return bridge
        raise NotDone(
            f"the bridge process at {self._place} does not run {name}: start it anew, or send it "
            "SIGHUP if the bridge was added to the file"
        )

    def order(self, name: str, verb: str) -> str:
        """Returns a remark. Raises ConfigurationError without a token, NotDone for a refusal."""
        if self._config.shared.token is None:
            raise ConfigurationError(
                f"{self._config.file}: has no token of [api], so no bridge obeys: write [api] "
                "token or token_file, and start `understudy bridge` again"
            )
        self.one(name)
        path = f"/bridges/{name}/{verb}"
        try:
            answered = ask.post(self._place, self._config.shared, path)
        except ask.NoAnswer as error:
            raise NotDone(f"{name} was told to {verb} and gave no answer ({error})") from error
        if answered.code == 401:
            raise NotDone(
                f"{name} refused to {verb}: the token of {self._config.file} is not that of the "
                "bridge process; start it again if the token was changed"
            )
        if answered.code != 202:
            raise NotDone(f"{name} refused to {verb}: {answered.reason}")
        return str(answered.data.get("reason", ""))

    def wait_for(self, name: str, verb: str, patience: float) -> dict[str, Any]:
        """How it is when the order was carried out; one that was resumed has `CONNECT` seconds to
        connect. Raises NotDone when that takes too long."""
        start = time.monotonic()
        while True:
            told = self.one(name)
            spent = time.monotonic() - start
            if is_done(verb, told, spent >= min(CONNECT, patience)):
                return told
            if spent >= patience:
                raise NotDone(f"{name} is {told['state']} after {patience:g} s: {told['reason']}")
            time.sleep(STEP)


def is_done(verb: str, told: dict[str, Any], has_waited: bool) -> bool:
    """Whether an order was carried out; ``has_waited``: whether one that still connects has had its
    time."""
    if verb != "resume":
        return bool(told["state"] == "paused")
    is_connecting = any(link["reason"].startswith(CONNECTING) for link in told["links"])
    return told["state"] not in ("paused", "pausing") and (has_waited or not is_connecting)


def choose(config: NetworkConfig, bridges: dict[str, BridgeConfig], name: str | None) -> list[str]:
    """The name that was given, or all there are; raises ConfigurationError."""
    if not bridges:
        raise ConfigurationError(f"{config.file}: has no bridge: write [bridges.NAME]")
    if name is None:
        return list(bridges)
    if name not in bridges:
        raise ConfigurationError(
            f"{config.file}: bridges has no {name!r} (there are: {', '.join(bridges)})"
            f"{nearest(name, bridges)}"
        )
    return [name]
