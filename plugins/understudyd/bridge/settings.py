"""How a link behaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from understudy.core.backoff import Backoff
from understudyd.bridge.patience import FOR_EVER, Limits
from understudyd.bridge.spool.words import Spooling

__all__ = [
    "ACK_DELAY",
    "ACK_SHARE",
    "FIRST_WINDOW",
    "LONGEST_IN_FLIGHT",
    "ROOM_BACKOFF",
    "TARGET_SHARE",
    "LinkSettings",
    "Reading",
]

FIRST_WINDOW = 1  # messages; what is lost before anything was settled costs one a delivery count
ACK_DELAY = 0.025  # s
ACK_SHARE = (
    40  # an acknowledgement for that part of the window; a tenth leaves less to be delivered
)
TARGET_SHARE = 2  # that part of the window is sent at a time where confirms come when all is done
LONGEST_IN_FLIGHT: Final = 900.0  # s; half of what RabbitMQ waits for an acknowledgement
ROOM_BACKOFF: Final = Backoff(1_000.0, 60_000.0)


@dataclass(frozen=True)
class Reading:
    """How a source is read, whatever it speaks."""

    selector: str = ""
    """What the broker is to filter by, where it can."""
    durable_expires: float | None = None
    """Seconds that a subscription to a topic stays which nobody reads; None: for ever."""
    after_others: bool = True
    """Whether the broker's own consumers come first."""
    priority: int | None = None
    """Of our consumer then; None: what is usual with the broker."""


@dataclass(frozen=True)
class LinkSettings:
    """Times in seconds."""

    prefetch: int = 1000  # messages in flight at most; as shovel and ActiveMQ's connectors
    size: int = 32 << 20  # bytes of bodies in flight, above which the source is not read
    hold_time: float = 60.0  # in flight is held so long for a target that takes nothing
    confirm_timeout: float = 30.0  # without any confirm, then the target counts as lost
    drain_time: float = 10.0  # a stop waits so long for what is in flight
    watch_time: float = 60.0  # a source may be silent so long before it is asked what it has
    backoff: Backoff = field(default_factory=lambda: Backoff(100.0, 5_000.0))  # shovel's ceiling
    source_backoff: Backoff | None = None  # between passes over the source's members; None: as that
    target_backoff: Backoff | None = None
    source_limits: Limits = FOR_EVER
    target_limits: Limits = FOR_EVER
    blocked_time: float | None = None  # a blocked target is left after that; None: never
    reading: Reading = Reading()
    hint: str = ""  # what may be wrong where messages stay
    parking: str = ""  # the queue for what cannot be forwarded; empty: understudy.parking.NAME
    spool: Spooling | None = None
    shards: int = 1  # connections to the target, which share the messages by their groups
    shard_by: str = ""  # the header that names the group; empty: those of JMS
    hop: str = ""  # begins the ids that a target knows messages again by; empty: it is told none
