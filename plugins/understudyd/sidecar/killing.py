"""Whether K, the time to kill that the timings allow, is enough for the broker. Pure.

What a master knows of its broker is alarmed of while that runs, and refuses a node that comes later
with a K that is too short: the broker is to be its own one day.

Measured from SIGKILL to reaped: 12 ms with 150 MB of memory of its own, 76 ms with 1 GB, as the
kernel gives it back page by page. Two of these times are reckoned with, for a busy machine.
"""

from __future__ import annotations

__all__ = ["KillTime"]

GB = 1e9
PER_GB = 0.075  # s
LEAST = 0.001  # s
BUSY = 2
CALM = 0.8  # of K; below it is enough again


class KillTime:
    def __init__(self, limit: float) -> None:
        """``limit``: K, in seconds."""
        self.estimate = 0.0  # s
        self.warning = ""  # for people, while K is too short
        self._limit = limit

    def refusal(self, master: str, estimate: float) -> str:
        """Why not to be of a group whose master says that its broker takes so many seconds."""
        if estimate <= self._limit:
            return ""
        return (
            f"the broker, now with {master}, may take {estimate:.2g} s to be killed, but kill of "
            f"the timings is {self._limit:g} s: give all nodes of the group a longer kill and lease"
        )

    def sample(self, memory: int) -> str:
        """Bytes that the broker has of its own. Returns what is to be told, or nothing."""
        before, size = self.warning, memory / GB
        self.estimate = BUSY * (LEAST + PER_GB * size)
        if self.estimate <= CALM * self._limit:
            self.warning = ""
        elif before or self.estimate > self._limit:
            self.warning = (
                f"the broker has {size:.3g} GB of memory, and may take {self.estimate:.2g} s to be"
                f" killed, but kill of the timings is {self._limit:g} s: give it a longer kill and"
                " lease, else another node may be master before it is dead"
            )
        return "" if before else self.warning
