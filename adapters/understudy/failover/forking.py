"""Fork safety: a forked child never shares a socket or a lock with its parent.

Rules
* Whoever owns sockets, locks or threads registers here (weakly). Before a fork, each owner is
  asked to `hold` (take its own lock, so that its state is whole in the child); after it the
  parent lets go, and the child calls `abandon`, in which the owner closes what it inherited
  without writing a byte and forgets its locks and threads.
* A fork never waits for the network: our threads take an owner's lock only for moments, and dial
  outside it.
* Under its own lock an owner may take only locks of owners that registered before it (a supervisor
  that of the monitor). A fork takes them in the same direction, so that the two never wait for each
  other; and one fork at a time does, because what is held is let go by the thread that took it.
* A thread that cannot be started any more (Python 3.12+ refuses at interpreter exit) is None; the
  caller then does the work itself.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

__all__ = ["Owner", "generation", "register", "start_thread"]


class Owner(Protocol):
    def hold(self) -> None:
        """Before a fork, in the forking thread."""

    def let_go(self) -> None:
        """After it, in the parent."""

    def abandon(self) -> None:
        """After it, in the child."""


_generation = 0  # how many forks lie between this process and the one that loaded us
_numbers = itertools.count()
_owners: dict[int, weakref.ref[Owner]] = {}  # in the order of registration
_held: list[Owner] = []
_forking = threading.Lock()  # held by the thread that forks


def generation() -> int:
    """Another number in a forked child; cheaper to compare than process ids."""
    return _generation


def register(owner: Owner) -> None:
    """Have ``owner`` take part in forks for as long as it lives."""
    number = next(_numbers)
    _owners[number] = weakref.ref(owner, lambda _: _owners.pop(number, None))


def _living() -> list[Owner]:
    owners = [reference() for reference in list(_owners.values())]
    return [owner for owner in owners if owner is not None]


def start_thread(name: str, target: Callable[[], None]) -> threading.Thread | None:
    """Start a daemon thread; None when the interpreter no longer allows it."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


def _before() -> None:
    _forking.acquire()
    for owner in reversed(_living()):
        owner.hold()
        _held.append(owner)


def _in_parent() -> None:
    while _held:
        _held.pop().let_go()
    _forking.release()


def _in_child() -> None:
    global _forking, _generation
    _forking = threading.Lock()
    _generation += 1
    _held.clear()
    for owner in _living():
        owner.abandon()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
