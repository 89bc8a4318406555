"""What the call stack says of the application's present call; kombu gives no other hint.

Rules
* One call of the application's into kombu (`CALLS`) has one deadline, shared by everything that it
  waits for: a connection, a channel, declarations, the confirm. A call is known by its frame, which
  is kept until the call's last wait has asked, so that no other call can be taken for it.
* The stack is walked only where something may be waited for, never for a send alone.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from understudy.failover.deadline import NEVER, Deadline

__all__ = ["CallDeadline", "is_for_a_consuming_loop", "is_for_a_producer"]

#: modules whose `ensure_connection` waits for a broker for as long as it takes
CONSUMING_LOOPS = frozenset({"celery.worker.consumer.consumer", "celery.beat", "kombu.mixins"})

#: what one deadline is for
CALLS = frozenset(
    {
        ("kombu.messaging", "publish"),
        ("kombu.connection", "channel"),
        ("kombu.connection", "default_channel"),
    }
)

LOOK_BACK = 30  # frames; kombu's retry machinery is about 10 deep, twice that with declarations


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    for _ in range(LOOK_BACK):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _place(frame: FrameType) -> tuple[str, str]:
    return frame.f_globals.get("__name__", ""), frame.f_code.co_name


def is_for_a_consuming_loop() -> bool:
    """Whether a worker, beat or ConsumerMixin waits for its connection (and so has no deadline).

    The caller of the innermost `Connection.ensure_connection` tells: these three loop for ever by
    design, and an error that says "no broker within timeout" would end them.
    """
    for frame in _frames():
        if frame.f_code.co_name == "ensure_connection":
            caller = frame.f_back
            return caller is not None and _place(caller)[0] in CONSUMING_LOOPS
    return False


def is_for_a_producer() -> bool:
    """Whether kombu's Producer does something because it publishes."""
    return any(_place(frame) == ("kombu.messaging", "_publish") for frame in _frames())


class CallDeadline(threading.local):
    """The deadline of this thread's present call."""

    _frame: FrameType | None = None
    _deadline = NEVER
    _enforced: Deadline | None = None

    def get(self, new: Callable[[], Deadline], *, is_last: bool = False) -> Deadline:
        """The present call's deadline, by ``new`` when this is its first wait.

        ``is_last``: the call waits for nothing after this.
        """
        if self._enforced is not None:
            return self._enforced
        if is_last and self._frame is None:
            return new()
        frame = None
        for one in _frames():
            if _place(one) in CALLS:
                frame = one  # the outermost counts
        if frame is None or frame is not self._frame:
            self._deadline = new()
        self._frame = None if is_last else frame
        return self._deadline

    @contextlib.contextmanager
    def shared(self, deadline: Deadline) -> Iterator[None]:
        """All within the block shares this deadline."""
        outer, self._enforced = self._enforced, deadline
        try:
            yield
        finally:
            self._enforced = outer

    def forget(self) -> None:
        """The call is over, unless it goes on to publish."""
        if self._frame is not None and _place(self._frame)[1] != "publish":
            self._frame = None
