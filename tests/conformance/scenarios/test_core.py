"""What all adapters share runs once, in the core: the parser and the clock of the machine."""

from __future__ import annotations

import random

import pytest

import understudy
from understudy.core.happenings import Dial, DialFailed, TimeUp, Wait, Wanted
from understudy.core.machine import Machine
from understudy.errors import ConfigurationError

A, B, C = "amqp://a", "amqp://b", "amqp://c"


def delays(passes: int, **options: object) -> list[float]:
    """The waits of so many failed passes over two members, exact."""
    text = "&".join(f"{name}={value}" for name, value in options.items())
    uri = understudy.parse(f"failover:({A},{B})?randomize=false&reconnectDelayJitter=0&{text}")
    machine = Machine(uri.endpoints, uri.options, random.Random(0))
    found, actions = [], machine.receive(Wanted())
    for _ in range(passes):
        while actions and isinstance(actions[-1], Dial):
            actions = machine.receive(DialFailed(actions[-1].endpoint, "refused"))
        assert isinstance(actions[-1], Wait)
        found.append(actions[-1].ms)
        actions = machine.receive(TimeUp())
    return found


@pytest.mark.scenario("F01")
@pytest.mark.parametrize(
    ("text", "members"),
    [
        (f"failover:({A},{B})", [A, B]),
        (f"failover://({A},{B})?timeout=3000", [A, B]),
        (f"failover:{A},{B}", [A, B]),
        (f"failover:{A}", [A]),
        (f"failover:({A},failover:({B},{C}))", [A, B, C]),
        (f"static:({A},{B})", [A, B]),
    ],
)
def test_uri_forms(text: str, members: list[str]) -> None:
    """F01: every form gives its members in order."""
    assert [str(endpoint) for endpoint in understudy.parse(text).endpoints] == members


@pytest.mark.scenario("F01")
def test_option_after_a_bare_list() -> None:
    """F01: without parentheses a query is the last member's."""
    uri = understudy.parse(f"failover:{A},{B}?heartbeat=3000")
    assert [endpoint.options.heartbeat for endpoint in uri.endpoints] == [None, 3000]


@pytest.mark.scenario("F02")
@pytest.mark.parametrize(
    ("query", "words"),
    [("timout=3000", ["timout", "timeout"]), ("timeout=soon", ["soon"]), ("backup=yes", ["yes"])],
)
def test_bad_options(query: str, words: list[str]) -> None:
    """F02: refused with the name and the value, and the nearest valid name."""
    with pytest.raises(ConfigurationError) as caught:
        understudy.parse(f"failover:({A})?{query}")
    assert all(word in str(caught.value) for word in words)


@pytest.mark.scenario("F03")
def test_parentheses_and_commas() -> None:
    """F03: unbalanced and empty are errors, one trailing comma is dropped."""
    for text in (f"failover:({A},{B}", "failover:()", f"failover:({A},,{B})"):
        with pytest.raises(ConfigurationError):
            understudy.parse(text)
    assert len(understudy.parse(f"failover:({A},{B},)").endpoints) == 2


@pytest.mark.scenario("F04")
def test_duplicates() -> None:
    """F04: the first one stays; names are compared as text, so the order never hangs on DNS."""
    uri = understudy.parse(f"failover:({A},{B},{A},{B})")
    assert [str(endpoint) for endpoint in uri.endpoints] == [A, B]


@pytest.mark.scenario("F06")
def test_no_limit_by_default() -> None:
    """F06: after 2000 failed passes the next one is still to come."""
    assert len(delays(2000)) == 2000


@pytest.mark.scenario("F10")
def test_delay_sequence() -> None:
    """F10: one delay after a whole pass, doubled up to the ceiling."""
    doubled = [10.0 * 2**n for n in range(12)]
    assert delays(14) == [*doubled, 30000.0, 30000.0]


@pytest.mark.scenario("F11")
def test_exponent_and_caps() -> None:
    """F11: constant where asked for; a fraction grows exactly; the first may exceed the ceiling."""
    assert delays(4, useExponentialBackOff="false", initialReconnectDelay=70) == [70.0] * 4
    assert delays(3, backOffMultiplier="1.5", initialReconnectDelay=10) == [10.0, 15.0, 22.5]
    assert delays(3, initialReconnectDelay=1000, maxReconnectDelay=300)[1:] == [300.0, 300.0]


@pytest.mark.scenario("D03")
def test_master_and_slave() -> None:
    """D03: at least two, in order, never shuffled."""
    with pytest.raises(ConfigurationError, match="at least two"):
        understudy.parse(f"masterslave:({A})")
    uri = understudy.parse(f"masterslave:({A},{B})")
    assert [str(endpoint) for endpoint in uri.endpoints] == [A, B]
    assert uri.options.randomize is False
