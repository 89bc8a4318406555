"""The keeper: one node's part in the contest for the lock. Pure: events and `now` in, actions out.

Rules
* Safety rests on the inequality of `timings` and on nothing else: a holder relies on its lease only
  until the deadline counted from *before* its last acknowledged write was sent; a standby claims
  only what it has watched unchanged for a whole lease, or what is proven free.
* Only an answer that shows a newer record of somebody else is a loss. No answer, or any error,
  proves nothing: it is tried again until the deadline.
* Missing is not free: a void record is written in its place. That, and a tombstone of an earlier
  life of the store, which may have gone back to older data, are watched for a lease like any
  record, and the next token jumps by `JUMP`, past what may have been forgotten. Who has not looked
  for a lease (frozen, cut off) watches anew.
* A holder that finds its record gone, or older than it wrote, writes it again while its deadline
  lasts, and not later: somebody else may have held the lock in between. A claim or renewal whose
  answer was lost is recognised by reading.
* One attempt is under way at a time; an answer to an earlier one is not listened to.
* The lock is let go only after ``Fenced``: the broker is provably dead. Until then renewals go on,
  unless the lock is somebody else's by now.

The shell feeds `Tick` at `due` at the latest, does the actions in order, answers each Read and Swap
by `Seen` or `Failed` with its attempt's number, and closes the backend on `Released`. ``now`` is in
seconds, of a clock that is never set and does not stand still while the machine sleeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import TypeAlias

from understudyd.lock.attempts import Attempt, Attempts
from understudyd.lock.port import Observation
from understudyd.lock.record import LockRecord
from understudyd.lock.rights import how_lost, is_ours, is_somebody_elses
from understudyd.lock.timings import Timings
from understudyd.lock.watch import BELIEVED, Watch
from understudyd.lock.words import (
    Action,
    Event,
    Extend,
    Failed,
    Fence,
    Fenced,
    Hint,
    Permit,
    Promote,
    Refuse,
    Released,
    Seen,
    Step,
    Tick,
)

__all__ = ["Keeper", "State"]


class State(Enum):
    WATCHING = "watching"  # standby: looks at the record, claims it when it may
    CLAIMING = "claiming"  # a claim is under way
    HOLDING = "holding"  # the lock is ours; promoted as soon as a lease is known to be valid
    FENCING = "fencing"  # the broker has to die: ours to let go, or lost
    RELEASING = "releasing"  # the broker is dead; the tombstone is being written


class Keeper:
    def __init__(
        self,
        group: str,
        node: str,
        instance: str,
        timings: Timings,
        *,
        api: str = "",
        is_told: bool = False,
    ) -> None:
        """``instance`` is unique to this life of this sidecar. ``is_told``: a Hint comes when the
        lock is let go, so just after a renewal there is nothing to look for."""
        self.state = State.WATCHING
        self.record: LockRecord | None = None  # ours, as it was last confirmed
        self.observation: Observation | None = None  # what the store showed last
        self.deadline = -math.inf  # until when our lease may be relied on
        self.is_promoted = False
        self.highest_token = 0
        self.is_kept_out = False  # the last claim came to nothing, as far as is known; look first
        self._node = node
        self._instance = instance
        self._timings = timings
        self._api = api
        self._is_told = is_told
        self._attempts = Attempts(timings)
        self._next = -math.inf  # when to look, renew or try again
        self._watch = Watch(group, node, instance, timings)
        self._claim: Attempt | None = None  # a claim that was never answered
        self._permit = Permit(False)
        self._cause = ""  # of stepping down, for the tombstone
        self._heir = ""
        self._is_lost = False  # FENCING: the lock is somebody else's by now
        self._give_up = math.inf  # RELEASING: when to stop trying

    def __repr__(self) -> str:
        version = f" {self.record.version}" if self.record else ""
        return f"<Keeper {self._node} {self.state.value}{version}>"

    @property
    def token(self) -> int | None:
        """The fencing token, while this node holds the lock."""
        is_holder = self.state in (State.HOLDING, State.FENCING)
        return self.record.token if is_holder and self.record else None

    @property
    def refused(self) -> str:
        """Why this node can't take part; empty if it can."""
        return self._watch.refused

    def is_late(self, now: float) -> bool:
        """Whether the lock is ours, but was never known to be in time to be master by it."""
        return self.state is State.HOLDING and not self.is_promoted and now >= self.deadline

    @property
    def due(self) -> float:
        """When to feed `Tick` at the latest."""
        if self._attempts.under_way is not None:
            moments = [self._attempts.due]
        elif self.state is State.FENCING and self._is_lost:
            moments = []
        else:
            moments = [self._next]
        if self.state is State.HOLDING and self.is_promoted:
            moments.append(self.deadline)
        if self.state is State.WATCHING and self._attempts.under_way is None:
            moments.append(self._claim_time())
        return min(moments, default=math.inf)

    @property
    def is_settled(self) -> bool:
        """Whether the lock is ours, and every attempt was answered."""
        return self.state is State.HOLDING and self._attempts.are_answered

    @property
    def sequence(self) -> int:
        """The highest that was written, or may have been."""
        return self._attempts.sequence

    def adopt(self, record: LockRecord, deadline: float, sequence: int) -> None:
        """Go on with a settled reign under this instance, of which ``record`` was confirmed last;
        of a keeper that has not begun. It renews at once, by a higher ``sequence``: what the one
        before tried must not pass for ours, which was sent later."""
        self._attempts.sequence = sequence
        self.state = State.HOLDING
        self.is_promoted = True
        self.record = record
        self.observation = Observation(record, record.incarnation)
        self.deadline = deadline
        self.highest_token = record.token

    def learn(self, token: int) -> None:
        """A token was seen elsewhere: stamped on the shared store, or with a peer."""
        if token <= BELIEVED:  # else no lock has given it
            self.highest_token = max(self.highest_token, token)

    def receive(self, event: Event, now: float) -> list[Action]:
        """Take in what happened; return what to do, in order."""
        actions: list[Action] = []
        if self.state is State.HOLDING and self.is_promoted and now >= self.deadline:
            actions += self._fence("the lease could not be renewed in time", is_lost=False)
        actions += _HANDLERS[type(event)](self, event, now)
        return actions + self._go_on(now)

    # --- events ---------------------------------------------------------------------------------

    def _tick(self, _: Event, now: float) -> list[Action]:
        attempt = self._attempts.under_way
        if attempt is not None and now >= self._attempts.due:
            return self._failed(Failed(attempt.number, "no answer in time"), now)
        return []

    def _hint(self, _: Event, now: float) -> list[Action]:
        if self.state is State.WATCHING:
            self._next = min(self._next, now)
        return []

    def _permitted(self, event: Permit, now: float) -> list[Action]:
        self._permit = event
        return []

    def _step_down(self, event: Step, now: float) -> list[Action]:
        if self.state is not State.HOLDING:
            return []
        self._heir = event.heir
        if self.is_promoted:
            return self._fence(event.cause, is_lost=False)
        self._cause = event.cause  # no broker was started
        self._begin_release(now)
        return []

    def _fenced(self, _: Event, now: float) -> list[Action]:
        if self.state is not State.FENCING:
            return []
        assert self.record is not None
        assert self.observation is not None
        if self._is_lost or not is_ours(self.record, self.observation):
            return self._watch_anew(now)  # no tombstone where our record is not
        self._begin_release(now)
        return []

    def _failed(self, event: Failed, now: float) -> list[Action]:
        attempt = self._attempts.end(event.attempt)
        if attempt is None:
            return []
        # an attempt that timed out has waited long enough; one that failed fast has not
        self._next = max(now, attempt.sent + self._timings.look)
        if self.state is State.CLAIMING:
            self._claim = attempt
            self.is_kept_out = True
            self.state = State.WATCHING
        elif attempt.record is not None:
            self._attempts.miss(attempt, now)
        return []

    def _answered(self, event: Seen, now: float) -> list[Action]:
        attempt = self._attempts.end(event.attempt)
        if attempt is None:
            return []
        self.observation = event.observation
        if event.observation.record is not None:
            self.highest_token = max(self.highest_token, event.observation.record.token)
        return _ANSWERS[self.state](self, attempt, event.observation, now)

    # --- answers, by state ----------------------------------------------------------------------

    def _watched(self, _: Attempt, seen: Observation, now: float) -> list[Action]:
        claim = self._claim
        if claim is not None and claim.record is not None and not claim.record.is_void:
            if seen.incarnation != claim.record.incarnation:
                self._claim = None  # what is there now may be older than it looks
            elif seen.record == claim.record:
                return self._won(claim, seen, now)
        self.is_kept_out = False
        self._next = now + self._timings.look
        if seen.lost:  # a claim that was not recognised any more
            self._watch.forget()
            return [Released()]
        is_news = self._watch.see(seen, self.highest_token, now)
        if self._is_told and self._watch.is_renewed:
            self._next = now + self._timings.renew - self._timings.lead
        return [Refuse(self.refused)] if is_news else []

    def _claimed(self, attempt: Attempt, seen: Observation, now: float) -> list[Action]:
        if seen.record == attempt.record and seen.record and not seen.record.is_void:
            return self._won(attempt, seen, now)
        self.state = State.WATCHING
        actions = self._watched(attempt, seen, now)
        self.is_kept_out = True  # a broker whose sidecar is gone may have the file locked for long
        return actions

    def _won(self, claim: Attempt, seen: Observation, now: float) -> list[Action]:
        self.state = State.HOLDING
        self.is_promoted = self._is_lost = False
        self._heir = ""
        self._watch.forget()
        self._claim = None
        return self._acknowledged(claim, seen, now)

    def _acknowledged(self, attempt: Attempt, seen: Observation, now: float) -> list[Action]:
        """A write of ours is in the store: a claim or a renewal."""
        was_valid = now < self.deadline
        self._attempts.confirm()
        self.record = seen.record
        self.deadline = attempt.sent + self._timings.budget
        self._next = attempt.sent + self._timings.renew
        if self.is_promoted:
            return [Extend(self.deadline)] if was_valid else []
        if not self._permit.may_campaign:
            self._cause = "not to be master any more"
            self._begin_release(now)
            return []
        if now >= self.deadline:  # a claim that was found late
            self._next = now
            return []
        assert self.record is not None
        self.is_promoted = True
        return [Promote(self.record.token, self.deadline, self.record.cause)]

    def _renewed(self, attempt: Attempt, seen: Observation, now: float) -> list[Action]:
        if seen.record == attempt.record:
            return self._acknowledged(attempt, seen, now)
        assert self.record is not None
        is_lost = is_somebody_elses(self.record, seen)
        if not is_lost and (is_ours(self.record, seen) or now < self.deadline):
            sent = self._attempts.missed(seen)
            if sent is not None and is_ours(self.record, seen):  # a slow store: it was too late
                return self._acknowledged(replace(attempt, sent=sent), seen, now)
            self._next = now  # write it again
            return []
        if self.state is State.FENCING and not is_lost:
            self._is_lost = True  # it may have been somebody else's in between
            return []
        if not self.is_promoted:  # a claim that was found late and is gone again
            return self._watch_anew(now)
        assert is_lost
        return self._fence(how_lost(seen), is_lost=True)

    def _tombstoned(self, _: Attempt, seen: Observation, now: float) -> list[Action]:
        assert self.record is not None
        is_there = is_ours(self.record, seen) and not is_somebody_elses(self.record, seen)
        if not is_there:  # the tombstone is there, or more than that has happened
            return self._watch_anew(now)
        self._next = now  # a renewal was under way, or the answer to a write was lost
        return []

    # --- what to do next ------------------------------------------------------------------------

    def _go_on(self, now: float) -> list[Action]:
        if self._attempts.under_way is not None:
            return []
        if self.state is State.WATCHING:
            return self._look_or_claim(now)
        if self.state is State.RELEASING and now >= self._give_up:
            return self._watch_anew(now) + self._look_or_claim(now)
        if now < self._next or (self.state is State.FENCING and self._is_lost):
            return []
        assert self.record is not None
        assert self.observation is not None
        is_release = self.state is State.RELEASING
        record = replace(
            self.record,
            sequence=self._attempts.new_sequence(self.observation),
            incarnation=self.observation.incarnation,
            released=is_release,
            cause=self._cause if is_release else self.record.cause,
            heir=self._heir if is_release else "",
        )
        return [self._attempts.swap(self.observation, record, now)]

    def _look_or_claim(self, now: float) -> list[Action]:
        self._watch.forget_what_is_old(now)
        seen = self._watch.observation
        if seen is not None and now >= self._claim_time():
            self.state = State.CLAIMING
            sequence = self._attempts.new_sequence(self.observation)
            claim = self._watch.claim(seen, self.highest_token, sequence, self._api)
            return [self._attempts.swap(seen, claim, now)]
        if now < self._next:
            return []
        return [self._attempts.read(now)]

    def _claim_time(self) -> float:
        """When the record may be claimed, as far as is known."""
        seen = self._watch.observation
        may_claim = self._permit.may_campaign and not self.refused and not self.is_kept_out
        if seen is None or not may_claim:
            return math.inf
        return self._watch.claim_time(seen) + self._permit.delay

    def _fence(self, cause: str, *, is_lost: bool) -> list[Action]:
        self.state = State.FENCING
        self._is_lost = is_lost
        self._cause = cause
        return [Fence(cause, self.deadline, is_lost)]

    def _begin_release(self, now: float) -> None:
        self.state = State.RELEASING
        self._give_up = now + self._timings.lease
        self._next = now

    def _watch_anew(self, now: float) -> list[Action]:
        self.state = State.WATCHING
        self._watch.forget()
        self.record = self._claim = None
        self.deadline = -math.inf
        self.is_promoted = self._is_lost = False
        self._next = now
        return [Released()]


Handler: TypeAlias = Callable[..., list[Action]]

_HANDLERS: dict[type, Handler] = {
    Tick: Keeper._tick,
    Hint: Keeper._hint,
    Seen: Keeper._answered,
    Failed: Keeper._failed,
    Permit: Keeper._permitted,
    Step: Keeper._step_down,
    Fenced: Keeper._fenced,
}

_ANSWERS: dict[State, Handler] = {
    State.WATCHING: Keeper._watched,
    State.CLAIMING: Keeper._claimed,
    State.HOLDING: Keeper._renewed,
    State.FENCING: Keeper._renewed,
    State.RELEASING: Keeper._tombstoned,
}
