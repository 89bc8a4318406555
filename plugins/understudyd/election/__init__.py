"""The election: who may campaign, and how much later than the best candidate. Pure.

Rules
* Safety is the lock's alone. An election that knows nothing, or something false, costs a second
  try or a worse choice, never a second master.
* The best candidate is the heaviest; of equals the first by name. Each better candidate that was
  seen lately and could be master costs `STEP` seconds, in which it has claimed the lock.
* Who held the lock last, and is gone, stands in nobody's way. A tombstone that names an heir gives
  that one a head start over all others.
"""

from __future__ import annotations

from collections.abc import Iterable

from understudyd.status import Member, Role

__all__ = ["FRESH", "STEP", "better", "delay", "is_candidate", "is_master"]

STEP = 0.15  # s; several round trips to a lock
FRESH = 3.0  # s; older news of a node, which tells each second, are none


def is_candidate(member: Member) -> bool:
    """Whether this node said lately that it could be master."""
    is_ready = member.role == Role.STANDBY and member.healthy and not member.nofailover
    return is_ready and _is_fresh(member)


def is_master(member: Member) -> bool:
    """Whether this node said lately that it is master."""
    return member.role == Role.MASTER and _is_fresh(member)


def _is_fresh(member: Member) -> bool:
    return member.seen_s is not None and member.seen_s <= FRESH


def better(members: Iterable[Member], name: str, weight: int) -> list[Member]:
    """The candidates that come before the node of this name and weight, the best one first."""
    order = (-weight, name)
    ahead = [one for one in members if is_candidate(one) and (-one.weight, one.name) < order]
    return sorted(
        (one for one in ahead if one.name != name), key=lambda one: (-one.weight, one.name)
    )


def delay(members: Iterable[Member], name: str, weight: int, gone: str = "") -> float:
    """Seconds to leave to better candidates; ``gone`` is the node whose reign is over."""
    return STEP * sum(one.name != gone for one in better(members, name, weight))
