"""What becomes of sessions that nobody closes: dropped, or left when the interpreter exits."""

from __future__ import annotations

import atexit
import weakref
from functools import partial
from typing import TYPE_CHECKING

from understudy import errors
from understudy.failover import forking
from understudy.failover.deadline import Deadline
from understudy.failover.notifier import logger

if TYPE_CHECKING:
    from understudy.stomp.fanout import FanoutSender
    from understudy.stomp.session import Session

__all__ = ["flush_at_exit", "let_go"]

_tracking: weakref.WeakSet[Session] = weakref.WeakSet()


def flush_at_exit(session: Session) -> None:
    """Have what it tracks flushed when the interpreter exits before it is closed."""
    _tracking.add(session)


@atexit.register
def _flush_all() -> None:
    """Nobody is left to catch anything."""
    for session in [session for session in _tracking if not session.is_closed]:
        try:
            session.flush_at_close()
        except errors.DeliveryFailed as exc:
            logger.error("a tracked message was refused: %s", exc)


def let_go(session: Session, to_all: FanoutSender | None) -> None:
    """The application has dropped its connection without disconnect().

    What is subscribed is heard until the process ends, as with stomp.py. Else it ends; on a thread
    of its own, as garbage is collected anywhere, also under a lock of ours.
    """
    if not session.is_closed and not session.subscriptions:
        forking.start_thread("understudy-stomp-end", partial(_end, session, to_all))


def _end(session: Session, to_all: FanoutSender | None) -> None:
    try:
        if to_all is not None:
            to_all.close(Deadline(session.options.close_timeout / 1000))
        session.flush_at_close()
    except errors.DeliveryFailed as exc:
        logger.error("a tracked message was refused: %s", exc)
    finally:
        session.close()
