"""What a node says of itself: to the board, and through its API. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from understudyd.api.page import Snapshot
from understudyd.sidecar.billboard import News
from understudyd.sidecar.node import Machine
from understudyd.sidecar.phase import Phase
from understudyd.status import BrokerStatus, ClusterStatus, Member, NodeStatus, Role

__all__ = ["cluster", "lease", "member", "snapshot", "status", "urgent"]


def snapshot(machine: Machine, now: float, news: News, metrics: Mapping[str, float]) -> Snapshot:
    trouble = _trouble(machine, now)
    return Snapshot(
        status=status(machine, now),
        cluster=cluster(machine, now, news.members),
        history=news.history,
        uris=machine.group.uris(machine.tenure.sight.holder),
        is_ready=not trouble and (machine.role == Role.MASTER or machine.is_ready(now)),
        trouble=trouble,
        metrics=dict(metrics),
    )


def urgent(machine: Machine, now: float) -> object:
    """Another value as soon as the API would lie, about this node or the master, by showing the
    snapshot before; ages and counts it may show a moment later."""
    sight = machine.tenure.sight
    return (
        status(machine, now),
        machine.is_ready(now),
        machine.is_paused,
        sight.token,
    )


def lease(machine: Machine) -> tuple[float, int]:
    """Until when the lease may be relied on, and its token, while this node is master."""
    if machine.role != Role.MASTER or machine.token is None:
        return -math.inf, 0
    return machine.keeper.deadline, machine.token


def status(machine: Machine, now: float) -> NodeStatus:
    """What is left of the lease is for the API to say, at the moment of its answer."""
    warnings = [_trouble(machine, now)]
    if machine.tenure.pid:
        warnings.append(machine.kill_time.warning)
    return NodeStatus(
        group=machine.group.name,
        node=machine.node.name,
        role=machine.role,
        state=_state(machine),
        token=machine.token,
        master=machine.tenure.sight.holder,
        # 0: commands started it, and nobody knows its process
        broker=BrokerStatus(machine.tenure.checks.is_healthy, machine.tenure.pid or None),
        warnings=tuple(filter(None, warnings)),
    )


def member(machine: Machine, now: float) -> Member:
    is_master = machine.role == Role.MASTER
    return Member(
        name=machine.node.name,
        role=machine.role,
        state=_state(machine),
        weight=machine.node.weight,
        api=str(machine.node.api),
        healthy=machine.tenure.checks.is_healthy if is_master else machine.is_ready(now),
        nofailover=machine.node.nofailover,
        token=machine.token,
        stamp=machine.keeper.highest_token,
        kill_s=round(machine.kill_time.estimate, 3) if is_master else 0.0,
    )


def cluster(machine: Machine, now: float, others: Iterable[Member]) -> ClusterStatus:
    me = machine.node.name
    known = {one.name: one for one in others}
    known[me] = replace(member(machine, now), seen_s=0.0)
    unheard = (
        Member(node.name, Role.NONE, "unknown", node.weight, str(node.api))
        for node in machine.group.nodes.values()
        if node.name not in known
    )
    nodes = sorted([*known.values(), *unheard], key=lambda one: one.name)
    return ClusterStatus(
        group=machine.group.name,
        lock=str(machine.group.lock),
        master=machine.tenure.sight.holder,
        token=machine.tenure.sight.token,
        nodes=tuple(nodes),
        is_paused=machine.is_paused,
    )


def _trouble(machine: Machine, now: float) -> str:
    if machine.tenure.alarm or machine.keeper.refused:
        return machine.tenure.alarm or machine.keeper.refused
    sight = machine.tenure.sight
    if sight.age(now) <= machine.group.timings.lease:
        return ""
    return f"the lock does not answer: {sight.trouble}".removesuffix(": ")


def _state(machine: Machine) -> str:
    if machine.is_paused and machine.phase in (Phase.STANDBY, Phase.MASTER):
        return f"{machine.phase.value} (paused)"
    if machine.phase is Phase.STANDBY and machine.keeper.refused:
        return "refused"
    return machine.phase.value
