"""The words of a link: its states, what happens to it, what it asks for, and its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from understudyd.bridge.ledger import Parcel

__all__ = [
    "AIMS",
    "Acknowledge",
    "Action",
    "AskSource",
    "Batch",
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
    "Step",
    "Timer",
    "Widen",
]


class Batch(NamedTuple):
    """What a list of deliveries became."""

    tags: list[int]
    """Of the deliveries that go on, in order."""
    parcels: list[Parcel]
    """What each of these became."""
    aside: Sequence[int] = ()
    """Which of the tags are not for the target: their parcels are for the source, its
    parking queue or where they came from."""
    stays: Sequence[int] = ()
    """Which of these go back to where they came from."""
    parked: int = 0
    """How many parcels are bound for the parking queue of the target."""


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
    WAITING_ROOM = "waiting-room"
    """The target is open and takes nothing; the source is closed until it is tried again."""
    GIVEN_UP = "given-up"
    """An end could not be connected as often as its URI says, or was lost and is not to be
    connected again; both are closed until somebody lets it go on."""
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
    ROOM_DUE = "time to see whether the target takes something"
    GIVE_UP = "an end is not to be connected again"
    REST = "time for the source to rest"
    SETTLED = "nothing is in flight"
    DRAIN_OVER = "drained long enough"


class Step(Enum):
    """What a link does when its table asks for it, or a timer; a method of `steps.Steps` each."""

    OPEN_TARGET = "connect to the target"
    CLOSE_TARGET = "close it"
    ABANDON_TARGET = "close it, and try another member of its list first"
    TARGET_LATER = "connect to the target after a back-off"
    LOSE = "what was known of the target's connection is void"
    OPEN_SOURCE = "connect to the source"
    CLOSE_SOURCE = "give back what was not acknowledged, and close"
    SOURCE_LATER = "connect to the source after a back-off"
    COUNT_SOURCE = "see whether the source may be connected again when the target is back"
    FORGET = "what was known of the source's connection is void"
    RESUME = "send what waits"
    RETRY_LATER = "send again after a back-off"
    PROBE = "send one of those that wait"
    STALL = "tell that no confirm came"
    ROOM_LATER = "take from the source again after a back-off, or when the target is not blocked"
    GIVE_UP = "wait for nothing, and begin anew when told to"
    DRAIN = "settle what is in flight, within a time"
    REST = "wait for nothing"
    FINISH = "come to an end"
    ACKNOWLEDGE = "acknowledge what is settled"
    WATCH = "see whether a source is silent that has messages"
    GO_ON = "send what the rate allows"
    END_REST = "let the source deliver again"
    LEAVE = "leave a target that is blocked"
    LET_GO = "give back what the target does not take"
    PARK_ASIDE = "park the next message at the source"


class Timer(Enum):
    """What a link waits for; the value is what it means that it is due: a happening, or a step
    that is taken whatever the state."""

    TARGET = Happening.TARGET_DUE
    SOURCE = Happening.SOURCE_DUE
    RETRY = Happening.RETRY_DUE
    CONFIRM = Happening.STALLED
    ROOM = Happening.ROOM_DUE
    HOLD = Step.LET_GO
    DRAIN = Happening.DRAIN_OVER
    ACKNOWLEDGE = Step.ACKNOWLEDGE
    WATCH = Step.WATCH
    PACE = Step.GO_ON
    STAY = Step.END_REST
    BLOCKED = Step.LEAVE
    PARK = Step.PARK_ASIDE


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
