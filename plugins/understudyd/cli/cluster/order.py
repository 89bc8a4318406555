"""Orders to a group: to the API of the node that has to act, else as a request on the board.

Rules
* The board is asked only when nothing was said to an API, so that no order is given twice: the
  node does not answer, or there is no token to show.
* A refusal is final: it is the group's answer, and not a reason to ask elsewhere.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from understudy.errors import UnderstudyError
from understudyd.board.port import Request
from understudyd.cli import ask
from understudyd.cli.cluster.look import Look, board_of, look, read_board
from understudyd.config.model import Estate, Group
from understudyd.lock.port import Unavailable
from understudyd.status import Role

__all__ = ["Given", "NotDone", "give", "moved", "wait_until"]

STEP = 0.2  # s between two looks


class NotDone(UnderstudyError):
    """The group did not do what it was told."""


@dataclass(frozen=True)
class Given:
    """An order that was accepted, or put up where nobody could accept it yet."""

    before: Look
    way: str  # "api" or "board"
    reason: str = ""
    request: Request | None = None


def give(estate: Estate, group: Group, command: str, to: str | None = None) -> Given:
    """Raises NotDone for a refusal, and where neither API nor board can be reached."""
    before = look(estate, group)
    is_move = command in ("switchover", "failover")
    if is_move and before.cluster.master is None:
        raise NotDone(f"{group.name} has no master now, so nothing can be moved")
    wanted = before.masters if is_move else (*before.masters, *before.answering)
    if wanted and estate.api.token is not None:
        node = group.nodes[wanted[0]]
        try:
            answered = ask.post(node.api, estate.api, f"/{command}", to)
        except ask.NoAnswer as exc:
            raise NotDone(f"{node.name} was asked and gave no answer ({exc}); look again") from exc
        if answered.code == 401:
            raise NotDone(
                f"{node.name} refused the {command}: its token is not that of {estate.path}"
            )
        if answered.code != 202:
            raise NotDone(f"{node.name} refused the {command}: {answered.reason}")
        return Given(before, "api", str(answered.data.get("reason", "")))
    request = Request(uuid.uuid4().hex, command, to, by="command line")
    try:
        _put_up(estate, group, request)
    except Unavailable as exc:
        why = _why_no_api(estate, before, is_move)
        raise NotDone(
            f"the {command} of {group.name} reached nobody: {why}, and the board beside the lock"
            f" can't be written ({exc})"
        ) from exc
    return Given(before, "board", request=request)


def _put_up(estate: Estate, group: Group, request: Request) -> None:
    board = board_of(estate, group)
    try:
        board.ask(request)
    finally:
        board.close()


def _why_no_api(estate: Estate, before: Look, is_move: bool) -> str:
    if not before.answering:
        return "no sidecar answers"
    if estate.api.token is None:
        return f"{estate.path} has no token of [api] to ask a sidecar with"
    return "the master's sidecar does not answer" if is_move else "no sidecar could be asked"


def wait_until(
    estate: Estate, group: Group, given: Given, done: Callable[[Look], bool], patience: float
) -> Look:
    """The first look that is as it should be. Raises NotDone when it does not come to that."""
    end = time.monotonic() + patience
    while True:
        seen = look(estate, group)
        if done(seen):
            return seen
        if given.request is not None:
            _check_answer(estate, group, given.request)
        if time.monotonic() >= end:
            raise NotDone(f"it is not done after {patience:g} s; see: understudy cluster list")
        time.sleep(STEP)


def moved(given: Given, to: str | None) -> Callable[[Look], bool]:
    """Whether another node is master, with a higher token, and healthy."""
    before = given.before.cluster

    def is_done(seen: Look) -> bool:
        now = seen.cluster
        if now.master is None or (now.token or 0) <= (before.token or 0):
            return False
        if to is not None and now.master != to:
            raise NotDone(f"{now.master} is master now (token {now.token}), not {to}")
        node = next(node for node in now.nodes if node.name == now.master)
        return node.role == Role.MASTER and node.healthy

    return is_done


def _check_answer(estate: Estate, group: Group, request: Request) -> None:
    for one in read_board(estate, group).requests:
        if one.id == request.id and one.answer is not None and one.answer.code != 202:
            raise NotDone(f"the group refused the {request.command}: {one.answer.reason}")
