"""Whether K is enough for the broker."""

from __future__ import annotations

from understudyd.sidecar.killing import KillTime

GB = 10**9


def test_a_broker_that_is_too_large_is_told_once() -> None:
    kill = KillTime(0.4)
    assert kill.sample(GB) == ""
    told = kill.sample(4 * GB)
    assert told == kill.warning
    assert "4 GB" in told
    assert "0.6 s to be killed, but kill of the timings is 0.4 s" in told
    assert kill.sample(5 * GB) == ""
    assert "5 GB" in kill.warning


def test_it_is_enough_again_only_when_it_clearly_is() -> None:
    kill = KillTime(0.4)
    kill.sample(3 * GB)
    assert kill.sample(int(2.5 * GB)) == ""
    assert kill.warning
    assert kill.sample(2 * GB) == ""
    assert not kill.warning
    assert kill.sample(3 * GB)


def test_the_estimate_grows_with_memory() -> None:
    """Twice what was measured: 12 ms at 150 MB, 76 ms at 1 GB."""
    kill = KillTime(0.4)
    kill.sample(GB)
    assert 0.13 < kill.estimate < 0.17


def test_a_master_whose_broker_takes_longer_refuses_who_comes() -> None:
    kill = KillTime(0.4)
    assert kill.refusal("a", 0.4) == ""
    told = kill.refusal("a", 0.41)
    assert "now with a, may take 0.41 s to be killed, but kill of the timings is 0.4 s" in told
