"""Which broker of a list an end connects to: the one it had, unless that was lost."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random

import pytest

from understudy.core.endpoint import Endpoint
from understudyd.bridge.ends.endpoints import Dialer
from understudyd.bridge.ends.port import ConnectionFailed

THREE = "failover:(amqp://a,amqp://b,amqp://c)"


def dialer(options: str = "randomize=false", uri: str = THREE) -> Dialer:
    return Dialer(f"{uri}?{options}" if options else uri, {}, Random(1))


def tried(of: Dialer, *down: str) -> list[str]:
    """The hosts of one pass, in order; all but those that are down let us in."""
    hosts: list[str] = []

    async def knock(endpoint: Endpoint, timeout: float) -> str:
        hosts.append(endpoint.host)
        if endpoint.host in down:
            raise ConnectionFailed("refused")
        return endpoint.host

    with contextlib.suppress(ConnectionFailed):
        asyncio.run(of._first(knock))
    return hosts


def test_a_pass_takes_the_first_that_lets_us_in() -> None:
    assert tried(dialer(), "a") == ["a", "b"]
    assert tried(dialer(), "a", "b", "c") == ["a", "b", "c"]


def test_the_one_in_use_is_kept_unless_it_was_lost() -> None:
    ours = dialer()
    tried(ours, "a")
    assert tried(ours) == ["b"], "closed on purpose"
    ours.fail()
    assert tried(ours) == ["a"]
    ours.fail()
    assert tried(ours, "b", "c") == ["b", "c", "a"]


@pytest.mark.parametrize("uri", [THREE.replace("failover", "masterslave"), THREE])
def test_a_preferred_member_goes_first_but_where_it_was_lost(uri: str) -> None:
    ours = dialer("priorityBackup=true&priorityURIs=amqp://b", uri)
    assert not ours.is_away
    assert tried(ours)[0] == "b"
    assert not ours.is_away
    ours.fail()
    assert tried(ours)[0] != "b"
    assert ours.is_away
    ours.come_home()
    assert tried(ours)[0] == "b"


def test_without_a_preference_there_is_no_home() -> None:
    ours = dialer()
    tried(ours, "a")
    assert not ours.has_home
    assert not ours.is_away


def test_what_goes_beside_an_end_goes_to_the_very_same_broker() -> None:
    ours = dialer()
    beside = ours.beside()
    tried(ours, "a")
    assert tried(beside) == ["b"]
    assert tried(beside, "b") == ["b"], "not to another one"
    ours.fail()
    tried(ours)
    assert tried(beside) == ["a"]
    assert tried(ours) == ["a"], "and changes nothing for the end"


@pytest.mark.parametrize("seed", range(4))
def test_who_gave_no_connection_is_told_once_and_in_one_order(seed: int) -> None:
    ours = Dialer("failover:(amqp://u:s3cret@a,amqp://b)", {}, Random(seed))

    async def knock(endpoint: Endpoint, timeout: float) -> str:
        told = {"a": "403 ACCESS_REFUSED", "b": f"{endpoint}: connection refused"}
        raise ConnectionFailed(told[endpoint.host])

    with pytest.raises(ConnectionFailed) as raised:
        asyncio.run(ours._first(knock))
    assert str(raised.value) == ("amqp://b: connection refused; amqp://u:**@a: 403 ACCESS_REFUSED")
