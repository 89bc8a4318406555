"""Who reads a STOMP connection: its thread, or the caller who waits for his receipt."""

from __future__ import annotations

from understudy.stomp.turns import CROWDED, Turns


def parked() -> Turns:
    """A caller has just got his receipt by the thread."""
    turns = Turns()
    assert not turns.joins("m", True, 0.0)
    assert turns.parks(is_quiet=True, is_idle=True, now=0.0)
    return turns


def test_the_thread_parks_when_a_lonely_caller_was_there() -> None:
    turns = parked()
    assert turns.is_parked
    assert turns.joins("m2", True, 0.0)


def test_the_thread_reads_where_something_may_come_unasked() -> None:
    turns = parked()
    turns.joins("m", True, 0.0)
    assert not turns.parks(is_quiet=False, is_idle=True, now=0.0)
    assert not turns.joins("m2", True, 0.0)


def test_the_thread_reads_again_when_no_caller_comes() -> None:
    turns = parked()
    assert not turns.parks(is_quiet=True, is_idle=True, now=0.0)


def test_the_thread_stays_parked_as_long_as_the_caller_shows_that_he_reads() -> None:
    turns = parked()
    turns.joins("m", True, 0.0)
    for _ in range(3):
        turns.goes_on()
        assert turns.parks(is_quiet=True, is_idle=False, now=0.0)
    assert not turns.parks(is_quiet=True, is_idle=False, now=0.0)  # his handler does not end


def test_a_receipt_for_which_nobody_reads_is_the_threads() -> None:
    turns = parked()
    turns.joins("m", True, 0.0)
    turns.leaves("m")
    assert not turns.parks(is_quiet=True, is_idle=False, now=0.0)


def test_only_the_one_who_reads_can_leave() -> None:
    turns = parked()
    turns.joins("m", True, 0.0)
    turns.leaves("other")
    assert turns.parks(is_quiet=True, is_idle=False, now=0.0)


def test_a_second_caller_brings_the_thread_back_for_a_while() -> None:
    turns = parked()
    turns.joins("m", True, 0.0)
    assert not turns.joins("m2", False, 0.0)
    assert not turns.parks(is_quiet=True, is_idle=True, now=CROWDED / 2)
    turns.joins("m3", True, CROWDED)
    assert turns.parks(is_quiet=True, is_idle=True, now=CROWDED)
