"""What the log says of things that work or don't."""

from __future__ import annotations

from understudyd.health.port import Health
from understudyd.sidecar.tidings import ANSWERS, MISSES, REASONS, Illness, LateClaim, Outage, Reigns


def test_an_outage_is_told_when_it_begins_and_when_it_is_over() -> None:
    lock = Outage("the lock")
    told = [lock.hear(trouble) for trouble in ("", "refused", "refused", "timed out")]
    assert told == ["", "", "the lock can't be reached: refused", ""]
    told = [lock.hear("") for _ in range(ANSWERS + 2)]
    assert told == [*[""] * (ANSWERS - 1), "the lock answers again", "", ""]
    assert [lock.hear("refused") for _ in range(2)] == ["", "the lock can't be reached: refused"]


def test_a_store_that_answers_now_and_then_does_not_fill_the_log() -> None:
    lock = Outage("the lock")
    told = [lock.hear(trouble) for trouble in ("timed out", "timed out", "", "") * 50]
    assert [text for text in told if text] == ["the lock can't be reached: timed out"]


def test_what_fails_once_alone_is_no_news() -> None:
    board = Outage("the board")
    assert MISSES == 2
    assert not any(board.hear(trouble) for trouble in ("refused", "", "refused", ""))


def test_each_reason_of_an_illness_is_told_once_until_the_broker_is_healthy() -> None:
    broker = Illness()
    refused, slow = Health(False, "connection refused"), Health(False, "no answer within 5000 ms")
    told = [broker.hear(health) for health in (refused, refused, slow, refused)]
    assert told == [
        "health check: connection refused",
        "",
        "health check: no answer within 5000 ms",
        "",
    ]
    assert not broker.hear(Health(True, "RabbitMQ"))
    assert broker.hear(refused)


def test_a_reason_that_is_new_each_time_does_not_fill_the_log() -> None:
    broker = Illness()
    told = [broker.hear(Health(False, f"exit code 1: at {moment}")) for moment in range(100)]
    assert sum(map(bool, told)) == REASONS


def test_each_reign_of_another_node_is_told_once() -> None:
    reigns = Reigns("b")
    seen = [(None, None), ("a", 7), ("a", 7), (None, None), ("b", 8), ("a", 9)]
    told = [reigns.hear(*one) for one in seen]
    assert told == ["", "a has the lock, token 7", "", "", "", "a has the lock, token 9"]


def test_a_lock_that_comes_too_late_is_told_once_each_time() -> None:
    claim = LateClaim()
    told = [claim.hear(is_late, 2.5) for is_late in (False, True, True, False, True)]
    assert [bool(text) for text in told] == [False, True, False, False, True]
    assert "longer to write than the 2.5 s" in told[1]
