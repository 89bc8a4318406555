"""Switchover and failover: whether the master may be given up for another node now. Pure.

Rules
* A request stands on the board, and comes again with all its news, until the master answers it.
* A switchover needs a candidate that could be master, and that said so after it was asked for: one
  that died a moment ago still looks well, and as the heir it would cost a lease without a master.
  Until it has said so nothing is touched; at the latest it is not `FRESH` any more, and refused.
* A failover is for haste. It takes a candidate's last word, and to a node that is named it believes
  whoever named it.
* A board that can be read shows this node at least. One that shows nobody can't be read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from understudyd import election
from understudyd.board.port import Answer, Request
from understudyd.config.model import Group
from understudyd.status import Member

__all__ = ["Moves"]

LAG = 0.25  # s that news of the board may be older than the moment they come


class Moves:
    def __init__(self) -> None:
        self._answered = ""  # the last request that was
        self._asked = ""  # the last one that came,
        self._since = math.inf  # and when it did first

    def judge(
        self,
        request: Request,
        obstacle: Answer | None,
        *,
        group: Group,
        me: str,
        members: Iterable[Member],
        now: float,
    ) -> tuple[Answer, str] | None:
        """The answer of the master ``me``, and its heir if that is 202; None: not now.

        ``obstacle``: what it has to answer whoever the candidate is.
        """
        if request.answer is not None or request.id == self._answered:
            return None
        if request.id != self._asked:
            self._asked, self._since = request.id, now
        known = {one.name: one for one in members}
        answer, heir = (obstacle, "") if obstacle else _choose(request, group, me, known)
        if heir and request.command == "switchover":
            spoke = known[heir].seen_s
            if spoke is None or spoke >= now - self._since - LAG:
                return None
        self._answered = request.id
        return answer, heir


def _choose(
    request: Request, group: Group, me: str, known: dict[str, Member]
) -> tuple[Answer, str]:
    if request.to == me:
        return Answer(409, f"{me} is master already"), ""
    if request.to is not None and request.to not in group.nodes:
        names = ", ".join(group.nodes)
        return Answer(409, f"there is no node {request.to!r}; nodes: {names}"), ""
    if not known and (request.to is None or request.command == "switchover"):
        return Answer(409, "nothing is known of the other nodes: the board can't be read now"), ""
    if request.to is None:
        ready = [one for one in known.values() if election.is_candidate(one) and one.name != me]
        if not ready:
            return Answer(409, "no other node could be master now"), ""
        return Answer(202), min(ready, key=lambda one: (-one.weight, one.name)).name
    candidate = known.get(request.to)
    if request.command == "switchover" and not (candidate and election.is_candidate(candidate)):
        return Answer(409, f"{request.to} could not be master now: {_why_not(candidate)}"), ""
    return Answer(202), request.to


def _why_not(member: Member | None) -> str:
    if member is None or member.seen_s is None:
        return "it was never heard of"
    if member.seen_s > election.FRESH:
        return f"it was last heard of {member.seen_s:.0f} s ago"
    if member.nofailover:
        return "it is not to be master (nofailover)"
    return f"it is {member.state}" + ("" if member.healthy else " and not ready")
