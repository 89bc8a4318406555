"""The options of a failover URI: table, values, errors, precedence."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping

import pytest

from understudy import ConfigurationError, Options, parse
from understudy.core.options import OPTIONS

DEFAULTS = {  # the table of the README, by hand
    "initialReconnectDelay": 10,
    "maxReconnectDelay": 30000,
    "useExponentialBackOff": True,
    "backOffMultiplier": 2.0,
    "reconnectDelayJitter": 0.5,
    "maxReconnectAttempts": 0,
    "startupMaxReconnectAttempts": 0,
    "reconnect": True,
    "reconnectSupported": True,
    "randomize": True,
    "backup": False,
    "backupPoolSize": 1,
    "priorityBackup": False,
    "priorityURIs": (),
    "timeout": -1,
    "connectTimeout": 5000,
    "closeTimeout": 5000,
    "heartbeat": 10000,
    "blockedTimeout": -1,
    "trackMessages": False,
    "maxCacheSize": 131072,
    "trackTransactionProducers": True,
    "confirms": True,
    "updateURIsSupported": True,
    "updateURIsURL": None,
    "rebalanceUpdateURIs": True,
    "warnAfterReconnectAttempts": 10,
    "minAckCount": 2,
    "fanOutQueues": False,
    "discovered.allow": (),
    "nested.*": {},
    "discovered.*": {},
}


def options(query: str, **library: object) -> Options:
    return parse(f"failover:(amqp://a)?{query}", options=library).options


def refusal(query: str, library: Mapping[str, object] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(f"failover:(amqp://a,amqp://b)?{query}", options=library)
    return str(caught.value)


def test_defaults() -> None:
    assert {name: option.default for name, option in OPTIONS.items()} == DEFAULTS
    assert {name: getattr(Options(), option.field) for name, option in OPTIONS.items()} == DEFAULTS
    assert parse("failover:(amqp://a)").options == Options()


def test_options_are_a_value() -> None:
    one = options("timeout=3000&nested.heartbeat=5")
    assert one == options("nested.heartbeat=5&timeout=3000")
    assert hash(one) == hash(options("timeout=3000&nested.heartbeat=5"))
    assert one != Options()
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.timeout = 5  # type: ignore[misc]


def test_repr_tells_what_is_not_default_and_no_secret() -> None:
    assert repr(Options()) == "Options()"
    shown = repr(options("timeout=3000&randomize=false&nested.password=Zq7"))
    assert shown == "Options(timeout=3000, randomize=false, nested.password=**)" or (
        shown == "Options(randomize=false, timeout=3000, nested.password=**)"
    )


@pytest.mark.parametrize(
    ("query", "field", "value"),
    [
        ("timeout=3000", "timeout", 3000),
        ("timeout=-1", "timeout", -1),
        ("initialReconnectDelay=0", "initial_reconnect_delay", 0),
        ("randomize=FALSE", "randomize", False),
        ("randomize=True", "randomize", True),
        ("backOffMultiplier=1.05", "back_off_multiplier", 1.05),
        ("reconnectDelayExponent=3", "back_off_multiplier", 3.0),
        ("reconnectDelayJitter=0", "reconnect_delay_jitter", 0.0),
        ("maxReconnectAttempts=-1", "max_reconnect_attempts", -1),
        ("blockedTimeout=500", "blocked_timeout", 500),
        ("heartbeat=0", "heartbeat", 0),
        ("priorityURIs=amqp://a,amqp://a:5672", "priority_uris", ("amqp://a", "amqp://a:5672")),
        ("updateURIsURL=file:/etc/uris", "update_uris_url", "file:/etc/uris"),
        ("updateURIsURL=http%3A%2F%2Fh%2Fu%3Fx%3D1", "update_uris_url", "http://h/u?x=1"),
        ("updateURIsURL=C%3A%5Curis", "update_uris_url", "C:\\uris"),
        ("nested.heartbeat=5&nested.x=y", "nested", {"heartbeat": "5", "x": "y"}),
        ("discovered.heartbeat=5", "discovered", {"heartbeat": "5"}),
        ("discovered.allow=10.0.0.0/8,b", "discovered_allow", ("10.0.0.0/8", "b")),
        ("discovered.allow=*.b.example,*", "discovered_allow", ("*.b.example", "*")),
        # the Qpid dialect
        ("failover.timeout=3000", "timeout", 3000),
        ("failover.nested.heartbeat=5", "nested", {"heartbeat": "5"}),
        ("failover.useReconnectBackOff=false", "use_exponential_back_off", False),
        ("failover.reconnectBackOffMultiplier=3", "back_off_multiplier", 3.0),
        # the same thing twice is no contradiction
        ("timeout=3000&failover.timeout=3000", "timeout", 3000),
        ("backOffMultiplier=3&reconnectDelayExponent=3.0", "back_off_multiplier", 3.0),
        ("randomize=true&randomize=TRUE", "randomize", True),
        # blanks and line ends around options, as in a configuration file
        ("\n  timeout=3000 &\n", "timeout", 3000),
    ],
)
def test_values(query: str, field: str, value: object) -> None:
    assert getattr(options(query), field) == value


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("maxReconnectAttempt=5", ["maxReconnectAttempt", '"5"', "did you mean maxReconnect"]),
        ("Timeout=5", ["Timeout", "did you mean timeout?"]),
        ("zzz=5", ["zzz", "(valid: backOffMultiplier, "]),
        ("wireFormat.maxInactivityDuration=5", ["did you mean heartbeat?"]),
        ("failover.reconnectDelay=5", ["reconnectDelay", "did you mean initialReconnectDelay?"]),
        ("useReconnectBackOff=true", ["did you mean useExponentialBackOff?"]),
        ("nested.=5", ["nested."]),
        ("nested.*=5", ["nested.*"]),
        ("jms.useAsyncSend=true", ["jms.useAsyncSend"]),
        ("timeout=soon", ["timeout", '"soon"', "-1 or 1 to 2147483647 milliseconds"]),
        ("timeout=3s", ['"3s"']),
        ("timeout=1.5", ['"1.5"']),
        ("timeout=", ['""']),
        ("timeout=0", ["timeout", "-1 or 1 to"]),
        ("timeout=-2", ["timeout", '"-2"']),
        ("timeout=2147483648", ["timeout", '"2147483648"']),
        ("timeout=٣", ["timeout"]),
        ("connectTimeout=0", ["connectTimeout"]),
        ("connectTimeout=-1", ["connectTimeout", '"-1"']),
        ("closeTimeout=-1", ["closeTimeout"]),
        ("blockedTimeout=0", ["blockedTimeout"]),
        ("initialReconnectDelay=-1", ["initialReconnectDelay"]),
        ("maxReconnectDelay=0", ["maxReconnectDelay"]),
        ("backOffMultiplier=0.5", ["backOffMultiplier", "1 to 1000"]),
        ("backOffMultiplier=nan", ["backOffMultiplier"]),
        ("reconnectDelayJitter=1.5", ["reconnectDelayJitter", "0 to 1"]),
        ("maxCacheSize=0", ["maxCacheSize", "bytes"]),
        ("maxReconnectAttempts=-2", ["maxReconnectAttempts"]),
        ("heartbeat=-1", ["heartbeat"]),
        ("randomize=yes", ["randomize", '"yes"', "true or false"]),
        ("randomize=1", ["randomize", '"1"', "true or false"]),
        ("randomize", ["randomize", "no value"]),
        ("backOffMultiplier=3&reconnectDelayExponent=4", ["backOffMultiplier", "twice", "same"]),
        ("timeout=3&timeout=4", ["timeout", "twice"]),
        ("timeout=3&failover.timeout=4", ["timeout", "twice"]),
        ("nested.x=3&nested.x=4", ["nested.x", "twice"]),
        ("updateURIsURL=ftp://h/x", ["updateURIsURL", "http"]),
        ("updateURIsURL=", ["updateURIsURL"]),
        ("priorityURIs=ampq://a", ["priorityURIs", "ampq", "amqp"]),
        ("discovered.allow=a,10.0.0.0/33", ["discovered.allow", '"10.0.0.0/33" is not', "CIDR"]),
        (
            "discovered.allow=10.*",
            ["discovered.allow", '"10.*" is not', "*.domains"],
        ),  # names begin like that too
        ("minAckCount=2", ["minAckCount", "fanout:"]),
        ("fanOutQueues=true", ["fanOutQueues", "fanout:"]),
        ("nested.timeout=5", ["timeout", "whole list"]),
        ("nested.heartbeat=soon", ["heartbeat", '"soon"']),
        ("nested.cafile=/ca.pem", ["nested.cafile", "TLS"]),
        ("timeout=%ff", ["timeout"]),
    ],
)
def test_refusals_name_option_value_and_rule(query: str, words: list[str]) -> None:
    """F02, F49: nothing is ignored."""
    text = refusal(query)
    assert [word for word in words if word not in text] == []
    assert "\n" not in text


@pytest.mark.parametrize(
    "query",
    [
        "passwd=Zq7",
        "clientSecret=Zq7",
        "token=Zq7",
        "timeout=u:Zq7@h",
        "discovered.allow=Zq7/x,y@h",
    ],
)
def test_refusals_show_no_secret(query: str) -> None:
    assert "Zq7" not in refusal(query)


def test_the_library_gives_defaults_that_the_uri_overrides() -> None:
    library: dict[str, object] = {
        "timeout": 1000,
        "max_reconnect_delay": 500,
        "randomize": False,
        "backOffMultiplier": 3,
        "priority_uris": ["amqp://a"],
        "nested": {"heartbeat": 5, "x": "library"},
        "nested.z": "1",
        "update_uris_url": None,
    }
    uri = parse("failover:(amqp://a)?timeout=2000&nested.x=uri", options=library)
    assert uri.options.timeout == 2000
    assert uri.options.max_reconnect_delay == 500
    assert uri.options.randomize is False
    assert uri.options.back_off_multiplier == 3.0
    assert uri.options.priority_uris == ("amqp://a",)
    assert uri.options.nested == {"heartbeat": "5", "x": "uri", "z": "1"}
    assert uri.endpoints[0].options.heartbeat == 5
    assert uri.endpoints[0].query == {"x": "uri", "z": "1"}
    told = {name: uri.origins[name] for name in ("timeout", "maxReconnectDelay", "backup")}
    assert told == {"timeout": "URI", "maxReconnectDelay": "options", "backup": "default"}
    assert uri.origins["nested.x"] == "URI"
    assert uri.origins["nested.z"] == "options"


def test_the_library_may_write_values_as_text() -> None:
    assert options("", timeout="2000", randomize="false").timeout == 2000


@pytest.mark.parametrize(
    ("library", "words"),
    [
        ({"time_out": 5}, ["time_out", "timeout"]),
        ({"timeout": True}, ["timeout", "True"]),
        ({"timeout": 1.5}, ["timeout", "1.5"]),
        ({"timeout": b"5"}, ["timeout"]),
        ({"randomize": 1}, ["randomize", "true or false"]),
        ({"timeout": 5, "failover.timeout": 6}, ["timeout", "twice"]),
        ({"max_cache_size": 5, "maxCacheSize": 6}, ["maxCacheSize", "twice"]),
        ({"priorityURIs": [5]}, ["priorityURIs"]),
        ({"nested": "x"}, ["nested"]),
        ({"nested": {"x": object()}}, ["nested.x"]),
        ({"nested": {"x": "\ud800"}}, ["nested.x"]),
        ({"updateURIsURL": "\ud800"}, ["updateURIsURL"]),
        ({"backOffMultiplier": float("nan")}, ["backOffMultiplier"]),
    ],
)
def test_the_library_is_checked_the_same_way(library: dict[str, object], words: list[str]) -> None:
    text = refusal("", library)
    assert [word for word in words if word not in text] == []


def test_options_made_in_python_are_checked_too() -> None:
    with pytest.raises(ConfigurationError, match="timeout must be -1 or 1 to"):
        Options(timeout=0)
    with pytest.raises(ConfigurationError, match="priorityURIs"):
        Options(priority_uris="amqp://a")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("query", "at_startup", "later"),
    [
        ("", None, None),
        ("maxReconnectAttempts=-1", None, None),
        ("maxReconnectAttempts=3", 3, 3),
        ("startupMaxReconnectAttempts=2", 2, None),
        ("maxReconnectAttempts=3&startupMaxReconnectAttempts=-1", 3, 3),
    ],
)
def test_limits_of_attempts(query: str, at_startup: int | None, later: int | None) -> None:
    told = options(query)
    assert (told.max_passes(startup=True), told.max_passes(startup=False)) == (at_startup, later)


def test_every_option_has_a_meaning_and_tells_what_is_valid() -> None:
    for option in OPTIONS.values():
        assert option.meaning
        assert option.valid
