"""What is told of links and bridges, to those who look and to the log."""

from __future__ import annotations

import logging
from random import Random

import pytest

from understudyd.bridge.link import Link
from understudyd.bridge.pace import Pace
from understudyd.bridge.parking import Parking
from understudyd.bridge.settings import LinkSettings
from understudyd.bridge.status import TROUBLE, Glance, LinkStatus, ParkTeller, Teller, summary
from understudyd.bridge.words import State
from understudyd.testing.linked import back, deliver, link, running


def look(made: Link, *times: float, lag: int | None = None) -> Glance:
    """The last of several looks, from one who knows what waits since the first."""
    status = LinkStatus(made, "queue://orders")
    for now in times:
        status.waits(lag, now)
        glance = status.look(now)
    return glance


def test_one_that_runs_is_shown_with_its_counts() -> None:
    made = running()
    deliver(made, 1, 2, now=1.0)
    made.confirmed([(1, 0, True)], 1.5)
    glance = look(made, 2.0)
    assert glance == Glance("queue://orders", "running", "", 0.0, 1, 1.0, 1, 0, 0, None, "")


def test_what_is_in_flight_and_not_confirmed_is_not_shown_as_running() -> None:
    made = running(confirm_timeout=1000.0)
    deliver(made, 1, now=1.0)
    assert look(made, 1.0, 5.9).state == "running"
    seen = look(made, 1.0, 6.0)
    assert seen.state == "stalled"
    assert seen.reason.startswith("target: nothing was confirmed")


def test_one_whose_messages_wait_at_the_source_is_not_shown_as_running() -> None:
    assert look(running(), 0.0, 5.0, 100.0, lag=0).state == "running"
    assert look(running(), 0.0, 5.0, 100.0, lag=None).state == "running"
    assert look(running(), 0.0, 4.9, lag=3).state == "running"
    seen = look(running(), 0.0, 5.0, lag=3)
    assert (seen.state, seen.lag) == ("stalled", 3)
    assert seen.reason.startswith("source: messages wait")


def test_one_that_moves_is_not_stalled_however_much_waits() -> None:
    made = running()
    status = LinkStatus(made, "queue://orders")
    for number in range(1, 40):
        deliver(made, number, now=float(number))
        made.confirmed([(number, 0, True)], float(number))
        status.waits(9999, float(number))
        assert status.look(float(number)).state == "running"


def test_one_that_its_rate_keeps_from_sending_is_not_stalled() -> None:
    made = Link(LinkSettings(), Parking("b"), Random(1), Pace(0.01))
    for tell in (made.start, made.target_up, made.source_up):
        tell(0.0)
    deliver(made, 1, 2, 3)
    assert look(made, 0.0, 60.0, lag=3).state == "stalled"
    made.confirmed([(2, 1, True)], 60.0)
    assert len(made.ledger) == 1
    assert look(made, 60.0, 90.0, lag=3).state == "running"


def test_what_is_parked_at_the_target_is_not_told_as_forwarded() -> None:
    made = running()
    deliver(made, 1, 2)
    made.returned(back(b"1"), 0.0)
    made.confirmed([(2, 1, True)], 0.0)
    assert (made.forwarded, made.parked) == (1, 0)
    made.confirmed([(3, 0, True)], 0.0)
    assert (made.forwarded, made.parked) == (1, 1)


def test_one_that_starts_to_run_has_its_time() -> None:
    made = link()
    status = LinkStatus(made, "queue://orders")
    made.start(0.0)
    status.waits(7, 0.0)
    assert status.look(60.0).state == "waiting-target"
    made.target_up(61.0)
    made.source_up(61.0)
    assert status.look(62.0).state == "running"
    assert status.look(66.0).state == "stalled"


def test_a_rate_is_that_of_the_last_seconds() -> None:
    made = running()
    status = LinkStatus(made, "queue://orders")
    rates = []
    for second in range(20):
        made.forwarded += 100 if second < 10 else 0
        rates.append(status.look(float(second)).rate)
    assert rates[0] == 0.0
    assert rates[5:10] == [100.0] * 5
    assert rates[15:] == [0.0] * 5


def test_a_log_hears_of_states_and_of_reasons_that_change() -> None:
    teller = Teller()
    assert teller.tell("waiting-target", "connecting to the target", 0.0) is None
    assert teller.tell("waiting-target", "connecting to the target", 1.9) is None
    begun = teller.tell("waiting-target", "connecting to the target", 2.0)
    assert begun == (logging.INFO, "is waiting-target: connecting to the target")
    assert teller.tell("running", "", 2.0) == (logging.INFO, "is running")
    assert teller.tell("running", "", 2.1) is None
    lost = teller.tell("holding", "target: cut", 2.2)
    assert lost == (logging.WARNING, "is holding: target: cut")
    refused = teller.tell("holding", "target: refused", 3.0)
    assert refused == (logging.WARNING, "is holding: target: refused")


def test_an_end_that_flaps_does_not_fill_the_log_and_the_last_state_is_told() -> None:
    teller = Teller()
    lines = []
    for turn in range(1000):  # in two minutes
        state = ("holding", "target: cut") if turn % 2 else ("running", "")
        lines.append(teller.tell(*state, turn * 0.12))
    told = [line for line in lines if line]
    assert 10 <= len(told) <= 25
    assert sum("before that)" in text for _, text in told) >= 5
    last = [teller.tell("holding", "target: cut", 120.0 + second) for second in range(30)]
    assert sum(line is not None for line in last) <= 1
    assert teller.tell("running", "", 200.0) is not None


def glance(state: str, reason: str = "", **given: object) -> Glance:
    told = {
        "destination": "queue://a",
        "rate": 1.5,
        "in_flight": 2,
        "oldest_s": 0.5,
        "forwarded": 10,
        "parked": 1,
        "retried": 3,
        "lag": 4,
        "last_error": "",
        **given,
    }
    return Glance(state=state, reason=reason, **told)  # type: ignore[arg-type]


def test_a_bridge_is_as_bad_as_its_worst_link() -> None:
    fine = glance("running")
    bad = glance("blocked", "target: low", destination="queue://b", oldest_s=None, lag=None)
    told = summary("b", "amqp://x", "amqp://y", [fine, bad])
    assert (told["state"], told["reason"]) == ("blocked", "queue://b: target: low")
    assert (told["rate"], told["in_flight"], told["oldest_s"]) == (3.0, 4, 0.5)
    assert (told["forwarded"], told["parked"], told["retried"], told["lag"]) == (20, 2, 6, None)
    assert [one["state"] for one in told["links"]] == ["running", "blocked"]
    assert summary("b", "x", "y", [fine, fine])["lag"] == 8
    both = summary("b", "x", "y", [bad, bad])
    assert (both["reason"], both["oldest_s"], both["lag"]) == ("target: low", None, None)


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_summed_up(state: State) -> None:
    assert summary("b", "x", "y", [glance(state.value)])["state"] == state.value
    worse = summary("b", "x", "y", [glance(state.value), glance(TROUBLE[0])])
    assert worse["state"] == TROUBLE[0] == "given-up"


def test_what_was_left_out_is_counted_and_is_no_standstill() -> None:
    made = running()
    seen = LinkStatus(made, "topic://a")
    seen.look(0.0)
    made.dropped, made.expired = 3, 1
    glance = seen.look(100.0)
    assert (glance.dropped, glance.expired, glance.state) == (3, 1, "running")
    told = summary("b", "a", "b", [glance, glance])
    assert (told["dropped"], told["expired"]) == (6, 2)


def test_a_start_is_one_line_in_the_log() -> None:
    teller = Teller()
    assert teller.tell("waiting-target", "connecting to the target", 0.0) is None
    assert teller.tell("waiting-source", "connecting to the source", 0.1) is None
    told = teller.tell("running", "", 0.2)
    assert told is not None
    assert told[0] == logging.INFO
    assert told[1].startswith("is running")


def test_a_log_hears_of_parked_messages_at_once_and_then_now_and_again() -> None:
    teller = ParkTeller()
    assert teller.tell(0, "q", "", 0.0) is None
    assert teller.tell(1, "q", "no route", 1.0) == "has parked a message in q: no route"
    assert [teller.tell(1 + number, "q", "no", 1.0 + number / 100) for number in range(900)] == [
        None
    ] * 900
    assert teller.tell(900, "q", "other", 11.0) == "has parked 899 messages, the last in q: other"
    assert teller.tell(900, "q", "other", 99.0) is None
    assert teller.tell(901, "q", "x" * 999, 99.0) == "has parked a message in q: " + "x" * 300
