"""The demonstration's second scene: two brokers joined by a bridge, one of them killed."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from understudy.testing.brokers import ActiveMQ, RabbitMQ
from understudy.testing.demo.view import PlainView
from understudyd.testing.joined.__main__ import main, print_report
from understudyd.testing.joined.scene import Outcome, Step, play

CLEAN = Outcome(
    sent=100,
    arrived=100,
    lost=0,
    again=2,
    longest_pause=4.0,
    took=30.0,
    events=("5.0 s SIGKILL RabbitMQ",),
    states=("running",),
    error="",
)


def printed(outcome: Outcome) -> str:
    console = Console(file=io.StringIO(), width=80)
    print_report(console, outcome)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("outcome", "is_clean", "says"),
    [
        (CLEAN, True, "nothing lost"),
        (replace(CLEAN, lost=2, arrived=98), False, "lost 2 of 100"),
        (replace(CLEAN, error="SendTimeout"), False, "SendTimeout"),
        (replace(CLEAN, sent=0, arrived=0), False, "lost 0 of 0"),
    ],
)
def test_the_verdict_follows_the_numbers(outcome: Outcome, is_clean: bool, says: str) -> None:
    assert outcome.is_clean is is_clean
    assert outcome.as_json()["ok"] is is_clean
    text = printed(outcome)
    assert says in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_command_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--runs"])
    assert "--runs" in capsys.readouterr().err


@pytest.mark.integration
@pytest.mark.chaos
def test_nothing_is_lost_between_two_kinds_of_brokers(
    activemq: ActiveMQ, rabbits: tuple[RabbitMQ, RabbitMQ], tmp_path: Path, unique: str
) -> None:
    """The target is killed, then the bridge."""
    view = PlainView(Console(file=io.StringIO()))
    steps = [Step("RabbitMQ", 1.0), Step("bridge", 1.0)]
    outcome = play(activemq, rabbits[1], steps, tmp_path, view, queue=unique)
    assert outcome.is_clean, outcome
    assert outcome.arrived == outcome.sent > 100
    assert any(state.startswith("holding: target: ") for state in outcome.states)
    assert outcome.states[-1] == "running"
