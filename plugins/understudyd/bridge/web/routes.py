"""What the API of bridges answers: a request and what is known go in, an answer comes out. Pure.

Rules
* What the bridge process wrote counts while that process was alive `STALE` seconds ago; after that
  503: nobody is told that a bridge runs by one that stands still.
* The bridge process decides what becomes of a POST; here is only checked who may ask, for what.
* GET, HEAD and OPTIONS are answered alike, and to everybody.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from understudyd.api.metrics import Sample
from understudyd.api.routes import (
    READS,
    Asked,
    Command,
    Reply,
    body_of,
    forbidden,
    refusal,
    reply,
)
from understudyd.bridge.status import TROUBLE
from understudyd.bridge.web.metrics import text
from understudyd.config.model import Api

__all__ = ["VERBS", "View", "route"]

STALE = 3.0  # s; it writes twice a second
DEAD = 10.0  # s without a beat; a batch of large messages takes a second
VERBS = ("pause", "resume", "drain")
ORDER = re.compile(r"/bridges/([^/]+)/([^/]+)")
WHAT = "/health /liveness /status /metrics, POST /bridges/NAME/pause|resume|drain"


@dataclass(frozen=True)
class View:
    """What is known at the moment of the answer."""

    told: dict[str, Any] | None
    """What the bridge process wrote: ``bridges`` as `/status` shows them, ``version``."""
    silent: float  # s since it was alive
    is_owner_alive: bool = True  # by the kernel's word
    own: tuple[Sample, ...] = ()  # samples of the API process itself

    @property
    def bridges(self) -> list[dict[str, Any]]:
        return list(self.told["bridges"]) if self.told else []


def route(asked: Asked, view: View, api: Api) -> Reply | Command:
    path = asked.target.partition("?")[0].rstrip("/") or "/"
    if path in GETS:
        if asked.method not in READS:
            return refusal(405, f"{path} is read with GET", allow=", ".join(READS))
        return GETS[path](view)
    if (found := ORDER.fullmatch(path)) and found[2] in VERBS:
        if asked.method != "POST":
            return refusal(405, f"{path} is asked for with POST", allow="POST")
        return _order(found[1], found[2], asked, view, api)
    return refusal(404, f"there is no such page (there are: {WHAT})")


def _not_fresh(view: View, limit: float = STALE) -> str:
    """Why nothing that was written counts any more; empty while it does."""
    if not view.is_owner_alive:
        return "the bridge process is dead"
    if view.told is None:
        return "the bridge process has not told anything yet"
    if view.silent > limit:
        return f"the bridge process has been silent for {view.silent:.1f} s"
    return ""


def _status(view: View) -> Reply:
    if reason := _not_fresh(view):
        return reply(503, {"bridges": [], "reason": reason})
    return reply(200, {"bridges": view.bridges})


def _health(view: View) -> Reply:
    """200 while each bridge moves, or rests since somebody wants it to."""
    states = {bridge["name"]: bridge["state"] for bridge in view.bridges}
    ill = [
        f"{bridge['name']} is {bridge['state']}: {bridge['reason']}"
        for bridge in view.bridges
        if bridge["state"] in TROUBLE
    ]
    reason = _not_fresh(view) or "; ".join(ill)
    return reply(503 if reason else 200, {"bridges": states, "reason": reason})


def _liveness(view: View) -> Reply:
    """200 while the process works, whatever its brokers do."""
    reason = _not_fresh(view, DEAD)
    return reply(503 if reason else 200, {"reason": reason})


def _metrics(view: View) -> Reply:
    """Always 200: that the bridge process is dead is worth a sample."""
    shown = text(view.told, is_up=not _not_fresh(view), own=view.own)
    return Reply(200, shown.encode(), "text/plain; version=0.0.4; charset=utf-8")


Page: TypeAlias = Callable[[View], Reply]

GETS: dict[str, Page] = {
    "/health": _health,
    "/liveness": _liveness,
    "/status": _status,
    "/metrics": _metrics,
}


def _order(name: str, verb: str, asked: Asked, view: View, api: Api) -> Reply | Command:
    if (refused := forbidden(asked, api)) is not None:
        return refused
    data = body_of(asked, ())
    if isinstance(data, Reply):
        return data
    names = [bridge["name"] for bridge in view.bridges]
    if reason := _not_fresh(view):
        return refusal(503, reason)
    if name not in names:
        return refusal(404, f"no bridge {name!r} runs here (there are: {', '.join(names)})")
    return Command(verb, name)
