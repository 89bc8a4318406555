"""Which SENDs ask for a receipt: in groups where a broker answers in order, else each."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudyd.bridge.wire.receipts import GROUP, PIPELINE, Receipts


def pieces(count: int, first: int = 1) -> list[bytes]:
    numbers = range(first, first + count)
    return [piece for number in numbers for piece in (b"SEND\n", b"", b"%d\0" % number)]


def asked(written: list[bytes]) -> list[str]:
    """The receipts that were asked for."""
    return [end[8:-2].decode() for end in written[1::3] if end != b"\n"]


def test_each_message_asks_where_receipts_have_no_order() -> None:
    receipts = Receipts(is_cumulative=False)
    written = receipts.send(pieces(3))
    assert written[:3] == [b"SEND\n", b"receipt:1\n\n", b"1\0"]
    assert asked(written + receipts.send(pieces(1, 4))) == ["1", "2", "3", "4"]
    assert receipts.came(["3", "1"]) == ([(3, 0, True), (1, 0, True)], [])


def test_a_group_asks_once_and_what_comes_meanwhile_is_the_next_group() -> None:
    receipts = Receipts(is_cumulative=True)
    assert asked(receipts.send(pieces(3))) == ["3"]
    assert asked(receipts.send(pieces(1, 4))) == ["4"]
    assert receipts.send(pieces(5, 5)) == []
    assert receipts.send(pieces(2, 10)) == []
    confirms, written = receipts.came(["3"])
    assert confirms == [(3, 1, True)]
    assert asked(written) == ["11"]
    assert written[2::3] == [b"%d\0" % number for number in range(5, 12)]


def test_a_large_batch_is_many_groups() -> None:
    receipts = Receipts(is_cumulative=True)
    written = receipts.send(pieces(3 * GROUP))
    assert asked(written) == [str(GROUP), str(2 * GROUP)]
    _, written = receipts.came([str(GROUP)])
    assert asked(written) == [str(3 * GROUP)]


@pytest.mark.parametrize("is_cumulative", [True, False])
@pytest.mark.parametrize("strange", ["", "x", "0", "99", "-1", "²", "subscribe-1"])
def test_receipts_that_are_not_owed_mean_nothing(is_cumulative: bool, strange: str) -> None:
    """Scenario 37."""
    receipts = Receipts(is_cumulative=is_cumulative)
    receipts.send(pieces(1))
    assert receipts.came([strange]) == ([], [])
    assert receipts.came(["1", "1"])[0] == [(1, int(is_cumulative), True)]
    assert receipts.came(["1"]) == ([], [])


@settings(deadline=None)  # a busy machine takes several times as long
@given(st.lists(st.integers(min_value=0, max_value=3 * GROUP), max_size=8), st.booleans())
def test_all_is_sent_once_in_order_and_confirmed(batches: list[int], is_cumulative: bool) -> None:
    receipts = Receipts(is_cumulative=is_cumulative)
    sent: list[bytes] = []
    owed: list[str] = []
    confirmed: set[int] = set()

    def write(written: list[bytes]) -> None:
        sent.extend(written[2::3])
        owed.extend(asked(written))
        assert not is_cumulative or len(owed) <= PIPELINE

    def answer() -> None:
        confirms, written = receipts.came([owed.pop(0)])
        for number, multiple, is_ack in confirms:
            assert is_ack
            assert number <= len(sent)
            confirmed.update(range(1, number + 1) if multiple else [number])
        write(written)

    total = 0
    for count in batches:
        write(receipts.send(pieces(count, total + 1)))
        total += count
        if owed:
            answer()
    while owed:
        answer()
    assert sent == [b"%d\0" % number for number in range(1, total + 1)]
    assert confirmed == set(range(1, total + 1))
