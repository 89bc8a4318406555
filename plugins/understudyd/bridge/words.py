"""The words of a link: its states, what happens to it, what it asks for, and the table of these."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from understudyd.bridge.ledger import Parcel

__all__ = [
    "AIMS",
    "TABLE",
    "Acknowledge",
    "Action",
    "AskSource",
    "CloseSource",
    "CloseTarget",
    "Finished",
    "Happening",
    "OpenSource",
    "OpenTarget",
    "ParkAtSource",
    "Rest",
    "Send",
    "State",
    "Timer",
    "Widen",
]


class State(Enum):
    """The value is what a status shows."""

    IDLE = "idle"
    WAITING_TARGET = "waiting-target"
    """The target is being opened, or will be after a back-off; the source is closed."""
    WAITING_SOURCE = "waiting-source"
    """The same for the source; the target is open."""
    RUNNING = "running"
    RETRYING = "retrying"
    """The target refuses; what it refused is sent again after a back-off."""
    HOLDING = "holding"
    """The target is lost; what is in flight is held for it."""
    DRAINING = "draining"
    """Nothing more is taken; what is in flight is to be settled, then the link ends."""
    PAUSING = "pausing"
    """The same, then the link rests."""
    MOVING = "returning"
    """The same, then both ends are opened anew."""
    PAUSED = "paused"
    """Both ends are closed until somebody lets it go on."""
    STOPPED = "stopped"


class Happening(Enum):
    START = "start"
    STOP = "stop"
    PAUSE = "pause"
    """At once: what is in flight goes back to its queue."""
    DRAIN = "drain"
    """Settle what is in flight, then pause."""
    RESUME = "resume"
    MOVE = "move"
    """A broker that is preferred is back."""
    TARGET_UP = "target up"
    TARGET_LOST = "target lost"
    """Or could not be opened."""
    TARGET_DUE = "time to open the target"
    SOURCE_UP = "source up"
    SOURCE_LOST = "source lost"
    """Or could not be opened."""
    SOURCE_DUE = "time to open the source"
    REFUSED = "refused"
    ACCEPTED = "accepted"
    """The target confirms, and refuses nothing."""
    RETRY_DUE = "time to send again"
    STALLED = "no confirm in time"
    HOLD_OVER = "held long enough"
    REST = "time for the source to rest"
    SETTLED = "nothing is in flight"
    DRAIN_OVER = "drained long enough"


class Timer(Enum):
    """What a link waits for; the value is what it means that it is due: a happening, or a step
    of the link that is taken whatever the state."""

    TARGET = Happening.TARGET_DUE
    SOURCE = Happening.SOURCE_DUE
    RETRY = Happening.RETRY_DUE
    CONFIRM = Happening.STALLED
    HOLD = Happening.HOLD_OVER
    DRAIN = Happening.DRAIN_OVER
    ACKNOWLEDGE = "acknowledge"
    WATCH = "watch"
    PACE = "go_on"
    STAY = "end_rest"
    BLOCKED = "leave"
    PARK = "park_aside"


@dataclass(frozen=True)
class OpenTarget:
    """Connect to the target: ``target_up()`` or ``target_lost()`` follows."""


@dataclass(frozen=True)
class CloseTarget:
    """Close the target; nothing follows."""

    has_failed: bool = False
    """Another member of its list is to be tried first then, where there is one."""


@dataclass(frozen=True)
class OpenSource:
    """Connect to the source: ``source_up()`` or ``source_lost()`` follows, then deliveries."""

    window: int
    """Messages that it may deliver without an acknowledgement."""


@dataclass(frozen=True)
class Widen:
    """Let the source deliver more."""

    window: int


@dataclass(frozen=True)
class Rest:
    """Let the source deliver nothing until it is told to deliver more; what it has delivered is
    still to be acknowledged."""


@dataclass(frozen=True)
class AskSource:
    """Ask how many messages are ready: ``source_has()`` follows."""


@dataclass(frozen=True)
class CloseSource:
    """Give back what was not acknowledged, and close; nothing follows."""


@dataclass(frozen=True)
class Send:
    """Write this to the target, in order."""

    pieces: list[bytes]


@dataclass(frozen=True)
class Acknowledge:
    """Tell the source that everything up to this tag is settled."""

    tag: int


@dataclass(frozen=True)
class ParkAtSource:
    """Publish this to the source's parking queue: ``park_done()`` or ``park_failed()`` follows."""

    tag: int
    parcel: Parcel


@dataclass(frozen=True)
class Finished:
    """The link has come to its end; both ends are closed."""


Action: TypeAlias = (
    "OpenTarget | CloseTarget | OpenSource | Widen | Rest | CloseSource | Send | Acknowledge"
    " | AskSource | ParkAtSource | Finished"
)

_S, _H = State, Happening
_MOVED = (_S.WAITING_TARGET, ("close_source", "close_target", "lose", "rest", "open_target"))
_PAUSED = (_S.PAUSED, ("close_source", "close_target", "lose", "rest"))

AIMS: Final = {
    State.IDLE: "not started yet",
    State.WAITING_SOURCE: "connecting to the source",
    State.RUNNING: "",
    State.DRAINING: "settling what is in flight",
    State.PAUSING: "settling what is in flight",
    State.MOVING: "settling what is in flight, to go back to a preferred broker",
    State.PAUSED: "paused",
    State.STOPPED: "",
}
"""Why a link is in a state that it was brought to by nothing that failed; in the others the reason
stays what it was."""

#: From a state and a happening to the next state and the steps to take, methods of the link.
TABLE: Final[dict[tuple[State, Happening], tuple[State, tuple[str, ...]]]] = {
    (_S.IDLE, _H.START): (_S.WAITING_TARGET, ("open_target",)),
    (_S.IDLE, _H.STOP): (_S.STOPPED, ("finish",)),
    (_S.IDLE, _H.PAUSE): (_S.PAUSED, ("rest",)),
    #
    (_S.WAITING_TARGET, _H.TARGET_UP): (_S.WAITING_SOURCE, ("open_source",)),
    (_S.WAITING_TARGET, _H.TARGET_LOST): (_S.WAITING_TARGET, ("lose", "target_later")),
    (_S.WAITING_TARGET, _H.TARGET_DUE): (_S.WAITING_TARGET, ("open_target",)),
    (_S.WAITING_TARGET, _H.STOP): (_S.STOPPED, ("close_target", "finish")),
    (_S.WAITING_TARGET, _H.PAUSE): _PAUSED,
    (_S.WAITING_TARGET, _H.DRAIN): _PAUSED,
    #
    (_S.WAITING_SOURCE, _H.SOURCE_UP): (_S.RUNNING, ("resume",)),
    (_S.WAITING_SOURCE, _H.SOURCE_LOST): (_S.WAITING_SOURCE, ("forget", "source_later")),
    (_S.WAITING_SOURCE, _H.SOURCE_DUE): (_S.WAITING_SOURCE, ("open_source",)),
    (_S.WAITING_SOURCE, _H.TARGET_LOST): (
        _S.WAITING_TARGET,
        ("lose", "close_source", "target_later"),
    ),
    (_S.WAITING_SOURCE, _H.STALLED): (
        _S.WAITING_TARGET,
        ("stall", "abandon_target", "lose", "close_source", "target_later"),
    ),
    (_S.WAITING_SOURCE, _H.STOP): (_S.STOPPED, ("close_source", "close_target", "finish")),
    (_S.WAITING_SOURCE, _H.PAUSE): _PAUSED,
    (_S.WAITING_SOURCE, _H.DRAIN): _PAUSED,
    #
    (_S.RUNNING, _H.TARGET_LOST): (_S.HOLDING, ("lose", "hold", "target_later")),
    (_S.RUNNING, _H.STALLED): (
        _S.HOLDING,
        ("stall", "abandon_target", "lose", "hold", "target_later"),
    ),
    (_S.RUNNING, _H.SOURCE_LOST): (_S.WAITING_SOURCE, ("forget", "source_later")),
    (_S.RUNNING, _H.MOVE): (_S.MOVING, ("drain",)),
    (_S.RUNNING, _H.REST): (_S.WAITING_SOURCE, ("close_source",)),
    (_S.RUNNING, _H.REFUSED): (_S.RETRYING, ("retry_later",)),
    (_S.RUNNING, _H.STOP): (_S.DRAINING, ("drain",)),
    (_S.RUNNING, _H.PAUSE): _PAUSED,
    (_S.RUNNING, _H.DRAIN): (_S.PAUSING, ("drain",)),
    #
    (_S.RETRYING, _H.RETRY_DUE): (_S.RETRYING, ("probe",)),
    (_S.RETRYING, _H.REFUSED): (_S.RETRYING, ("retry_later",)),
    (_S.RETRYING, _H.ACCEPTED): (_S.RUNNING, ("resume",)),
    (_S.RETRYING, _H.TARGET_LOST): (_S.HOLDING, ("lose", "hold", "target_later")),
    (_S.RETRYING, _H.STALLED): (
        _S.HOLDING,
        ("stall", "abandon_target", "lose", "hold", "target_later"),
    ),
    (_S.RETRYING, _H.SOURCE_LOST): (_S.WAITING_SOURCE, ("forget", "source_later")),
    (_S.RETRYING, _H.MOVE): (_S.MOVING, ("drain",)),
    (_S.RETRYING, _H.STOP): (_S.DRAINING, ("drain",)),
    (_S.RETRYING, _H.PAUSE): _PAUSED,
    (_S.RETRYING, _H.DRAIN): (_S.PAUSING, ("drain",)),
    #
    (_S.HOLDING, _H.TARGET_UP): (_S.RUNNING, ("resume",)),
    (_S.HOLDING, _H.TARGET_LOST): (_S.HOLDING, ("lose", "target_later")),
    (_S.HOLDING, _H.TARGET_DUE): (_S.HOLDING, ("open_target",)),
    (_S.HOLDING, _H.HOLD_OVER): (_S.WAITING_TARGET, ("close_source",)),
    (_S.HOLDING, _H.SOURCE_LOST): (_S.WAITING_TARGET, ("forget",)),
    (_S.HOLDING, _H.STOP): (_S.STOPPED, ("close_source", "close_target", "finish")),
    (_S.HOLDING, _H.PAUSE): _PAUSED,
    (_S.HOLDING, _H.DRAIN): _PAUSED,
    #
    (_S.DRAINING, _H.REFUSED): (_S.DRAINING, ("retry_later",)),
    (_S.DRAINING, _H.RETRY_DUE): (_S.DRAINING, ("probe",)),
    (_S.DRAINING, _H.SETTLED): (_S.STOPPED, ("close_source", "close_target", "finish")),
    (_S.DRAINING, _H.DRAIN_OVER): (_S.STOPPED, ("close_source", "close_target", "finish")),
    (_S.DRAINING, _H.STALLED): (_S.STOPPED, ("close_source", "close_target", "finish")),
    (_S.DRAINING, _H.TARGET_LOST): (_S.STOPPED, ("close_source", "close_target", "finish")),
    (_S.DRAINING, _H.SOURCE_LOST): (_S.STOPPED, ("close_source", "close_target", "finish")),
    #
    (_S.PAUSING, _H.REFUSED): (_S.PAUSING, ("retry_later",)),
    (_S.PAUSING, _H.RETRY_DUE): (_S.PAUSING, ("probe",)),
    (_S.PAUSING, _H.SETTLED): _PAUSED,
    (_S.PAUSING, _H.DRAIN_OVER): _PAUSED,
    (_S.PAUSING, _H.STALLED): _PAUSED,
    (_S.PAUSING, _H.TARGET_LOST): _PAUSED,
    (_S.PAUSING, _H.SOURCE_LOST): _PAUSED,
    (_S.PAUSING, _H.PAUSE): _PAUSED,
    (_S.PAUSING, _H.RESUME): (_S.WAITING_TARGET, (*_PAUSED[1], "open_target")),
    (_S.PAUSING, _H.STOP): (_S.DRAINING, ("drain",)),
    #
    (_S.MOVING, _H.REFUSED): (_S.MOVING, ("retry_later",)),
    (_S.MOVING, _H.RETRY_DUE): (_S.MOVING, ("probe",)),
    (_S.MOVING, _H.SETTLED): _MOVED,
    (_S.MOVING, _H.DRAIN_OVER): _MOVED,
    (_S.MOVING, _H.STALLED): _MOVED,
    (_S.MOVING, _H.TARGET_LOST): _MOVED,
    (_S.MOVING, _H.SOURCE_LOST): _MOVED,
    (_S.MOVING, _H.PAUSE): _PAUSED,
    (_S.MOVING, _H.DRAIN): (_S.PAUSING, ("drain",)),
    (_S.MOVING, _H.STOP): (_S.DRAINING, ("drain",)),
    #
    (_S.PAUSED, _H.RESUME): (_S.WAITING_TARGET, ("open_target",)),
    (_S.PAUSED, _H.STOP): (_S.STOPPED, ("finish",)),
}
