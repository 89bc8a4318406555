"""Names of destinations: what a configuration may say, what it matches, what brokers call it."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import ConfigurationError
from understudyd.bridge.addresses import (
    Subscription,
    from_amqp,
    from_stomp,
    subscribe_headers,
    subscription,
    to_amqp,
    to_stomp,
)
from understudyd.bridge.content import Untranslatable
from understudyd.bridge.dialects import (
    ACTIVEMQ,
    ARTEMIS,
    RABBITMQ_AMQP,
    RABBITMQ_STOMP,
    Dialect,
)
from understudyd.bridge.names import EXCHANGE, QUEUE, TOPIC, Destination, Pattern
from understudyd.bridge.settings import Reading

WORDS = st.text(st.sampled_from("ab*>#,?%/ é"), max_size=3)
NAMES = st.lists(WORDS, min_size=1, max_size=4).map(".".join).filter(bool)
PATTERNS = (
    st.lists(st.sampled_from(["a", "b", "*", ">"]), min_size=1, max_size=4)
    .map(lambda words: "topic://" + ".".join(words))
    .map(Pattern.parse)
)
KEYS = st.lists(st.sampled_from("abc"), max_size=5).map(".".join)


def topic(name: str) -> Destination:
    return Destination(TOPIC, name)


@pytest.mark.parametrize(
    ("text", "names", "others"),
    [
        ("topic://a.b", ["a.b"], ["a", "a.b.c", "a.B", ""]),
        ("topic://a.*", ["a.b", "a."], ["a", "a.b.c"]),
        ("topic://a.>", ["a", "a.b", "a.b.c"], ["b", "ab", "b.a"]),
        ("topic://>", ["a", "a.b", ""], []),
        ("topic://*", ["a"], ["a.b", ""]),
        ("topic://a.>.z", ["a.z", "a.b.z", "a.b.c.z"], ["a", "z", "a.b"]),
        ("topic://*.>", ["a", "a.b"], [""]),
        ("topic://a%2A", ["a*"], ["a", "ab"]),
        ("topic://a%2Cb.%3E", ["a,b.>"], ["a,b.c"]),
    ],
)
def test_a_pattern_matches_whole_words(text: str, names: list[str], others: list[str]) -> None:
    pattern = Pattern.parse(text)
    assert [name for name in names if not pattern.matches(topic(name))] == []
    assert [name for name in others if pattern.matches(topic(name))] == []


def test_a_pattern_of_one_kind_does_not_match_another() -> None:
    assert not Pattern.parse("queue://>").matches(topic("a"))
    assert not Pattern.parse("exchange://x/>").matches(Destination(EXCHANGE, "a", "y"))
    assert Pattern.parse("exchange://x%2Fy/>").matches(Destination(EXCHANGE, "a", "x/y"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("orders", "queue://NAME"),
        ("queues://orders", "queue://NAME"),
        ("queue://", "names nothing"),
        ("exchange://x", "names nothing"),
        ("exchange:///key", "names no exchange"),
        ("exchange://*/key", "wildcards are for the key"),
        ("queue://a,b", "list each"),
        ("queue://a?consumer.priority=9", "options"),
        ("topic://a.b*", "stands alone"),
        ("topic://a.#", "is > here"),
        ("queue://a\nb", "a control character in it: leave it out, or write %0A"),
        ("exchange://a\tb/c", "or write %09"),
        ("queue:// a", "a blank at one end"),
        ("queue://a ", "or write %20"),
    ],
)
def test_what_is_no_name_is_refused_with_what_would_be(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        Pattern.parse(text)
    assert repr(text) in str(caught.value)


@given(st.sampled_from([QUEUE, TOPIC]), NAMES)
def test_a_destination_is_written_so_that_it_reads_as_itself(kind: str, name: str) -> None:
    destination = Destination(kind, name)
    assert Pattern.parse(str(destination)).destination == destination


@given(NAMES, st.text(st.sampled_from("x/%*,"), min_size=1))
def test_so_is_one_at_an_exchange(name: str, exchange: str) -> None:
    destination = Destination(EXCHANGE, name, exchange)
    assert Pattern.parse(str(destination)).destination == destination


def test_only_an_exact_pattern_is_a_destination() -> None:
    with pytest.raises(ConfigurationError, match="more than one"):
        _ = Pattern.parse("queue://a.*").destination


@given(PATTERNS, KEYS)
def test_what_the_wildcards_stood_for_gives_the_name_again(pattern: Pattern, key: str) -> None:
    captures = pattern.captures(topic(key))
    if captures is not None:
        assert pattern.fill(captures) == topic(key)


@given(PATTERNS, PATTERNS, KEYS)
def test_patterns_that_match_one_name_overlap(one: Pattern, other: Pattern, key: str) -> None:
    if one.matches(topic(key)) and other.matches(topic(key)):
        assert one.overlaps(other)
    assert one.overlaps(other) == other.overlaps(one)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("queue://a.>", "queue://a", True),
        ("queue://a.*", "queue://*.b", True),
        ("queue://a.*", "queue://b.*", False),
        ("queue://a.>.z", "queue://*.*.*.y", False),
        ("queue://%2A", "queue://a", False),
        ("queue://a", "topic://a", False),
    ],
)
def test_overlap(one: str, other: str, overlap: bool) -> None:
    assert Pattern.parse(one).overlaps(Pattern.parse(other)) is overlap


@pytest.mark.parametrize(
    "text",
    [
        "queue://amq.gen-abc",
        "queue://stomp-subscription-x",
        "queue://understudy.parking.orders",
        "queue://ActiveMQ.DLQ",
        "topic://ActiveMQ.Advisory.Consumer.Queue.x",
        "queue://activemq.notifications",
        "topic://understudy.cluster",
        "queue://ID:vm-1",
        "exchange://amq.rabbitmq.event/queue.created",
    ],
)
def test_what_brokers_and_bridges_make_for_themselves_is_known(text: str) -> None:
    """Scenario 52 of the bridges."""
    pattern = Pattern.parse(text)
    assert pattern.is_system
    assert pattern.destination.is_system


def test_applications_names_are_no_system_names() -> None:
    for text in ("queue://>", "queue://ActiveMQ.>", "topic://amq.x", "queue://understudy"):
        assert not Pattern.parse(text).is_system
    assert not topic("amq.x").is_system
    assert not Destination(QUEUE, "understudyx.y").is_system


@pytest.mark.parametrize(
    ("text", "dialect", "wanted"),
    [
        ("queue://a/b", RABBITMQ_AMQP, ("a/b", True)),
        ("queue://a.%2A", RABBITMQ_AMQP, ("a.*", True)),  # queues have no wildcards there
        ("topic://a.*.>", RABBITMQ_AMQP, ("a.*.#", True)),
        ("topic://a.>.z", RABBITMQ_AMQP, ("a.#.z", True)),
        ("topic://a.%23", RABBITMQ_AMQP, ("a.*", False)),
        ("exchange://x/>", RABBITMQ_AMQP, ("#", True)),
        ("queue://a/b%25", RABBITMQ_STOMP, ("/amq/queue/a%2Fb%", True)),
        ("topic://a.>", RABBITMQ_STOMP, ("/topic/a.#", True)),
        ("exchange://x%2Fy/a.*", RABBITMQ_STOMP, ("/exchange/x%2Fy/a.*", True)),
        ("queue://a.>", ACTIVEMQ, ("/queue/a.>", True)),
        ("topic://a.>.z", ACTIVEMQ, ("/topic/a.>", False)),
        ("topic://a.*.z", ACTIVEMQ, ("/topic/a.*.z", True)),
        ("topic://a.>.z", ARTEMIS, ("a.#.z", True)),
    ],
)
def test_a_pattern_is_subscribed_to_so_that_nothing_is_missed(
    text: str, dialect: Dialect, wanted: tuple[str, bool]
) -> None:
    assert subscription(Pattern.parse(text), dialect) == Subscription(*wanted)


@pytest.mark.parametrize(
    ("text", "dialect", "told"),
    [
        ("queue://a.>", RABBITMQ_AMQP, "name each queue"),
        ("queue://a.>", RABBITMQ_STOMP, "name each queue"),
        ("exchange://x/a", ACTIVEMQ, "no exchanges"),
        ("queue://a%2Cb", ACTIVEMQ, "cannot have such a name"),
        ("topic://a.%23", ARTEMIS, "cannot have such a name"),
        ("queue://a%252F", RABBITMQ_STOMP, "cannot have such a name"),
        ("exchange://a%252F/k", RABBITMQ_STOMP, "cannot have such a name"),
    ],
)
def test_what_a_broker_cannot_be_asked_for_is_refused(
    text: str, dialect: Dialect, told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        subscription(Pattern.parse(text), dialect)
    assert repr(text) in str(caught.value)


def shown(header: str, dialect: Dialect) -> str:
    """The destination that a MESSAGE shows for the one that was sent to."""
    if dialect is not RABBITMQ_STOMP:
        return header
    parts = header.split("/")
    known = [quote(part.replace("%2F", "/"), safe=" !*>#,?") for part in parts]
    return "/".join(known).replace("/amq/queue/", "/queue/")


@given(st.sampled_from([QUEUE, TOPIC]), NAMES, st.sampled_from([ACTIVEMQ, RABBITMQ_STOMP]))
def test_a_stomp_destination_reads_as_what_it_was_written_for(
    kind: str, name: str, dialect: Dialect
) -> None:
    destination = Destination(kind, name)
    try:
        header = to_stomp(destination, dialect)
    except Untranslatable:
        assert dialect is ACTIVEMQ
    else:
        assert from_stomp(shown(header, dialect), kind, dialect) == destination


@given(NAMES, NAMES)
def test_so_does_one_at_an_exchange(key: str, exchange: str) -> None:
    destination = Destination(EXCHANGE, key, exchange)
    header = shown(to_stomp(destination, RABBITMQ_STOMP), RABBITMQ_STOMP)
    assert from_stomp(header, TOPIC, RABBITMQ_STOMP) == destination
    assert from_amqp(*to_amqp(destination)) == destination


def test_what_rabbitmq_calls_the_topic_exchange_is_a_topic() -> None:
    assert from_stomp("/exchange/amq.topic/a.b", TOPIC, RABBITMQ_STOMP) == topic("a.b")
    assert from_amqp("events", "a.b", topic_exchange="events") == topic("a.b")
    assert to_amqp(topic("a.b"), topic_exchange="events") == ("events", "a.b")


def test_artemis_names_addresses_without_a_prefix() -> None:
    assert to_stomp(topic("a.b"), ARTEMIS) == "a.b"
    assert from_stomp("a.b", TOPIC, ARTEMIS) == topic("a.b")


@pytest.mark.parametrize(
    ("destination", "dialect", "told"),
    [
        (Destination(QUEUE, "a,b"), ACTIVEMQ, "cannot have a queue"),
        (Destination(TOPIC, "a.*"), ACTIVEMQ, "cannot have a topic"),
        (Destination(QUEUE, " a"), ACTIVEMQ, "cannot have a queue"),
        (Destination(QUEUE, "a::b"), ARTEMIS, "cannot have a queue"),
        (Destination(EXCHANGE, "k", "x"), ACTIVEMQ, "rename"),
        (Destination(QUEUE, "é" * 128), RABBITMQ_STOMP, "255"),
        (Destination(EXCHANGE, "k", "a%2Fb"), RABBITMQ_STOMP, "cannot have"),
    ],
)
def test_what_a_broker_cannot_name_is_untranslatable(
    destination: Destination, dialect: Dialect, told: str
) -> None:
    with pytest.raises(Untranslatable, match=told):
        to_stomp(destination, dialect)


def test_a_temporary_destination_is_one_of_its_own_kind_and_of_its_own_broker() -> None:
    shown = "/remote-temp-queue/ID:x:1"
    found = from_stomp(shown, QUEUE, ACTIVEMQ)
    assert found == Destination("temp-queue", "ID:x:1")
    assert to_stomp(found, ACTIVEMQ) == shown
    with pytest.raises(Untranslatable):
        to_stomp(found, RABBITMQ_STOMP)


def test_what_is_asked_of_each_broker_when_subscribing() -> None:
    topic_, queue = Pattern.parse("topic://a.>"), Pattern.parse("queue://a")
    lasting = Reading(durable_expires=0.009)
    assert subscribe_headers(topic_, RABBITMQ_STOMP, window=16, durable="n", reading=lasting) == {
        "destination": "/topic/a.#",
        "prefetch-count": "16",
        "x-queue-name": "n",
        "durable": "true",
        "auto-delete": "false",
        "x-expires": "9",
    }
    chosen = Reading(selector="x = 1")
    assert subscribe_headers(topic_, ACTIVEMQ, window=16, durable="n", reading=chosen) == {
        "destination": "/topic/a.>",
        "activemq.prefetchSize": "16",
        "activemq.subscriptionName": "n",
        "selector": "x = 1",
    }
    assert subscribe_headers(queue, ACTIVEMQ, window=16, reading=chosen, keeping="y = 2") == {
        "destination": "/queue/a",
        "activemq.prefetchSize": "16",
        "selector": "y = 2",
        "activemq.priority": "-5",
    }
    first = Reading(priority=-9)
    assert subscribe_headers(queue, RABBITMQ_STOMP, window=1, reading=first, keeping="y = 2") == {
        "destination": "/amq/queue/a",
        "prefetch-count": "1",
        "x-priority": "-9",
    }
    assert subscribe_headers(queue, ARTEMIS, window=1 << 20, durable="n", reading=Reading()) == {
        "destination": "a",
        "consumer-window-size": "1048576",
        "subscription-type": "ANYCAST",
    }


@pytest.mark.parametrize(
    ("pattern", "dialect", "reading", "told"),
    [
        ("queue://a", RABBITMQ_STOMP, Reading(selector="x = 1"), "selector = 'x = 1'"),
        ("topic://a", ACTIVEMQ, Reading(durable_expires=9.0), "durable_expires: ActiveMQ has no"),
        ("queue://a", ARTEMIS, Reading(priority=-9), "consumer_priority_base: Artemis has no"),
    ],
)
def test_what_a_broker_has_not_is_told_when_it_is_known(
    pattern: str, dialect: Dialect, reading: Reading, told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        subscribe_headers(Pattern.parse(pattern), dialect, window=1, durable="n", reading=reading)
