"""The options of a list of brokers: what a bridge makes of each."""

from __future__ import annotations

import pytest

from understudy import ConfigurationError, parse
from understudy.core.backoff import Backoff
from understudy.core.options import OPTIONS
from understudyd.bridge.lists import (
    backoff_of,
    blocked_time_of,
    check,
    members_of,
    priority_of,
)

LIST = "failover:(amqp://a,amqp://b?heartbeat=500)"

USED = {
    "initialReconnectDelay": "20",
    "maxReconnectDelay": "9000",
    "useExponentialBackOff": "false",
    "backOffMultiplier": "3",
    "reconnectDelayJitter": "0",
    "randomize": "false",
    "priorityBackup": "true",
    "priorityURIs": "amqp://b",
    "connectTimeout": "300",
    "heartbeat": "700",
    "blockedTimeout": "1500",
    "maxReconnectAttempts": "5",
    "startupMaxReconnectAttempts": "5",
    "reconnect": "false",
    "updateURIsSupported": "false",
    "updateURIsURL": "/uris",
    "discovered.allow": "b",
    "nested.*": "",
    "discovered.*": "",
}
VALUES = {
    "timeout": "5",
    "maxCacheSize": "5",
    "closeTimeout": "5",
    "backupPoolSize": "2",
    "warnAfterReconnectAttempts": "2",
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_used_or_refused(name: str) -> None:
    """Nothing is accepted that has no effect."""
    if name.endswith(".*"):
        check(parse(f"{LIST}?nested.heartbeat=5"))
        return
    if name in USED:
        check(parse(f"{LIST}?{name}={USED[name]}"))
        return
    if name in ("minAckCount", "fanOutQueues"):
        return  # of fanout:, which is refused as a whole
    value = VALUES.get(name, "true")
    with pytest.raises(ConfigurationError, match=f"{name} has no effect here"):
        check(parse(f"{LIST}?{name}={value}"))


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("fanout:(static:(amqp://a,amqp://b))?minAckCount=2", "has one target"),
        ("discovery:(multicast://default?nonsense=1)", "nonsense"),
    ],
)
def test_forms_that_are_no_end_of_a_bridge(uri: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        check(parse(uri))


def test_delays_have_a_bridges_defaults_unless_the_uri_says_otherwise() -> None:
    assert backoff_of(parse("amqp://a")) == Backoff(100.0, 5000.0)
    assert backoff_of(parse(LIST)) == Backoff(100.0, 5000.0)
    said = "initialReconnectDelay=10&maxReconnectDelay=30000&reconnectDelayJitter=0"
    assert backoff_of(parse(f"{LIST}?{said}")) == Backoff(10.0, 30000.0, jitter=0.0)


def test_a_list_has_a_heartbeat_which_a_member_may_override() -> None:
    beats = [one.options.heartbeat for one in members_of(parse(f"{LIST}?heartbeat=700"))]
    assert beats == [700, 500]
    assert [one.options.heartbeat for one in members_of(parse("amqp://a"))] == [10_000]


def test_what_is_returned_to() -> None:
    assert priority_of(parse(LIST)) == ()
    first = priority_of(parse(f"{LIST}?priorityBackup=true"))
    assert [one.host for one in first] == ["a"]
    named = priority_of(parse(f"{LIST}?priorityBackup=true&priorityURIs=tcp://b:5672"))
    assert [one.host for one in named] == ["b"]


def test_how_long_a_target_may_be_blocked() -> None:
    assert blocked_time_of(parse(LIST)) is None
    assert blocked_time_of(parse(f"{LIST}?blockedTimeout=1500")) == 1.5
