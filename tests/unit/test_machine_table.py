"""The failover state machine: its table, each arrow of it."""

from __future__ import annotations

import pytest

from understudy.core.happenings import (
    Closed,
    CutShort,
    Dial,
    Dialed,
    DialFailed,
    Fail,
    Happening,
    Hurry,
    Leave,
    Listed,
    Lost,
    Prefer,
    Spares,
    Tell,
    TimeUp,
    Wait,
    Wanted,
)
from understudy.core.machine import TRANSITIONS, State
from understudy.testing.machines import (
    A,
    B,
    C,
    in_state,
    machine,
)

ONE_OF_EACH: list[Happening] = [
    Wanted(),
    CutShort(),
    Dialed(A),
    DialFailed(A, "refused"),
    Lost(1, "cut"),
    TimeUp(),
    Listed((C,)),
    Spares((B,)),
    Prefer(B, "it is back"),
    Closed(),
]

REACTIONS: dict[tuple[State, type], tuple[State, list[type]]] = {
    (State.IDLE, Wanted): (State.DIALING, [Dial]),
    (State.IDLE, Listed): (State.IDLE, [Tell]),
    (State.IDLE, Spares): (State.IDLE, []),
    (State.IDLE, Closed): (State.CLOSED, [Fail]),
    (State.DIALING, CutShort): (State.WAITING, [Leave, Wait]),
    (State.DIALING, Dialed): (State.CONNECTED, [Tell]),
    (State.DIALING, DialFailed): (State.DIALING, [Dial]),
    (State.DIALING, Listed): (State.DIALING, [Tell]),
    (State.DIALING, Spares): (State.DIALING, []),
    (State.DIALING, Closed): (State.CLOSED, [Fail]),
    (State.WAITING, CutShort): (State.WAITING, [Leave, Wait]),
    (State.WAITING, Wanted): (State.WAITING, [Hurry]),
    (State.WAITING, TimeUp): (State.DIALING, [Dial]),
    (State.WAITING, Listed): (State.WAITING, [Tell, Wait]),
    (State.WAITING, Spares): (State.WAITING, [Wait]),
    (State.WAITING, Closed): (State.CLOSED, [Fail]),
    (State.CONNECTED, CutShort): (State.WAITING, [Leave, Wait]),
    (State.CONNECTED, Wanted): (State.CONNECTED, []),
    (State.CONNECTED, Dialed): (State.CONNECTED, []),
    (State.CONNECTED, DialFailed): (State.WAITING, [Leave, Tell, Wait]),
    (State.CONNECTED, Lost): (State.WAITING, [Leave, Tell, Wait]),
    (State.CONNECTED, Listed): (State.CONNECTED, [Tell]),
    (State.CONNECTED, Spares): (State.CONNECTED, []),
    (State.CONNECTED, Prefer): (State.DIALING, [Leave, Tell, Dial]),
    (State.CONNECTED, Closed): (State.CLOSED, [Leave, Fail]),
    (State.GAVE_UP, Wanted): (State.DIALING, [Dial]),
    (State.GAVE_UP, Listed): (State.GAVE_UP, [Tell]),
    (State.GAVE_UP, Spares): (State.GAVE_UP, []),
    (State.GAVE_UP, Closed): (State.CLOSED, [Fail]),
    (State.CLOSED, Wanted): (State.CLOSED, [Fail]),
}


def test_the_table_names_every_reaction() -> None:
    assert set(TRANSITIONS) == set(REACTIONS)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("happening", ONE_OF_EACH, ids=lambda one: type(one).__name__)
def test_each_transition(state: State, happening: Happening) -> None:
    it = in_state(state)
    before = repr(vars(it))
    actions = it.receive(happening)
    after, kinds = REACTIONS.get((state, type(happening)), (state, []))
    assert it.state is after
    assert [type(action) for action in actions] == kinds
    if (state, type(happening)) not in REACTIONS:
        assert repr(vars(it)) == before


def test_repr_is_a_status_report() -> None:
    it = machine(A)
    assert repr(it) == "<Machine idle epoch=0>"
    it.receive(Wanted())
    it.receive(Dialed(A))
    assert repr(it) == "<Machine connected amqp://a:5672 epoch=1>"
