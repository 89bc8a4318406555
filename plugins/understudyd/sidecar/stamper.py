"""Stamps the stores of a group with the token of a new reign.

Rules
* More than half of the stores have to take the stamp. So two reigns have one store in common, and
  it refuses the older one: all nodes need the same list, which a reload does not change.
* Each store has a thread of its own. One that does not answer, as its mount is dead, holds nobody
  up while enough others do; what is asked of it next is refused until it has come back.
"""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from understudyd.clock import now
from understudyd.drivers import stamp
from understudyd.drivers.stamp import Stamp
from understudyd.lock.record import RecordError
from understudyd.sidecar.worker import Worker

__all__ = ["Stamped", "Stamper"]

SILENT = "it does not answer"


@dataclass(frozen=True)
class Stamped:
    """Without a ``veto`` enough stores have the stamp; ``trouble``: what others have said."""

    veto: str = ""
    known: int = 0  # the highest token that a store has shown
    trouble: str = ""


@dataclass(frozen=True)
class _Answer:
    round: int
    store: Path
    there: Stamp  # what it has now
    trouble: str = ""


class Stamper:
    """For one thread; it may be the promotion's."""

    def __init__(self) -> None:
        self._workers: dict[Path, Worker[_Answer]] = {}
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        self._round = 0

    def put(self, stores: Sequence[Path], mine: Stamp, patience: float) -> Stamped:
        """Returns as soon as it is decided, within ``patience`` seconds. Raises nothing."""
        self._round += 1
        needed = len(stores) // 2 + 1
        missing = {store: self._begin(store, mine) for store in stores}
        until = now() + patience
        while SILENT in missing.values() and len(stores) - len(missing) < needed:
            try:
                answer = self._answers.get(timeout=max(0.0, until - now()))
            except queue.Empty:
                break
            if answer.round != self._round:
                continue
            there = answer.there
            if there.refuses(mine):
                is_foreign = there.is_of_another_group(mine)  # so its token says nothing
                return Stamped(_refusal(answer, mine), 0 if is_foreign else there.token)
            if answer.trouble:
                missing[answer.store] = answer.trouble
            else:
                del missing[answer.store]
        return _judged(len(stores), needed, missing)

    def _begin(self, store: Path, mine: Stamp) -> str:
        """What to say of it until it answers."""
        worker = self._workers.setdefault(store, Worker("understudy-stamp", self._answers.put))
        is_begun = worker.do(partial(_put, self._round, store, mine))
        return SILENT if is_begun else "an earlier stamp has not come back"


def _put(number: int, store: Path, mine: Stamp) -> _Answer:
    try:
        return _Answer(number, store, stamp.put(store, mine))
    except (OSError, RecordError) as error:
        return _Answer(number, store, Stamp(), str(error))


def _refusal(answer: _Answer, mine: Stamp) -> str:
    there = answer.there
    if there.is_of_another_group(mine):
        return (
            f"the store {answer.store} is that of the group {there.group}, and two groups would be"
            f" two masters on it; if that group is not there any more, take away its {stamp.FILE}"
        )
    veto = f"the store has the stamp of token {there.token}, of {there.node}"
    if there.token > mine.token:
        return veto
    return f"{veto}, as this reign has: its lock is another one, or has forgotten that it gave it"


def _judged(all: int, needed: int, missing: dict[Path, str]) -> Stamped:
    done = all - len(missing)
    if done >= needed:
        told = [f"{store}: {why}" for store, why in missing.items() if why != SILENT]
        return Stamped(trouble="; ".join(told))
    troubles = "; ".join(f"{store}: {why}" for store, why in missing.items())
    if all == 1:
        return Stamped(f"the store could not be stamped: {troubles}")
    return Stamped(f"{done} of {all} stores could be stamped, {needed} are needed: {troubles}")
