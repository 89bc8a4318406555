"""The transaction log: replay, doom and doubt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from understudy.core.transaction import State, TransactionLog


def a_log(*, sends: int = 0, acks: int = 0, replays: bool = True) -> TransactionLog[int]:
    log: TransactionLog[int] = TransactionLog(replays=replays)
    for number in range(sends):
        log.sent(number, f"id-{number}")
    for _ in range(acks):
        log.acked()
    return log


def test_sends_are_replayed_in_order() -> None:
    """F30."""
    log = a_log(sends=3)
    log.link_lost()
    assert not log.is_doomed
    assert log.replay == (0, 1, 2)


def test_a_second_loss_replays_everything_again() -> None:
    log = a_log(sends=2)
    log.link_lost()
    log.sent(2, "id-2")
    log.link_lost()
    assert log.replay == (0, 1, 2)


def test_without_tracking_a_loss_dooms_what_was_sent() -> None:
    """F30 with trackTransactionProducers=false."""
    log = a_log(sends=1, replays=False)
    log.link_lost()
    assert log.doom is not None
    assert "trackTransactionProducers" in log.doom.reason
    assert not log.doom.is_in_doubt
    assert log.replay == ()


def test_one_that_the_broker_may_have_meant_is_not_replayed() -> None:
    """Else each new connection would be closed over the same message."""
    log = a_log(sends=1)
    log.link_lost(accused=True)
    assert log.doom is not None
    assert not log.doom.is_in_doubt
    empty = a_log()
    empty.link_lost(accused=True)
    assert not empty.is_doomed


def test_an_empty_transaction_survives_without_tracking() -> None:
    log = a_log(replays=False)
    log.link_lost()
    assert not log.is_doomed


def test_acks_doom_it() -> None:
    """F26."""
    log = a_log(sends=1, acks=1)
    log.link_lost()
    assert log.doom is not None
    assert not log.doom.is_in_doubt
    assert log.keys == ("id-0",)


def test_a_stale_ack_dooms_it() -> None:
    """F31: the message comes again, so the rest of the transaction must not count."""
    log = a_log(sends=1)
    log.stale_ack()
    assert log.is_doomed


def test_a_commit_without_answer_is_in_doubt() -> None:
    """F27."""
    log = a_log(sends=1)
    log.committing()
    log.link_lost()
    assert log.doom is not None
    assert log.doom.is_in_doubt


def test_an_empty_commit_without_answer_may_be_repeated() -> None:
    log = a_log()
    log.committing()
    log.link_lost()
    assert log.state is State.OPEN


def test_the_first_reason_stays() -> None:
    log = a_log(acks=1)
    log.committing()
    log.link_lost()
    log.stale_ack()
    log.link_lost()
    assert log.doom is not None
    assert log.doom.is_in_doubt


def test_its_end_begins_the_next() -> None:
    log = a_log(sends=1, acks=1)
    log.link_lost()
    log.ended()
    assert log.is_empty
    assert not log.is_doomed
    assert log.keys == ()


def test_a_refused_send_is_not_replayed() -> None:
    log = a_log(sends=2)
    item = object()
    other: TransactionLog[object] = TransactionLog()
    other.sent(item, "id")
    other.taken_back(item)
    log.taken_back(1)
    assert other.is_empty
    assert log.replay == (0,)


def test_what_comes_during_a_commit_belongs_to_the_next_transaction() -> None:
    log = a_log(sends=1)
    log.committing()
    log.sent(7, "id-7")
    log.acked()
    assert log.keys == ("id-0",)
    log.ended()
    assert log.keys == ("id-7",)
    assert log.replay == (7,)
    log.link_lost()
    assert log.is_doomed


def test_a_stale_ack_during_a_commit_dooms_the_next_transaction() -> None:
    log = a_log(sends=1)
    log.committing()
    log.stale_ack()
    assert not log.is_doomed
    log.ended()
    assert log.is_doomed
    log.ended()
    assert not log.is_doomed


def test_a_link_lost_during_a_commit_dooms_what_came_during_it_too() -> None:
    """It was written to the lost link only, and replayed on none."""
    log = a_log(sends=1)
    log.committing()
    log.sent(7, "id-7")
    log.link_lost()
    assert log.doom is not None
    assert log.doom.is_in_doubt
    log.ended()
    assert log.doom is not None
    assert not log.doom.is_in_doubt
    assert log.keys == ("id-7",)


def test_a_commit_of_nothing_leaves_what_came_during_it() -> None:
    log = a_log()
    log.committing()
    log.sent(7, "id-7")
    log.link_lost()
    assert log.replay == (7,)


CALLS = ("sent", "acked", "stale_ack", "committing", "link_lost", "ended")


@given(calls=st.lists(st.sampled_from(CALLS)), replays=st.booleans())
def test_nothing_acknowledged_is_ever_replayed(calls: list[str], replays: bool) -> None:
    """Any history: what is replayed after a loss is all that the broker forgot, or nothing."""
    log: TransactionLog[int] = TransactionLog(replays=replays)
    sends = 0
    for call in calls:
        if call == "sent":
            log.sent(sends, str(sends))
            sends += 1
        else:
            getattr(log, call)()
        if call == "link_lost":
            assert log.is_doomed or log.state is State.OPEN
            assert log.is_doomed or replays or log.is_empty
            assert log.is_doomed or not log._now.acks
            assert log.is_doomed or not log._now.stale
        assert log.replay in ((), tuple(map(int, log.keys)))
        assert (log.doom is not None) == log.is_doomed
