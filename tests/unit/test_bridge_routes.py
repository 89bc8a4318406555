"""Which messages a bridge forwards, where to, and how far."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import ConfigurationError
from understudyd.bridge.content import AmqpContent, StompContent, Untranslatable
from understudyd.bridge.dialects import ACTIVEMQ, RABBITMQ_AMQP
from understudyd.bridge.names import Destination, Pattern
from understudyd.bridge.routes import MAX_HOPS, Options, Routes, Verdict, check_duplex
from understudyd.bridge.wire import properties
from understudyd.testing.translated import translate

NOW = 1_700_000_000_000


def routes(**options: Any) -> Routes:
    return Routes(Options(**options), "a", "b")


def at(text: str) -> Destination:
    return Pattern.parse(text).destination


@pytest.mark.parametrize(
    ("options", "permitted", "refused"),
    [
        ({}, ["queue://x", "topic://x"], []),
        ({"excluded": ["queue://x.>"]}, ["queue://y", "topic://x"], ["queue://x", "queue://x.y"]),
        (
            {"dynamically_included": ["queue://x.*"]},
            ["queue://x.y"],
            ["queue://x", "queue://x.y.z", "topic://x.y"],
        ),
        (
            {"dynamically_included": ["queue://x"], "statically_included": ["topic://y"]},
            ["queue://x", "topic://y"],
            ["topic://x", "queue://y"],
        ),
        (
            {"statically_included": ["queue://x.>"], "excluded": ["queue://x.test.>"]},
            ["queue://x.y", "queue://z"],
            ["queue://x.test", "queue://x.test.y"],
        ),
    ],
)
def test_what_is_permitted(
    options: dict[str, Any], permitted: list[str], refused: list[str]
) -> None:
    asked = routes(**options)
    assert [text for text in permitted if not asked.permits(at(text))] == []
    assert [text for text in refused if asked.permits(at(text))] == []


@pytest.mark.parametrize(
    "text", ["queue://ActiveMQ.DLQ", "queue://amq.gen-x", "queue://understudy.parking.x"]
)
def test_52_system_destinations_only_when_asked_for(text: str) -> None:
    assert not routes().permits(at(text))
    assert not routes(statically_included=["queue://>"]).permits(at(text))
    assert routes(statically_included=["queue://>", text]).permits(at(text))
    assert not routes(statically_included=[text], excluded=[text]).permits(at(text))


@pytest.mark.parametrize(
    ("rename", "source", "target"),
    [
        ({"queue://a": "queue://b"}, "queue://a", "queue://b"),
        ({"queue://a": "queue://b"}, "queue://c", "queue://c"),
        ({"queue://a.*": "queue://eu.*.in"}, "queue://a.x", "queue://eu.x.in"),
        ({"topic://a.>": "topic://b.>"}, "topic://a.x.y", "topic://b.x.y"),
        ({"topic://a.>": "topic://b.>"}, "topic://a", "topic://b"),
        ({"topic://*.a.>": "topic://b.*.>"}, "topic://x.a.y.z", "topic://b.x.y.z"),
        ({"topic://a.>": "queue://all"}, "topic://a.x", "queue://all"),
        ({"exchange://X/>": "topic://X.>"}, "exchange://X/k.l", "topic://X.k.l"),
        ({"queue://a.b": "queue://1", "queue://a.*": "queue://2"}, "queue://a.b", "queue://1"),
        ({"queue://a.*": "queue://2", "queue://a.b": "queue://1"}, "queue://a.b", "queue://2"),
        ({"queue://a": "queue://b", "queue://b": "queue://c"}, "queue://a", "queue://b"),
    ],
)
def test_renames(rename: dict[str, str], source: str, target: str) -> None:
    renamed = routes(rename=rename)
    assert renamed.target(at(source)) == at(target)
    assert renamed.decide(at(source), None).target == at(target)


def test_the_first_entry_of_a_path_forwards_once() -> None:
    topic, queue = at("topic://x"), at("queue://x")
    once = routes()
    assert once.decide(topic, None) == (Verdict.FORWARD, topic, "")
    assert once.decide(topic, "") == (Verdict.FORWARD, topic, "")
    assert once.decide(topic, "c") == (Verdict.DROP, None, "hops")
    assert once.decide(queue, "c") == (Verdict.STAY, None, "hops")


def test_nothing_goes_to_where_it_was() -> None:
    far = routes(network_ttl=5)
    assert far.decide(at("queue://x"), "c,b").reason == "loop"
    assert far.decide(at("topic://x"), "b").verdict is Verdict.DROP
    assert far.decide(at("topic://x"), "c,bb").verdict is Verdict.FORWARD


def test_what_is_not_permitted_is_held_as_its_kind_is() -> None:
    closed = routes(excluded=["queue://x", "topic://x"])
    assert closed.decide(at("queue://x"), None) == (Verdict.STAY, None, "excluded")
    assert closed.decide(at("topic://x"), None) == (Verdict.DROP, None, "excluded")


@given(st.integers(-1, 6), st.lists(st.sampled_from("cdefghij"), max_size=MAX_HOPS + 5))
def test_a_path_never_grows_past_its_limit(ttl: int, hops: list[str]) -> None:
    limited = routes(network_ttl=ttl)
    path = ",".join(hops)
    if limited.decide(at("queue://x"), path).verdict is Verdict.FORWARD:
        longer = limited.longer(path).split(",")
        assert longer == [*hops, "a"]
        assert len(longer) <= (MAX_HOPS if ttl == -1 else ttl)


@given(st.integers(1, 4), st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=2, max_size=30))
def test_a_message_comes_to_no_broker_twice(ttl: int, journey: list[str]) -> None:
    """Whatever links there are, with limits of their own."""
    path, been = None, [journey[0]]
    for there in journey[1:]:
        link = Routes(Options(network_ttl=ttl), been[-1], there)
        if there != been[-1] and link.decide(at("topic://x"), path).verdict is Verdict.FORWARD:
            path = link.longer(path)
            been.append(there)
    assert len(set(been)) == len(been)
    assert len(been) <= ttl + 1


def test_names_of_brokers_may_have_any_characters() -> None:
    link = Routes(Options(network_ttl=3), "a,b", "ü %")
    path = link.longer(None)
    assert path == "a%2Cb"
    back = Routes(Options(network_ttl=3), "ü %", "a,b")
    assert back.decide(at("topic://x"), path).reason == "loop"


def like(pattern: str, text: str) -> bool:
    """LIKE ... ESCAPE '\\' as SQL has it."""
    parts = re.findall(r"\\.|.", pattern)
    expression = "".join(
        {"%": ".*", "_": "."}.get(part, re.escape(part.removeprefix("\\"))) for part in parts
    )
    return re.fullmatch(expression, text) is not None


@given(
    st.integers(-1, 3),
    st.sampled_from(["b", "b_1", "b%", "bb"]),
    st.lists(st.sampled_from(["b", "b_1", "bx1", "b%25", "bb", "c"]), max_size=4),
)
def test_a_selector_lets_through_what_is_forwarded(ttl: int, there: str, hops: list[str]) -> None:
    link = Routes(Options(network_ttl=ttl), "a", there)
    path = ",".join(hops) or None
    text = link.selector()
    refused = any(like(pattern, path or "") for pattern in re.findall(r"LIKE '(.*?)' ", text))
    passes = text != "1 = 0" and (path is None or not refused)
    assert passes is (link.decide(at("queue://x"), path).verdict is Verdict.FORWARD)


def test_a_selector_is_added_to_the_one_asked_for() -> None:
    assert routes().selector("colour = 'red'").startswith("(colour = 'red') AND (x_under")


def test_headers_are_removed_and_set_in_both_forms() -> None:
    changed = routes(headers_set={"site": "eu", "n": "1"}, headers_remove=["secret"])
    raw = properties.build({"headers": {"secret": ["x"], "n": 7, "kept": 1.5}})
    wanted = {"n": "1", "kept": 1.5, "site": "eu"}
    assert properties.get(changed.change_amqp(raw), "headers") == wanted
    for dialect in (RABBITMQ_AMQP, ACTIVEMQ):
        sent = translate(AmqpContent(raw, b""), RABBITMQ_AMQP, dialect, NOW, changed.change)
        if isinstance(sent, StompContent):
            assert sent.headers["x-understudy-path"] == "a"
            assert sent.headers["x-understudy-types"] == "kept=d"
            assert "secret" not in sent.headers
        else:
            assert properties.get(sent.properties, "headers") == wanted | {"x-understudy-path": "a"}


@pytest.mark.parametrize(
    ("kind", "body", "has_length"),
    [
        ("auto", b"plain", True),
        ("text", b"plain", False),
        ("text", "ä\U0001f600".encode(), False),
        ("bytes", b"plain", True),
    ],
)
def test_all_bodies_become_what_the_option_says(kind: str, body: bytes, has_length: bool) -> None:
    """Scenario 2: to ActiveMQ one with a length is bytes, one without is text."""
    content = AmqpContent(properties.build({}), body)
    sent = translate(content, RABBITMQ_AMQP, ACTIVEMQ, NOW, routes(body=kind).change)
    assert isinstance(sent, StompContent)
    assert sent.has_length is has_length
    assert sent.body == body


@pytest.mark.parametrize("body", [b"\xff", b"a\0b"])
def test_a_body_that_is_no_text_is_parked_where_text_is_asked(body: bytes) -> None:
    content = AmqpContent(properties.build({}), body)
    with pytest.raises(Untranslatable, match="no text"):
        translate(content, RABBITMQ_AMQP, ACTIVEMQ, NOW, routes(body="text").change)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"network_ttl": -2}, "network_ttl = -2"),
        ({"statically_included": ["orders"]}, "'orders' is no destination"),
        ({"excluded": ["queue://a,b"]}, "composite"),
        ({"rename": {"queue://a.*": "queue://b.>"}}, "other wildcards"),
        ({"rename": {"queue://a": "queue://b.*"}}, "other wildcards"),
        ({"headers_set": {"x-understudy-path": "x"}}, "bridge's own"),
        ({"headers_remove": [""]}, "an empty name"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        routes(**options)
    with pytest.raises(ConfigurationError, match="no name"):
        Routes(Options(), "", "b")


def test_a_target_that_cannot_have_a_name_is_told_at_load() -> None:
    asked = routes(statically_included=["exchange://X/k", "topic://>"])
    asked.check_target(RABBITMQ_AMQP)
    with pytest.raises(ConfigurationError, match="'exchange://X/k': ActiveMQ has no exchanges"):
        asked.check_target(ACTIVEMQ)
    routes(
        statically_included=["exchange://X/k"], rename={"exchange://X/k": "topic://X.k"}
    ).check_target(ACTIVEMQ)


@pytest.mark.parametrize(
    ("one", "other", "refused"),
    [
        ({"statically_included": ["queue://x"]}, {"statically_included": ["queue://x"]}, True),
        ({"statically_included": ["queue://x"]}, {"statically_included": ["queue://>"]}, True),
        ({"statically_included": ["queue://>"]}, {"statically_included": ["queue://x"]}, True),
        ({"statically_included": ["queue://x.*"]}, {"statically_included": ["queue://>"]}, True),
        ({"statically_included": ["queue://x"]}, {"statically_included": ["queue://y"]}, False),
        ({"statically_included": ["topic://x"]}, {"statically_included": ["topic://x"]}, False),
        (
            {"statically_included": ["queue://x"], "rename": {"queue://x": "queue://y"}},
            {"statically_included": ["queue://x"]},
            False,
        ),
        (
            {"statically_included": ["queue://x"], "rename": {"queue://x": "queue://y"}},
            {"statically_included": ["queue://y"]},
            True,
        ),
        (
            {"statically_included": ["queue://x"]},
            {"statically_included": ["queue://>"], "excluded": ["queue://x"]},
            False,
        ),
    ],
)
def test_a_queue_is_not_bridged_to_and_fro(
    one: dict[str, Any], other: dict[str, Any], refused: bool
) -> None:
    here, there = Routes(Options(**one), "a", "b"), Routes(Options(**other), "b", "a")
    if not refused:
        check_duplex(here, there)
        return
    with pytest.raises(ConfigurationError, match="to and fro"):
        check_duplex(here, there)
