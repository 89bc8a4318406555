"""What becomes of messages that the target returned, or closed over.

    ========== ==================================================================================
    RETRY      not now: it stays in flight and is sent again after a back-off
    REJECT     never: it goes to the parking queue with its reason, and is settled from there
    ABORT      it cannot be told: the connection is given up, everything in flight is sent again
    ========== ==================================================================================

Rules
* An ack settles a message and a nack is RETRY, in the ledger: a full queue (`reject-publish`), or
  an error of a queue.
* A return means REJECT: no binding leads on from there; waiting would stop the link for it.
* The channel closes over one message of a pipelined window and does not say over which. So all is
  sent again, one by one; which closes it while it is alone under way is the one (REJECT); it is
  parked at the source, since the target would close over it in its parking queue as well. Only
  codes that can be a message's fault are judged so (`LETHAL`), the others tell of the broker.
* A broker that closes because it has no room (`FULL`) may have taken what was sent before, and not
  say so. One by one there is an answer for each, so no more than one is doubled each time.
"""

from __future__ import annotations

from enum import Enum

from understudyd.bridge.wire.amqp import Closed

__all__ = ["FULL", "LETHAL", "Outcome", "of_closed", "of_return"]


class Outcome(Enum):
    RETRY = "retry"
    REJECT = "reject"
    ABORT = "abort"


LETHAL = {
    311: "content too large",
    406: "precondition failed",  # larger than the broker takes; a header of a wrong type
    501: "frame error",
    502: "syntax error",
    505: "unexpected frame",
}
FULL = 506
"""Resource error: no room, nobody's fault."""


def of_return(*, is_parked: bool) -> Outcome:
    """Of a message that came back; ``is_parked``: from the parking queue, which is gone then."""
    return Outcome.ABORT if is_parked else Outcome.REJECT


def of_closed(closed: Closed, *, is_alone: bool) -> Outcome:
    """Of what was under way when the target closed channel or connection."""
    if closed.code == FULL:
        return Outcome.RETRY
    if closed.code not in LETHAL:
        return Outcome.ABORT
    return Outcome.REJECT if is_alone else Outcome.RETRY
