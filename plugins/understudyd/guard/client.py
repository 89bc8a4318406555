"""Control's end of the guards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from understudyd.guard.words import Command, Event, Lock

__all__ = ["Guard"]


class Guard:
    """The two guards of this node, as control sees them. Not for several threads at once."""

    def __init__(
        self,
        lock: Lock | None,
        *,
        kill: float,
        owned: Callable[[], Iterable[int]] | None = None,
    ) -> None:
        """``lock``: what the guards let go of when control has died; None = nothing.

        ``kill``: K of the timings, in seconds: what is not dead by then counts as unkillable.
        ``owned`` tells the pids of control's own children (API process, hooks, health commands).
        Should both guards die at once, every other child of control is an orphan of the broker's
        and is killed; control becomes a child subreaper for that. None: control is no subreaper,
        and a broker that lost both guards is reported as not fenced.
        """
        raise NotImplementedError

    def __enter__(self) -> Guard:
        raise NotImplementedError

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raise NotImplementedError

    @property
    def is_ready(self) -> bool:
        """Both guards are up: `launch` may be called."""
        raise NotImplementedError

    def start(self) -> None:
        """Start both guards, and wait until they are up. Raises OSError."""
        raise NotImplementedError

    def extend(self, deadline: float, token: int) -> None:
        """Raise the deadline (s of CLOCK_BOOTTIME) of this reign; call before `launch` too.

        It never goes back within a reign. Asks both guards for a sign of life as well; one that
        has not given the last one within a second is frozen, and killed.
        """
        raise NotImplementedError

    def launch(self, command: Command, token: int, descriptors: Sequence[int] = ()) -> None:
        """Start the broker. It inherits the descriptors; the first is the lock's, if any.

        `Started` follows, then `Exited` and `Dead`; or `Dead` alone where the deadline has passed
        or this reign has been ended before. Raises ConfigurationError for an unknown user.
        """
        raise NotImplementedError

    def stop(self, signal: int, until: float) -> None:
        """Signal the broker, and kill it at ``until`` (CLOCK_BOOTTIME) or D; `Dead` follows."""
        raise NotImplementedError

    def kill(self, cause: str) -> None:
        """`Dead` follows, also where nothing runs: this reign's broker won't start any more."""
        raise NotImplementedError

    def over(self) -> None:
        """The lock has been let go: the guards have nothing to release for this reign."""
        raise NotImplementedError

    def fileno(self) -> int:
        """Readable when `events` has something; the same descriptor for the life of this object."""
        raise NotImplementedError

    def events(self) -> list[Event]:
        """What happened since the last call; does not block."""
        raise NotImplementedError

    def expect_restart(self) -> str:
        """Prepare for os.exec in this process; returns what to give to `adopt` after it.

        An exec without it, like any end of control, is a death: the broker is killed.
        """
        raise NotImplementedError

    @classmethod
    def adopt(
        cls,
        state: str,
        lock: Lock | None,
        *,
        kill: float,
        owned: Callable[[], Iterable[int]] | None = None,
    ) -> Guard:
        """Take over the guards, and the broker, from before the exec."""
        raise NotImplementedError

    def close(self) -> None:
        """End the guards. A broker that is alive is killed; the lock is let go by the guard."""
        raise NotImplementedError
