"""Failover URIs: forms, lists, errors, round trips."""

from __future__ import annotations

import contextlib
import pickle
import time
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import understudy
from understudy import ConfigurationError, parse, redact
from understudy.core.uri import parse_members
from understudy.testing.uris import members, refusal


@pytest.mark.parametrize(
    ("text", "scheme", "uris"),
    [
        ("failover:(amqp://a,stomp://b)", "failover", ["amqp://a", "stomp://b"]),
        ("failover:(amqp://a,stomp://b)?timeout=5", "failover", ["amqp://a", "stomp://b"]),
        ("failover://(amqp://a,stomp://b)?timeout=5", "failover", ["amqp://a", "stomp://b"]),
        ("failover:amqp://a,stomp://b", "failover", ["amqp://a", "stomp://b"]),
        ("failover://amqp://a,stomp://b", "failover", ["amqp://a", "stomp://b"]),
        ("failover:amqp://a,stomp://b?x=1", "failover", ["amqp://a", "stomp://b?x=1"]),
        ("failover:amqp://a", "failover", ["amqp://a"]),
        ("failover://tcp://h:1", "failover", ["tcp://h:1"]),
        ("failover:(amqp://a?o=1,amqp://b)?timeout=5", "failover", ["amqp://a?o=1", "amqp://b"]),
        ("failover:( amqp://a ,\n amqp://b )", "failover", ["amqp://a", "amqp://b"]),
        ("failover:(amqp://a,)", "failover", ["amqp://a"]),
        ("failover:amqp://a,", "failover", ["amqp://a"]),
        ("failover:(amqp://a)/?timeout=5", "failover", ["amqp://a"]),
        ("FAILOVER:(AMQP://a)", "failover", ["amqp://a"]),
        ("static:(amqp://a,amqp://b)", "static", ["amqp://a", "amqp://b"]),
        ("masterslave:(amqp://a,amqp://b)", "masterslave", ["amqp://a", "amqp://b"]),
        ("masterslave://amqp://a,amqp://b", "masterslave", ["amqp://a", "amqp://b"]),
        ("fanout:(static:(amqp://a,amqp://b))", "fanout", ["amqp://a", "amqp://b"]),
        ("fanout:(amqp://a,amqp://b)", "fanout", ["amqp://a", "amqp://b"]),
        ("failover:(failover:(amqp://a),amqp://c)", "failover", ["amqp://a", "amqp://c"]),
        ("failover:(amqp://c,static:(failover:(amqp://b)))", "failover", ["amqp://c", "amqp://b"]),
        ("failover:static:(amqp://a)", "failover", ["amqp://a"]),
        ("discovery:(static:(amqp://a))", "discovery", ["amqp://a"]),
        ("amqp://a", "amqp", ["amqp://a"]),
        ("  stomp+ssl://a:1 ", "stomp+ssl", ["stomp+ssl://a:1"]),
    ],
)  # fmt: skip
def test_forms(text: str, scheme: str, uris: list[str]) -> None:
    """F01."""
    assert parse(text).scheme == scheme
    assert members(text) == uris


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("failover:(amqp://a", ["not balanced"]),
        ("failover:amqp://a)", ["not balanced"]),
        ("failover:)amqp://a(", ["not balanced"]),
        ("amqp://u:p(@a", ["not balanced", "%28"]),
        ("failover:()", ["empty", "updateURIsURL"]),
        ("failover:", ["empty"]),
        ("failover://", ["empty"]),
        ("static:()?timeout=5", ["empty"]),
        ("discovery:()", ["empty"]),
        ("failover:(,)", ["member 1", "empty"]),
        ("failover:(amqp://a,,amqp://b)", ["member 2", "empty"]),
        ("failover:(amqp://a,,)", ["member 2", "empty"]),
        ("failover:(amqp://a),amqp://b", ["after the list"]),
        ("failover:(amqp://a)path", ["after the list"]),
        ("", ["empty"]),
        ("  ", ["empty"]),
        ("failover:" * 100 + "amqp://a", ["16 deep"]),
        ("failover:(" * 20 + "amqp://a" + ")" * 20, ["16 deep"]),
        ("amqp://" + "a" * 70_000, ["65536 characters"]),
    ],
)
def test_lists_that_are_refused(text: str, words: list[str]) -> None:
    """F03."""
    shown = refusal(text)
    assert [word for word in words if word not in shown] == []


@pytest.mark.parametrize("value", [None, 5, b"amqp://a", ["amqp://a"]])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="must be text"):
        parse(value)  # type: ignore[arg-type]


def test_an_empty_list_that_a_url_fills_is_legal() -> None:
    """F03."""
    for text in ("failover:()?updateURIsURL=/x", "failover:?updateURIsURL=/x"):
        assert parse(text).endpoints == ()
        assert parse(text).options.update_uris_url == "/x"


def test_an_option_after_a_bare_list_is_the_last_members() -> None:
    """F01, decision 4: copied from ActiveMQ, but an option of the list is refused there."""
    assert parse("failover:amqp://a,amqp://b?heartbeat=5").endpoints[1].options.heartbeat == 5
    shown = refusal("failover:amqp://a,amqp://b?timeout=3000")
    assert "timeout" in shown
    assert "add parentheses" in shown
    assert "failover:(…)?timeout=…" in shown
    assert "add parentheses" in refusal("amqp://a?randomize=false")


@pytest.mark.parametrize(
    "text",
    ["failover:(amqp://a?timeout=5)", "masterslave:(amqp://a,static:(amqp://b?timeout=5))"],
)
def test_an_option_of_the_list_inside_its_parentheses(text: str) -> None:
    shown = refusal(text)
    assert "move it behind the last closing parenthesis: (…)?timeout=…" in shown
    assert "add parentheses" not in shown
    assert "without nested." in refusal("failover:(amqp://a)?nested.timeout=5")


@pytest.mark.parametrize(
    "text",
    [
        "failvoer:(amqp://u:Zq7@h1)",
        "failvoer://(amqp://u:Zq7@h1)",
        "failover(amqp://u:Zq7@h1)",
        "Failover (amqp://u:Zq7@h1)",
        "static:(failover(amqp://u:Zq7@h1),amqp://b)",
        "failover:(amqp//u:Zq7@h1)",
    ],
)
def test_a_list_that_is_misspelled_is_told_so(text: str) -> None:
    """Also when the error is masked once more, as on the way through a log."""
    for shown in (refusal(text), redact(refusal(text))):
        assert "did you mean failover:?" in shown or "did you forget the colon" in shown
        assert "Zq7" not in shown
        assert shown.endswith(("h1)", "h1),amqp://b)"))


def test_commas_stand_between_members() -> None:
    shown = refusal("failover:(amqp://a;amqp://b)")
    assert "commas stand between" in shown
    assert "kombu" not in shown


def test_a_master_and_a_slave_are_ordered() -> None:
    """D03."""
    assert "at least two" in refusal("masterslave:(amqp://a)")
    assert "at least two" in refusal("masterslave:(amqp://127.0.0.1,amqp://localhost)")
    uri = parse("masterslave:(amqp://b,amqp://a)", options={"randomize": True})
    assert uri.options.randomize is False
    assert [endpoint.host for endpoint in uri.endpoints] == ["b", "a"]
    assert parse("masterslave:(amqp://b,amqp://a)?randomize=false") == uri
    assert "randomize" in refusal("masterslave:(amqp://b,amqp://a)?randomize=true")


def test_a_master_and_a_slave_inside_a_list_keep_their_order() -> None:
    """D03."""
    text = "failover:(masterslave:(amqp://b,amqp://a),amqp://c)"
    assert parse(text).options.randomize is False
    assert "randomize" in refusal(f"{text}?randomize=true")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fanout:(static:(amqp://a))", ["minAckCount is 2", "lists 1"]),
        ("fanout:(amqp://a,amqp://b)?minAckCount=3", ["minAckCount is 3", "lists 2"]),
        ("fanout:(failover:(amqp://a,amqp://b))", ["one of them", "static:"]),
        ("fanout:(masterslave:(amqp://a,amqp://b))", ["one of them"]),
        ("failover:(fanout:(amqp://a,amqp://b))", ["outermost"]),
    ],
)
def test_fanouts_that_are_refused(text: str, words: list[str]) -> None:
    shown = refusal(text)
    assert [word for word in words if word not in shown] == []


def test_fanout_options() -> None:
    uri = parse("fanout:(static:(amqp://a,amqp://b,amqp://c))?minAckCount=3&fanOutQueues=true")
    assert (uri.options.min_ack_count, uri.options.fan_out_queues) == (3, True)
    assert parse("fanout:(multicast://default)").agents == ("multicast://default",)


@pytest.mark.parametrize(
    "agent", ["multicast://default", "file:/etc/uris", "http://h/uris?x=1", "https://u:p@h/uris"]
)
def test_discovery_keeps_its_agents(agent: str) -> None:
    uri = parse(f"discovery:({agent})?timeout=5")
    assert uri.agents == (agent,)
    assert uri.endpoints == ()
    assert uri.options.timeout == 5
    assert ":p@" not in str(uri)
    assert parse(uri.unredacted()) == uri


def test_agents_of_other_packages() -> None:
    uri = parse("discovery:(consul://c/brokers)", agents={"consul"})
    assert uri.agents == ("consul://c/brokers",)
    with pytest.raises(ConfigurationError, match=r"no discovery agent \(consul\)"):
        parse("discovery:(file:/x)", agents={"consul"})


def test_an_empty_list_needs_a_source_that_is_asked() -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        parse("failover:()?updateURIsURL=/x&updateURIsSupported=false")


def test_discovery_beside_fixed_members() -> None:
    uri = parse("failover:(amqp://a,discovery:(file:/x,static:(amqp://b)))")
    assert [endpoint.host for endpoint in uri.endpoints] == ["a", "b"]
    assert uri.agents == ("file:/x",)
    assert parse(uri.unredacted()) == uri


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("discovery:(amqp://a)", "static:"),
        ("discovery:(multicast:)", "no valid discovery agent"),
        ("failover:(multicast://default)", "discovery:(multicast:…)"),
    ],
)
def test_agents_that_are_refused(text: str, word: str) -> None:
    assert word in refusal(text)


def test_options_inside_a_nested_composite() -> None:
    """F49: the inner nested.* go first; nothing else is legal there."""
    uri = parse(
        "failover:(static:(amqp://a,amqp://b?heartbeat=1)?nested.heartbeat=2&nested.x=in,amqp://c)"
        "?nested.heartbeat=3&nested.y=out"
    )
    assert [endpoint.options.heartbeat for endpoint in uri.endpoints] == [2, 1, 3]
    assert [dict(endpoint.query) for endpoint in uri.endpoints] == [
        {"x": "in", "y": "out"},
        {"x": "in", "y": "out"},
        {"y": "out"},
    ]
    assert uri.options.nested == {"heartbeat": "3", "y": "out"}
    assert uri.endpoints[2].uri == "amqp://c?y=out"
    shown = refusal("failover:(static:(amqp://a)?timeout=5)")
    assert "timeout" in shown
    assert "outermost failover:" in shown


def test_text_forms() -> None:
    uri = parse(
        "failover://( amqp://u:p@a , failover:(amqps://v:q@b?verify=false&token=t) )"
        "?failover.timeout=5&reconnectDelayExponent=3&priorityURIs=amqp://u:p@a&nested.password=w"
    )
    assert uri.unredacted() == (
        "failover:(amqp://u:p@a?password=w,amqps://v:q@b?token=t&password=w&verify=false)"
        "?backOffMultiplier=3.0&priorityURIs=amqp://u:p%40a&timeout=5&nested.password=w"
    )
    assert str(uri) == (
        "failover:(amqp://u:**@a?password=**,amqps://v:**@b?token=**&password=**&verify=false)"
        "?backOffMultiplier=3.0&priorityURIs=amqp://u:**%40a&timeout=5&nested.password=**"
    )
    assert repr(uri) == f"FailoverURI('{uri}')"


def test_a_uri_is_a_value() -> None:
    one, same = parse("failover:(amqp://a,amqp://b)"), parse("failover:amqp://a,amqp://b:5672/")
    assert one == same
    assert hash(one) == hash(same)
    assert one != parse("failover:(amqp://b,amqp://a)")
    assert one != parse("static:(amqp://a,amqp://b)")
    assert pickle.loads(pickle.dumps(one)) == one


def test_options_of_the_library_are_written_out() -> None:
    uri = parse("failover:(amqp://a)", options={"timeout": 5, "nested": {"heartbeat": 7}})
    assert uri.unredacted() == "failover:(amqp://a?heartbeat=7)?timeout=5&nested.heartbeat=7"
    assert parse(uri.unredacted()) == uri
    assert parse("amqp://a", options={"timeout": 5}).options.timeout == 5


def test_learned_lists() -> None:
    """D20 of the decisions: commas and line ends both separate."""
    found = parse_members("amqp://a, amqp://b\namqp://c,,\n\namqp://a\n", nested={"heartbeat": "5"})
    assert [endpoint.host for endpoint in found] == ["a", "b", "c"]
    assert {endpoint.options.heartbeat for endpoint in found} == {5}
    assert parse_members(" \n") == ()
    with pytest.raises(ConfigurationError):
        parse_members("amqp://a,garbage")


def test_the_facade_exports_everything() -> None:
    from understudy import errors
    from understudy.core import events

    names = {*errors.__all__, *events.__all__, "parse", "FailoverURI", "Endpoint", "Options"}
    assert names <= set(understudy.__all__)
    assert all(hasattr(understudy, name) for name in understudy.__all__)


TOKENS = (
    *("failover:", "failover://", "static:", "masterslave:", "discovery:", "fanout:"),
    *("amqp://", "amqps://b", "stomp+ssl://", "x://", "multicast://d", "file:/x", "http://h/u"),
    *("u:p@", "host", "::1", "5672", "%", "%zz", "%ff", "%40", *"(),?&=@:/[];# \n\x00\ud800"),
    *("timeout=5", "failover.timeout=7", "nested.heartbeat=3", "nested.x=y", "heartbeat=5"),
    *("verify=false", "certfile=/x", "keyfile=/y", "randomize=true", "minAckCount=1"),
    *("priorityURIs=amqp://a", "updateURIsURL=/x", "discovered.allow=::/0"),
)
texts = st.lists(st.sampled_from(TOKENS), max_size=12).map("".join)


@given(text=st.one_of(st.text(), texts))
@settings(max_examples=300, deadline=None)
def test_any_text_parses_or_is_refused(text: str) -> None:
    for schemes in (None, frozenset({"amqp", "x"})):
        try:
            uri = parse(text, schemes=schemes)
        except ConfigurationError:
            continue
        assert parse(uri.unredacted(), schemes=schemes) == uri
        assert str(parse(str(uri), schemes=schemes)) == str(uri)
        str(uri).encode()


names = st.text("abz09.-_", min_size=1, max_size=6)
words = st.text("@:/%;,()&?=#é x", max_size=6).map(lambda text: quote(text, safe=""))
addresses = st.builds(
    "{}://{}:{}@{}:{}/{}?heartbeat={}&x={}".format,
    st.sampled_from(["amqp", "amqps", "stomp", "stomp+ssl", "tcp"]),
    words,
    words,
    names,
    st.integers(1, 65535),
    words,
    st.integers(0, 99999),
    words,
)


@given(
    listed=st.lists(addresses, min_size=1, max_size=5),
    cut=st.integers(0, 5),
    query=st.sampled_from(["", "timeout=5", "randomize=false&nested.y=%2C%40&maxCacheSize=9"]),
)
@settings(max_examples=100, deadline=None)
def test_round_trip_and_order(listed: list[str], cut: int, query: str) -> None:
    """F01: members stay in listed order, wherever they are nested."""
    nested = f"static:({','.join(listed[cut:])})"
    uri = parse(f"failover:({','.join([*listed[:cut], nested])})?{query}")
    alone = {"nested": uri.options.nested}
    expected = dict.fromkeys(parse(one, options=alone).endpoints[0] for one in listed)
    assert uri.endpoints == tuple(expected)
    again = parse(uri.unredacted())
    assert again == uri
    assert again.unredacted() == uri.unredacted()
    shown = [(str(endpoint), endpoint.options) for endpoint in parse(str(uri)).endpoints]
    told = ((str(endpoint), endpoint.options) for endpoint in uri.endpoints)
    assert shown == list(dict.fromkeys(told))  # two may differ in nothing but the password
    assert parse(str(uri)).options == uri.options


@pytest.mark.parametrize(
    "piece",
    ["(", ",", "a", "amqp://", "failover:", "failover:(", "://", ":", "@", "%", "x=1&", "[", ")("],
)
def test_hostile_texts_take_linear_time(piece: str) -> None:
    begin = time.process_time()
    for frame in ("{}", "failover:({})", "failover:(amqp://a)?{}", "failover:amqp://a?{}"):
        text = frame.format(piece * (20_000 // len(piece)))
        with contextlib.suppress(ConfigurationError):
            parse(text)
    assert time.process_time() - begin < 2  # quadratic would be minutes


def test_priority_uris_name_members_unless_the_list_grows() -> None:
    with pytest.raises(ConfigurationError, match=r"names amqp://mq3, .*did you mean amqp://mq1"):
        parse("failover:(amqp://mq1)?priorityURIs=amqp://mq3")
    assert parse("failover:(amqp://mq1)?priorityURIs=amqp://mq1:5672").options.priority_uris
    grows = "failover:(amqp://mq1)?priorityURIs=amqp://mq3&updateURIsURL=file:/uris"
    assert parse(grows).options.priority_uris
