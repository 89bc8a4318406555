"""Why a link is in its state, in words for people. No I/O."""

from __future__ import annotations

from understudyd.bridge.words import AIMS, State

__all__ = ["Reasons"]

RESTING = (State.IDLE, State.PAUSING, State.PAUSED, State.GIVEN_UP)


class Reasons:
    """What is empty is not so."""

    def __init__(self) -> None:
        self.last_error = ""
        """What went wrong last, also when it works again."""
        self.blocked = ""
        """Why the target reads nothing."""
        self.unparked = ""
        """Why the source takes nothing to park."""
        self.staying = ""
        """Why messages go back to where they came from."""
        self.asked = ""
        """Who wants it to rest."""
        self._why = AIMS[State.IDLE]

    def fail(self, reason: str) -> str:
        self.last_error = reason
        return reason

    def enter(self, state: State, before: State, given: str) -> None:
        """``given``: what brought it to this state, where that is not the aim."""
        if state is State.PAUSED:
            self._why = self.asked or AIMS[state]
        elif given:
            self._why = given
        elif before in RESTING and state is State.WAITING_TARGET:
            self._why = "connecting to the target"
        elif state is not before:
            self._why = AIMS.get(state, self._why)

    def is_blocked_in(self, state: State) -> bool:
        """Whether it is this that keeps a link in such a state from moving."""
        return bool(self.blocked) and state in (State.RUNNING, State.RETRYING, State.WAITING_ROOM)

    def of(self, state: State, *, is_careful: bool) -> str:
        """Of one that runs: what hinders it."""
        if self.is_blocked_in(state):
            return f"target: {self.blocked}"
        if self._why or state is not State.RUNNING:
            return self._why
        if is_careful:
            return f"sending one by one to find the message that did it: {self.last_error}"
        return self.unparked or self.staying
