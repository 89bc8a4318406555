"""How bridges are printed, on wide, narrow and low terminals."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from understudyd.bridge.parked import Parked, Retried
from understudyd.bridge.status import Glance, summary
from understudyd.cli.network import show
from understudyd.cli.network.look import Look, is_done

NAME = "orders-of-the-branch-to-headquarters"
LOST = "target: cut off by the other side"


def bridge(name: str = NAME, state: str = "running", reason: str = "", **given: Any) -> Any:
    told = {
        "destination": "queue://orders.of.the.branch",
        "rate": 1.5,
        "in_flight": 2,
        "oldest_s": None,
        "forwarded": 1234567,
        "parked": 1,
        "retried": 3,
        "lag": None,
        "last_error": "",
        **given,
    }
    glance = Glance(state=state, reason=reason, **told)
    other = Glance(**{**vars(glance), "destination": "topic://prices", "lag": 0})
    return summary(name, "amqp://here", "amqp://there", [glance, other])


def printed(look: Look, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(show.Overview(look))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_word_is_chopped(width: int) -> None:
    shown = printed(Look([bridge(state="holding", reason=LOST)], ("absent",)), width)
    for word in (NAME, "queue://orders.of.the.branch", "topic://prices", "1234567", "holding"):
        assert word in shown
    assert "not run" in shown
    assert ("───" in shown) is (width == 200)
    assert max(map(len, shown.splitlines())) <= width


def test_why_one_does_not_run_comes_first() -> None:
    fine = [bridge(f"fine-{number}") for number in range(20)]
    shown = printed(Look([*fine, bridge("ill", "holding", LOST)]), 200)
    assert shown.splitlines()[0] == f"ill is holding: {LOST}"


def test_what_is_not_known_is_told_alike_everywhere() -> None:
    look = Look([bridge(dropped=4, requests=5, replies=3)])
    (whole, link, *_) = show.lines(look)
    assert " oldest - waiting ? " in whole
    assert " oldest - waiting ? " in link
    assert " dropped 8 expired 0 " in whole
    assert " requests 10 replies 6 replies-lost 0 " in whole
    table = printed(look, 200)
    assert "?" in table
    assert "dropped" in table
    assert "expired" not in table
    assert "replies" in table
    assert "replies-lost" not in table
    assert "waiting ?" in printed(look, 60)
    assert "bridge" in printed(Look([], ("absent",)), 80)


def test_what_a_broker_did_not_tell_is_not_told_as_nothing() -> None:
    gone = Parked("b", "amqp://x", "parking", error="refused")
    assert show.parked_lines([gone]) == ["queue amqp://x parking unknown: refused"]
    assert gone.to_json()["count"] is None
    tried = Retried("b", "amqp://x", "parking", None, None, error="refused")
    assert show.retried_lines([tried]) == ["parking at amqp://x: unknown: refused"]
    some = Retried("b", "amqp://x", "parking", 2, 1, ("no route",), "cut")
    assert show.retried_lines([some]) == ["parking at amqp://x: 2 sent, 1 left", "  no route"]


def test_a_resumed_bridge_has_its_time_to_connect() -> None:
    connecting = bridge(state="waiting-target", reason="connecting to the target")
    assert not is_done("resume", connecting, has_waited=False)
    assert is_done("resume", connecting, has_waited=True)
    assert is_done("resume", bridge(state="waiting-target", reason="refused"), has_waited=False)
    assert is_done("resume", bridge(), has_waited=False)
    assert not is_done("resume", bridge(state="paused"), has_waited=True)
    assert is_done("pause", bridge(state="paused"), has_waited=False)
    assert not is_done("pause", bridge(), has_waited=True)
