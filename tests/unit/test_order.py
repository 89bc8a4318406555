from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.core.endpoint import Endpoint
from understudy.core.order import connect_list


def at(host: str, port: int | None = 5672, *, path: str = "", scheme: str = "amqp") -> Endpoint:
    uri = f"{scheme}://{host}:{port}{path}"
    return Endpoint(uri, uri, scheme, host, port, path=path)


A, B, C, D = (at(host) for host in "abcd")
RNG = random.Random(0)


def listed(*configured: Endpoint, **named: Endpoint | None) -> tuple[Endpoint, ...]:
    return connect_list(configured, (), named.get("failed"), False, RNG, (), named.get("current"))


def test_f12_listed_order_and_the_failed_one_last() -> None:
    assert listed(A, B, C) == (A, B, C)
    assert listed(A, B, C, failed=A) == (B, C, A)
    assert listed(A, B, C, failed=B) == (A, C, B)


def test_f12_failed_last_holds_when_shuffled() -> None:
    for seed in range(20):
        order = connect_list((A, B, C), (D,), B, True, random.Random(seed))
        assert order[-1] == B


def test_f12_the_failed_one_is_found_by_address_when_its_options_differ() -> None:
    opened = at("a", path="/with-nested-options")
    assert listed(A, B, failed=opened) == (B, A)


def test_an_equal_endpoint_is_meant_before_others_at_its_address() -> None:
    one, other = at("a", path="/one"), at("a", path="/other")
    assert listed(one, other, B, failed=one) == (other, B, one)


def test_f13_clients_spread_and_the_list_stays_whole() -> None:
    orders = [connect_list((A, B), (), None, True, random.Random(seed)) for seed in range(20)]
    assert {order[0] for order in orders} == {A, B}
    assert all(set(order) == {A, B} for order in orders)


def test_learned_endpoints_come_after_the_configured_ones_and_once() -> None:
    again = at("A")
    assert connect_list((A, B), (C, again, C, D), None, False, RNG) == (A, B, C, D)
    assert connect_list((A, B), (), None, False, RNG) == (A, B)


def test_loopback_names_are_one_endpoint() -> None:
    assert connect_list((at("localhost"),), (at("127.0.0.1"),), None, False, RNG) == (
        at("localhost"),
    )


def test_priority_endpoints_first_whatever_the_draw() -> None:
    named = at("c", path="/other-credentials")
    for seed in range(20):
        order = connect_list((A, B, C), (D,), None, True, random.Random(seed), [named, D])
        assert set(order[:2]) == {C, D}
    assert connect_list((A, B, C), (), None, False, RNG, [C]) == (C, A, B)
    assert connect_list((A, B, C), (), None, False, RNG, [at("C", None)]) == (C, A, B)


def test_a_failed_priority_endpoint_waits_for_its_turn_at_the_end() -> None:
    assert connect_list((A, B, C), (), A, False, RNG, [A]) == (B, C, A)


def test_the_current_endpoint_stays_first_below_priority_only() -> None:
    assert listed(A, B, C, current=C) == (C, A, B)
    assert listed(A, B, C, current=C, failed=C) == (A, B, C)
    assert connect_list((A, B, C), (), None, False, RNG, [B], C) == (B, C, A)


def test_unlisted_endpoints_are_not_tried() -> None:
    assert connect_list((A, B), (), C, False, RNG, [D], D) == (A, B)
    assert connect_list((), (), A, True, RNG, [A], A) == ()


def test_endpoints_without_a_host_are_told_apart() -> None:
    one, two = Endpoint("memory://1", "memory://1", "memory"), Endpoint("memory:", "m", "memory")
    assert listed(one, two, failed=one) == (two, one)


ENDPOINTS = st.builds(
    at,
    st.sampled_from(["a", "b", "c", "localhost", "127.0.0.1", "A", "d_e"]),
    st.sampled_from([5672, 5673]),
    path=st.sampled_from(["", "/v"]),
)


def address(endpoint: Endpoint) -> tuple[str, int | None]:
    host = endpoint.host.lower()
    return "localhost" if host == "127.0.0.1" else host, endpoint.port


LISTS = st.lists(ENDPOINTS, max_size=8)


@settings(max_examples=60, deadline=None)
@given(LISTS, LISTS, st.none() | ENDPOINTS, st.booleans(), st.integers(0, 99), LISTS, ENDPOINTS)
def test_permutation_with_the_failed_one_last(
    configured: list[Endpoint],
    learned: list[Endpoint],
    failed: Endpoint | None,
    randomize: bool,
    seed: int,
    priority: list[Endpoint],
    current: Endpoint,
) -> None:
    def order(**more: Endpoint | None) -> tuple[Endpoint, ...]:
        rng = random.Random(seed)
        return connect_list(configured, learned, failed, randomize, rng, priority, **more)

    result = order()
    assert Counter(result) == Counter(set(configured) | set(learned))
    if failed in result:
        assert result[-1] == failed
    assert result == order()  # the same draw, the same order
    assert Counter(order(current=current)) == Counter(result)
    if not randomize and failed is None and not priority:
        assert result == tuple(dict.fromkeys(configured + learned))
    if failed is None:
        wanted = {address(endpoint) for endpoint in priority}
        first = [address(endpoint) in wanted for endpoint in result]
        assert first == sorted(first, reverse=True)
