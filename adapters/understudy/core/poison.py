"""Which message of an outbox closes the channel or connection whenever it is sent. Pure.

The rule: one whose sending alone closed it twice is poison, and taken out
* Errors of AMQP are asynchronous: when the broker closes, any entry in flight may be the reason. So
  a close with several in flight makes all of them *suspects* and accuses nobody.
* Suspects are sent one at a time, each only after the one before is settled, and nothing newer
  before the last suspect is settled. Order is kept: suspects are the front of the outbox.
* A close with exactly one entry in flight, and no ghost, is a strike against that entry. At
  `STRIKES` it is removed and returned; the others go on. It is a suspect after its first strike,
  so it is alone again at the next try.
* After a find the remaining suspects stay under suspicion until one of them is confirmed; so a row
  of poison (an exchange was deleted) costs two closes each, not three.
* Innocent: whatever is taken out was alone on the link at two such closes. Bounded: each poison
  message costs at most one common close and two of its own, as every close with several in flight
  ends that situation until the next find or until all suspects are settled.
* The shell decides which closes count, and must be strict, because two that have other reasons
  would condemn the innocent. Not: a cut, a heartbeat, our own close, a forced close (320), lack of
  resources (506), an error before the first write: those are `Outbox.link_lost`. An internal error
  (541) counts, or a message that causes one would be sent for ever. ``alone=False`` when anything
  outside this outbox was outstanding on what was closed (other channels of a closed connection,
  untracked publishes): then nobody is struck, and the suspects are sent together once more, for as
  a rule none of them was the reason; a close that meets them alone has them sent one at a time.
  While `Outbox.is_probing`, such traffic should wait; see `core.suspects`.
* Where the broker names the culprit (a STOMP ERROR with its receipt-id), no search is needed:
  `Outbox.refused` of its tag, then `Outbox.link_lost`.
"""

from __future__ import annotations

__all__ = ["STRIKES", "Suspicion"]

STRIKES = 2  # once may be a coincidence; each more costs every other message one reconnection


class Suspicion:
    """That one of the oldest entries of an outbox, all up to `last`, is poison; none at first."""

    __slots__ = ("_confirmed_at_find", "is_together", "last")

    def __init__(self) -> None:
        self.last = 0  # sequence of the newest suspect; 0: there is no suspicion
        self.is_together = False  # the suspects are sent in one go, but nothing newer
        self._confirmed_at_find: int | None = None

    def closed(self, newest: int, *, alone: bool) -> None:
        """The broker closed, with entries up to ``newest`` in flight. ``alone``: nothing else was
        outstanding there."""
        self.is_together = not alone and (self.is_together or not self.last)
        self.last = max(self.last, newest)

    def found(self, confirmed: int) -> None:
        """One was taken out, when so many had been confirmed in all."""
        self._confirmed_at_find = confirmed

    def is_over(self, first: int | None, confirmed: int) -> bool:
        """To be asked when nothing is in flight: whether all are settled, or one proved good after
        a find; then it is no more.

        ``first``: the sequence of the first unwritten entry, which decides: nothing newer than the
        last suspect was sent. ``confirmed``: how many have been, in all.
        """
        found = self._confirmed_at_find
        is_settled = first is None or first > self.last
        if not is_settled and (found is None or confirmed <= found):
            return False
        self.last = 0
        self.is_together = False
        self._confirmed_at_find = None
        return True
