"""When a message to several brokers is sent, and when it never will be. Pure.

Rules
* A send begins when ``need`` members are ready: connected, and not too far behind. It can't begin
  any more when so many are given up that too few are left.
* It goes to all that are ready then, and is over when ``need`` of them have confirmed it, or when
  too few are left that still can.
* A time-out of one member is no reason by itself: the first other error is what the sender gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from understudy.errors import Attempt, ConnectFailed, SendTimeout

__all__ = ["LANE_SIZE", "Standing", "Tally", "can_begin", "never_sent"]

LANE_SIZE = 1000  # messages that may wait for one member


@dataclass(frozen=True)
class Standing:
    """How one member stands."""

    name: str
    is_up: bool
    waiting: int  # messages that it has not answered
    given_up: str = ""  # why it never comes back

    @property
    def is_ready(self) -> bool:
        return self.is_up and not self.given_up and self.waiting < LANE_SIZE


def can_begin(standings: Sequence[Standing], need: int) -> bool:
    """Raises ConnectFailed, with the reasons, when it never can."""
    over = [Attempt(one.name, one.given_up) for one in standings if one.given_up]
    if len(standings) - len(over) < need:
        raise ConnectFailed(f"minAckCount={need} brokers can't be reached any more", over)
    return sum(one.is_ready for one in standings) >= need


def never_sent(
    standings: Sequence[Standing], need: int, message_id: str, seconds: float
) -> SendTimeout:
    """The error of a send that could not begin in time."""
    away = ", ".join(one.name for one in standings if not one.is_ready)
    ready = sum(one.is_ready for one in standings)
    connected = "1 broker is" if ready == 1 else f"{ready} brokers are"
    return SendTimeout(
        f"message {message_id} was never sent: minAckCount={need}, but {connected} "
        f"connected (not: {away}) within timeout={seconds * 1000:.0f} ms",
        message_id=message_id,
    )


class Tally:
    """How one send stands."""

    def __init__(self, need: int, copies: int) -> None:
        self._need = need
        self._open = copies
        self._acks = 0
        self._error: Exception | None = None

    @property
    def is_over(self) -> bool:
        return self._acks >= self._need or self._acks + self._open < self._need

    def settle(self, error: Exception | None) -> None:
        """One member has answered: it confirmed, or this is what it said."""
        self._open -= 1
        if error is None:
            self._acks += 1
        elif not isinstance(error, SendTimeout):
            self._error = self._error or error

    def check(self, message_id: str, seconds: float) -> None:
        """At its end, or that of its time: raises what a failed send ends with."""
        if self._acks >= self._need:
            return
        if self._error is not None:
            raise self._error
        raise SendTimeout(
            f"message {message_id}: {self._acks} of {self._need} brokers confirmed it within "
            f"timeout={seconds * 1000:.0f} ms",
            message_id=message_id,
            written=True,
        )
