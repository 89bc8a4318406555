from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.core.backoff import RESTART_MS, STEP_MS, Backoff
from understudy.core.options import Options
from understudy.errors import ConfigurationError

EXACT = Backoff(10, 30_000, True, 2.0, 0.0)
GROWING = [10.0 * 2**k for k in range(12)]  # 10, 20, ... 20480


def delays(backoff: Backoff, count: int, *, first_connection: bool) -> list[float]:
    rng = random.Random(0)
    return [
        backoff.delay_ms(failures, first_connection=first_connection, rng=rng)
        for failures in range(count)
    ]


def test_f10_first_connection_tries_at_once_and_then_doubles() -> None:
    assert delays(EXACT, 15, first_connection=True) == [0, *GROWING, 30_000, 30_000]


def test_f10_reconnection_waits_before_the_first_pass() -> None:
    assert delays(EXACT, 14, first_connection=False) == [*GROWING, 30_000, 30_000]


def test_f09_initial_delay_counts_for_reconnections_only() -> None:
    backoff = Backoff(15_000, 30_000, True, 2.0, 0.0)
    assert delays(backoff, 2, first_connection=True) == [0, 15_000]
    assert delays(backoff, 2, first_connection=False) == [15_000, 30_000]


@pytest.mark.parametrize("first_connection", [True, False])
def test_f09_initial_zero_makes_one_attempt_immediate(first_connection: bool) -> None:
    backoff = Backoff(0, 30_000, True, 2.0, 0.0)
    assert delays(backoff, 4, first_connection=first_connection) == [0, 10, 20, 40]


def test_f11_exponential_off_is_constant() -> None:
    backoff = Backoff(70, 30_000, False, 2.0, 0.0)
    assert delays(backoff, 4, first_connection=True) == [0, 70, 70, 70]
    assert delays(backoff, 4, first_connection=False) == [70, 70, 70, 70]
    assert delays(Backoff(0, 30_000, False), 3, first_connection=False)[0] == 0
    assert Backoff(0, 30_000, False).exact_ms(9, first_connection=False) == RESTART_MS


def test_f11_growth_is_not_cut_to_whole_milliseconds() -> None:
    backoff = Backoff(10, 30_000, True, 1.05, 0.0)
    assert delays(backoff, 3, first_connection=False) == pytest.approx([10, 10.5, 11.025])
    assert backoff.exact_ms(200, first_connection=False) > 29_000


def test_f11_an_initial_delay_that_passes_ten_goes_on_growing() -> None:
    assert delays(Backoff(5, 30_000, jitter=0), 4, first_connection=False) == [5, 10, 20, 40]


def test_f11_the_ceiling_holds_for_the_first_wait_too() -> None:
    assert delays(Backoff(500, 200, jitter=0), 3, first_connection=False) == [200, 200, 200]
    assert delays(Backoff(500, 200, jitter=0), 3, first_connection=True) == [0, 200, 200]


@pytest.mark.parametrize("backoff", [Backoff(0, 0), Backoff(0.001, 9, False), Backoff(10, 0.5)])
def test_no_setting_makes_a_hot_loop(backoff: Backoff) -> None:
    assert min(delays(backoff, 50, first_connection=False)[1:]) >= STEP_MS
    assert min(delays(backoff, 50, first_connection=True)[1:]) >= STEP_MS


@pytest.mark.parametrize("multiplier", [1.0, 1.0000001, 2.0, 1e300])
def test_huge_counts_do_not_overflow(multiplier: float) -> None:
    backoff = Backoff(10, 30_000, True, multiplier, 0.5)
    for failures in (1_024, 10**6, 10**400):
        assert (
            STEP_MS
            <= backoff.delay_ms(failures, first_connection=True, rng=random.Random(1))
            <= (10 if multiplier == 1 else 30_000)
        )


def test_jitter_takes_its_fraction_off_and_never_adds() -> None:
    rng = random.Random(3)
    backoff = Backoff(1_000, 1_000, jitter=0.25)
    seen = [backoff.delay_ms(0, first_connection=False, rng=rng) for _ in range(500)]
    assert 750 <= min(seen) < 760
    assert 990 < max(seen) <= 1_000


def test_settings_of_a_uri() -> None:
    assert Backoff.of(Options()) == Backoff()
    options = Options(
        initial_reconnect_delay=1,
        max_reconnect_delay=2,
        use_exponential_back_off=False,
        back_off_multiplier=3,
        reconnect_delay_jitter=0,
    )
    assert Backoff.of(options) == Backoff(1, 2, False, 3, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"initial_ms": -1},
        {"maximum_ms": float("nan")},
        {"maximum_ms": float("inf")},
        {"multiplier": 0.9},
        {"multiplier": float("inf")},
        {"jitter": 1.1},
        {"jitter": float("nan")},
    ],
)
def test_senseless_settings_are_refused_by_name(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        Backoff(**arguments)  # type: ignore[arg-type]  # one name each, of the float fields


BACKOFFS = st.builds(
    Backoff,
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.booleans(),
    st.floats(1, 100),
    st.floats(0, 1),
)


@settings(max_examples=60, deadline=None)
@given(BACKOFFS, st.lists(st.booleans(), max_size=40), st.integers(0, 99))
def test_any_sequence_of_faults(backoff: Backoff, outcomes: list[bool], seed: int) -> None:
    rng = random.Random(seed)
    ever, failures = False, 0
    rounds: list[list[float]] = [[]]
    for success in outcomes:
        exact = backoff.exact_ms(failures, first_connection=not ever)
        delay = backoff.delay_ms(failures, first_connection=not ever, rng=rng)
        assert exact * (1 - backoff.jitter) - 1e-6 <= delay <= exact
        assert delay >= STEP_MS or (delay == 0 and failures == 0)
        rounds[-1].append(exact)
        failures = 0 if success else failures + 1
        if success:
            ever = True
            rounds.append([])
    ceiling = max(STEP_MS, backoff.maximum_ms)
    for waits in rounds:
        assert all(earlier <= later <= ceiling for earlier, later in pairwise(waits))
    for waits, again in pairwise(rounds[1:]):  # a success resets: each outage begins alike
        shorter = min(len(waits), len(again))
        assert waits[:shorter] == again[:shorter]
