"""What the API answers: a request and what is known go in, an answer comes out. Pure.

Rules
* A role is told only while it is true at this moment: ``/master`` is 200 only while the lease of
  this reign is valid, the broker lives and was healthy, and the sidecar spoke less than `STALE`
  seconds ago. In doubt 503.
* The sidecar decides what becomes of a POST; here is only checked who may ask, and in which form.
* GET, HEAD and OPTIONS (HAProxy's default check) are answered alike, and to everybody.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from understudyd.api.metrics import METRICS, Sample, render
from understudyd.api.page import Pulse, Snapshot
from understudyd.api.words import COMMANDS
from understudyd.config.model import Api
from understudyd.status import FENCING_FAILED, NodeStatus, Role, believed

__all__ = [
    "GETS",
    "READS",
    "Asked",
    "Command",
    "Reply",
    "View",
    "body_of",
    "forbidden",
    "refusal",
    "reply",
    "route",
]

ALIVE = 1.0  # s; /liveness: four beats
# s; a broker is judged after three failed checks, one a second: an older judgement is worth nothing
STALE = 3.0
READS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class View:
    """What is known at the moment of the answer. Times are seconds of CLOCK_BOOTTIME."""

    now: float
    pulse: Pulse
    snapshot: Snapshot | None
    is_control_alive: bool = True
    is_broker_alive: bool = True  # its process, where there is one
    own: tuple[Sample, ...] = ()  # samples of the API process itself


@dataclass(frozen=True)
class Asked:
    """A whole request."""

    method: str
    target: str  # path and query
    peer: str = ""  # IP address
    authorization: str = ""
    body: bytes = b""


@dataclass(frozen=True)
class Reply:
    code: int
    body: bytes
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Command:
    """A POST that may go to the sidecar, or to the bridge."""

    name: str  # the sidecar's: one of COMMANDS
    to: str | None = None


Answer: TypeAlias = Reply | Command


def route(asked: Asked, view: View, api: Api) -> Answer:
    path, _, query = asked.target.partition("?")
    path = path.rstrip("/") or "/"
    name = path[1:]
    if path in GETS:
        if asked.method not in READS:
            return refusal(405, f"{path} is read with GET", allow=", ".join(READS))
        return GETS[path](view, dict(parse_qsl(query)))
    if name in COMMANDS:
        if asked.method != "POST":
            return refusal(405, f"{path} is asked for with POST", allow="POST")
        return _order(name, asked, api)
    valid = " ".join((*GETS, *(f"/{command}" for command in COMMANDS)))
    return refusal(404, f"there is no such page (there are: {valid})")


# --- what is true at this moment -----------------------------------------------------------------


def _not_fresh(view: View, limit: float = STALE) -> str:
    """Why nothing that the sidecar said counts any more; empty while it does."""
    if not view.is_control_alive:
        return "the sidecar is dead"
    if view.snapshot is None:
        return "the sidecar has not told anything yet"
    age = view.now - view.pulse.beat
    return f"the sidecar has been silent for {age:.1f} s" if age > limit else ""


def _not_master(view: View) -> str:
    reason = _not_fresh(view)
    if reason or view.snapshot is None:
        return reason
    status = view.snapshot.status
    if status.role != Role.MASTER:
        return f"this node is {_role(status)}"
    if view.pulse.token != status.token or view.now >= view.pulse.deadline:
        return "the lease is not valid"
    if not view.is_broker_alive:
        return "the broker has ended"
    return "" if status.broker.healthy else "the broker is not healthy"


def _not_standby(view: View) -> str:
    reason = _not_fresh(view)
    if reason or view.snapshot is None:
        return reason
    status = view.snapshot.status
    return "" if status.role == Role.STANDBY else f"this node is {_role(status)}"


def _not_healthy(view: View) -> str:
    reason = _not_fresh(view)
    if reason or view.snapshot is None:
        return reason
    status = view.snapshot.status
    if status.state == FENCING_FAILED:
        return view.snapshot.trouble or status.state
    return _not_master(view) if status.role == Role.MASTER else ""


def _not_ready(view: View) -> str:
    reason = _not_healthy(view)
    if reason or view.snapshot is None or view.snapshot.is_ready:
        return reason
    return view.snapshot.trouble or "this node is not ready"


def _role(status: NodeStatus) -> str:
    return status.state if status.role == Role.NONE else status.role


def _status(view: View) -> dict[str, Any]:
    if view.snapshot is None:
        return {}
    status = view.snapshot.status
    remaining = None
    if status.token is not None and status.token == view.pulse.token:
        remaining = round(max(0.0, view.pulse.deadline - view.now), 3)
    return replace(status, lease_remaining_s=remaining).to_json()


# --- pages ------------------------------------------------------------------------------------


def _probe(why_not: Callable[[View], str]) -> Page:
    """200 with the status, or 503 with the reason too."""

    def page(view: View, _: Mapping[str, str]) -> Reply:
        reason = why_not(view)
        data = _status(view) | ({"reason": reason} if reason else {})
        return reply(503 if reason else 200, data)

    return page


def _readiness(view: View, query: Mapping[str, str]) -> Reply:
    return _probe(_not_master if query.get("role") == "master" else _not_ready)(view, query)


def _cluster(view: View, _: Mapping[str, str]) -> Reply:
    reason = _not_fresh(view)
    if reason or view.snapshot is None:
        return refusal(503, reason)
    age = view.now - view.snapshot.at
    cluster = view.snapshot.cluster
    nodes = tuple(
        node if node.seen_s is None else replace(node, seen_s=round(node.seen_s + age, 3))
        for node in cluster.nodes
    )
    return reply(200, replace(cluster, nodes=believed(nodes, cluster.master)).to_json())


def _history(view: View, _: Mapping[str, str]) -> Reply:
    reason = _not_fresh(view)
    if reason or view.snapshot is None:
        return refusal(503, reason)
    return reply(200, [entry.to_json() for entry in view.snapshot.history])


def _uris(view: View, _: Mapping[str, str]) -> Reply:
    reason = _not_fresh(view)
    if reason or view.snapshot is None:
        return Reply(503, reason.encode(), "text/plain; charset=utf-8")
    return Reply(200, ",".join(view.snapshot.uris).encode(), "text/plain; charset=utf-8")


def _metrics(view: View, _: Mapping[str, str]) -> Reply:
    """Always 200: that the sidecar is dead is worth a sample."""
    samples: list[Sample] = [
        ("up", not _not_fresh(view, ALIVE), {}),
        ("master", not _not_master(view), {}),
        ("ready", not _not_ready(view), {}),
    ]
    labels = {}
    if view.snapshot is not None:
        status, cluster = view.snapshot.status, view.snapshot.cluster
        labels = {"group": status.group, "node": status.node}
        samples += [
            ("info", 1, {"version": status.version}),
            ("broker_healthy", status.broker.healthy, {}),
            ("fencing_failed", status.state == FENCING_FAILED, {}),
            ("paused", cluster.is_paused, {}),
            ("token", cluster.token or 0, {}),
            ("lease_remaining_seconds", _status(view)["lease_remaining_s"] or 0, {}),
            ("beat_age_seconds", max(0.0, view.now - view.pulse.beat), {}),
        ]
        samples += [
            (
                "member_seen_seconds",
                node.seen_s + view.now - view.snapshot.at,
                {"member": node.name},
            )
            for node in cluster.nodes
            if node.seen_s is not None
        ]
        told = view.snapshot.metrics
        samples += [(name, value, {}) for name, value in told.items() if name in METRICS]
    text = render([*samples, *view.own], labels)
    return Reply(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")


def _liveness(view: View) -> str:
    return _not_fresh(view, ALIVE)


Page: TypeAlias = Callable[[View, Mapping[str, str]], Reply]

_MASTER, _STANDBY = _probe(_not_master), _probe(_not_standby)
GETS: dict[str, Page] = {
    "/master": _MASTER,
    "/primary": _MASTER,
    "/leader": _MASTER,
    "/standby": _STANDBY,
    "/replica": _STANDBY,
    "/health": _probe(_not_healthy),
    "/liveness": _probe(_liveness),
    "/readiness": _readiness,
    "/status": _probe(_not_fresh),
    "/cluster": _cluster,
    "/history": _history,
    "/uris": _uris,
    "/metrics": _metrics,
}


# --- commands ---------------------------------------------------------------------------------


def _order(name: str, asked: Asked, api: Api) -> Answer:
    if (refused := forbidden(asked, api)) is not None:
        return refused
    valid = {"to"} if name in ("switchover", "failover") else set()
    data = body_of(asked, valid)
    if isinstance(data, Reply):
        return data
    to = data.get("to")
    if to is not None and not isinstance(to, str):
        return refusal(400, '"to" must be the name of a node')
    return Command(name, to)


def forbidden(asked: Asked, api: Api) -> Reply | None:
    """The refusal for who may not order anything; None: may."""
    if api.allow and not _is_allowed(asked.peer, api):
        return refusal(403, f"{asked.peer} is not in [api] allow")
    if api.token is None:
        return refusal(403, "commands are off: the configuration has no [api] token")
    scheme, _, given = asked.authorization.partition(" ")
    token = api.token.reveal().encode()
    is_right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token)
    if scheme.casefold() != "bearer" or not is_right:
        reason = "send the header Authorization: Bearer TOKEN, with the token of [api]"
        return refusal(401, reason, **{"www-authenticate": "Bearer"})
    return None


def body_of(asked: Asked, valid: Collection[str]) -> dict[str, Any] | Reply:
    """The object that was sent, with these keys at most, or the refusal."""
    try:
        data = json.loads(asked.body or b"{}")
    except (ValueError, RecursionError):
        return refusal(400, "the body is no JSON")
    if not isinstance(data, dict) or not data.keys() <= set(valid):
        return refusal(400, f"the body must be an object with {' and '.join(valid) or 'no keys'}")
    return data


def _is_allowed(peer: str, api: Api) -> bool:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in api.allow)


# ----------------------------------------------------------------------------------------------


def reply(code: int, data: object) -> Reply:
    """With JSON."""
    return Reply(code, json.dumps(data).encode() + b"\n")


def refusal(code: int, reason: str, **headers: str) -> Reply:
    """Any code, with the reason as JSON."""
    return replace(reply(code, {"reason": reason}), headers=tuple(headers.items()))
