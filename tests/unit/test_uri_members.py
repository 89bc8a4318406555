"""The members of a failover URI: what each says, what is refused, when two are the same."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy import Endpoint, parse
from understudy.core.endpoint import EndpointOptions
from understudy.testing.uris import members, refusal


def only(text: str) -> Endpoint:
    (endpoint,) = parse(text).endpoints
    return endpoint


def test_a_member_in_all_its_parts() -> None:
    endpoint = only(
        "failover:(amqps://app:s%40c@Broker-1.example:5671/%2forders"
        "?heartbeat=20000&cafile=/ca%20x.pem&certfile=/c&keyfile=/k&server_hostname=b"
        "&verify=false&login_method=EXTERNAL)"
    )
    assert endpoint.uri == (
        "amqps://app:s%40c@Broker-1.example:5671/%2forders?login_method=EXTERNAL"
    )
    assert endpoint.redacted == str(endpoint) == endpoint.uri.replace("s%40c", "**")
    assert endpoint.scheme == "amqps"
    assert (endpoint.host, endpoint.port) == ("Broker-1.example", 5671)
    assert (endpoint.username, endpoint.password) == ("app", "s@c")
    assert endpoint.path == "/%2forders"
    assert endpoint.query == {"login_method": "EXTERNAL"}
    assert endpoint.address == "amqps://broker-1.example:5671"
    assert endpoint.options == EndpointOptions(20000, "/ca x.pem", "/c", "/k", "b", False)


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    [
        ("amqp://", "localhost", None, ""),
        ("amqp:///vh", "localhost", None, "/vh"),
        ("amqp://:5673", "localhost", 5673, ""),
        ("amqp://u:p@/vh", "localhost", None, "/vh"),
        ("amqp://[::1]:5672/x", "::1", 5672, "/x"),
        ("amqp://[fe80::1%25eth0]", "fe80::1%eth0", None, ""),
        ("stomp://my_host:61613", "my_host", 61613, ""),
        ("stomp://bücher.example", "bücher.example", None, ""),
        ("amqp://a//", "a", None, "//"),
        ("amqp://a?", "a", None, ""),
    ],
)
def test_hosts_ports_and_paths(text: str, host: str, port: int | None, path: str) -> None:
    endpoint = only(text)
    assert (endpoint.host, endpoint.port, endpoint.path) == (host, port, path)


@given(password=st.text("@:/%;,()&?=#[] aé", min_size=1))
@settings(max_examples=100, deadline=None)
def test_encoded_credentials(password: str) -> None:
    text = quote(password, safe="")
    for form in (f"amqp://u:{text}@h:1/v", f"failover:(amqp://x,amqp://u:{text}@h:1/v)?timeout=5"):
        endpoint = parse(form).endpoints[-1]
        assert (endpoint.username, endpoint.password) == ("u", password)
        assert endpoint.redacted == "amqp://u:**@h:1/v"
        assert endpoint.uri == f"amqp://u:{text}@h:1/v"


@pytest.mark.parametrize("password", ["p:q", "p(q)", "p%40(q,r)", "p!$&'*+=~-._"])
def test_raw_credentials_where_they_are_clear(password: str) -> None:
    if "," in password:
        assert "%2C" in refusal(f"failover:(amqp://u:{password}@h)")
    else:
        assert only(f"failover:(amqp://u:{password}@h)").password == password


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ampq://a", ["unknown scheme", "ampq", "did you mean amqp?"]),
        ("stomps://a", ["unknown scheme", "stomps", "did you mean stomp+ssl?"]),
        ("AMQP+TLS://a", ["unknown scheme", "did you mean amqps?"]),
        ("redis://a", ["unknown scheme", "redis"]),
        ("simple:(amqp://a)", ["address"]),
        ("a:5672", ["two slashes"]),
        ("failover:(a,b)", ["member 1", "two slashes"]),
        ("failover:(amqp//a)", ["member 1", "forget the colon after amqp?"]),
        ("amqp://a;amqp://b", ["%3B"]),
        ("failover:(amqp://a)?nested.x=1;2", ["%3B"]),
        ("amqp://a b", ["%20"]),
        ("amqp://a\tb", ["blank"]),
        ("amqp://a#b", ["%23"]),
        ("amqp://a\x00", ["control"]),
        ("amqp://a\ud800", ["control"]),
        ("amqp://u:p@q@a", ["%40"]),
        ("amqp://u:p/q@a", ["%40", "%2F"]),
        ("amqp://u:p?q@a", ["%40", "%3F"]),
        ("amqp://a/v@h", ["%40"]),
        ("amqp://a:port", ["port", "65535"]),
        ("failover:(amqp://u:pw,1@h,amqp://b)", ["member 1", "port", "comma", "%2C"]),
        ("amqp://a:0", ["port"]),
        ("amqp://a:65536", ["port"]),
        ("amqp://a:", ["port"]),
        ("amqp://a:+1", ["port"]),
        ("amqp://::1", ["brackets"]),
        ("amqp://[::1", ["IPv6"]),
        ("amqp://[::1]5672", ["IPv6"]),
        ("amqp://[a]", ["IPv6"]),
        ("amqp://(a)", ["host"]),
        ("amqp://a|b", ["host"]),
        ("amqp://u:%ff@a", ["UTF-8"]),
        ("amqp://a?heartbeat=soon", ["heartbeat", '"soon"', "milliseconds"]),
        ("amqp://a?heartbeat=-1", ["heartbeat"]),
        ("amqp://a?heartbeat", ["heartbeat"]),
        ("amqp://a?heartbeat=1&heartbeat=2", ["heartbeat", "twice"]),
        ("amqp://a?Heartbeat=5", ["did you mean heartbeat?"]),
        ("amqps://a?serverHostname=b", ["did you mean server_hostname?"]),
        ("amqps://a?verify=no", ["verify", '"no"', "true or false"]),
        ("amqps://a?verify", ["verify"]),
        ("amqps://a?cafile=", ["cafile"]),
        ("amqps://a?cafile=%00", ["cafile"]),
        ("amqps://a?keyfile=/k", ["keyfile", "certfile"]),
        ("amqp://a?cafile=/ca", ["cafile", "TLS", "amqps"]),
        ("stomp://a?verify=true", ["verify", "TLS", "stomp+ssl"]),
    ],
)
def test_members_that_are_refused(text: str, words: list[str]) -> None:
    """F02: a member that can't work is refused at once, not tried for ever."""
    for form in (text, f"failover:(amqp://ok,{text})") if "failover" not in text else (text,):
        shown = refusal(form)
        if form == text:
            assert [word for word in words if word not in shown] == []


def test_several_addresses_without_a_composite_are_refused() -> None:
    assert "%2C" in refusal("amqp://a,amqp://b")
    assert "%3B" in refusal("amqp://a;amqp://b")


def test_an_adapter_brings_its_own_schemes() -> None:
    kombu = frozenset({"amqp", "redis", "sqs", "sqla", "azurestoragequeues", "memory"})
    assert parse("failover:(redis://:pw@h/0,sqs://k:s@)", schemes=kombu).endpoints[0].port is None
    assert parse("memory://", schemes=kombu).endpoints[0].host == ""
    assert parse("sqla+sqlite:///x.db", schemes=kombu).endpoints[0].path == "/x.db"
    uri = "azurestoragequeues://key@https://account.example"
    assert parse(uri, schemes=kombu).endpoints[0].uri == uri
    assert "key" not in str(parse(uri, schemes=kombu)).replace("keys", "")
    assert "stomp" in refusal("stomp://a", schemes=kombu)
    assert "did you mean redis?" in refusal("rediss2://a", schemes=kombu)


def test_an_adapter_may_name_the_options_of_its_library() -> None:
    known = frozenset({"login_method"})
    assert parse("amqp://a?login_method=X", member_options=known).endpoints[0].query
    shown = refusal("amqp://a?loginmethod=X", member_options=known)
    assert "did you mean login_method?" in shown


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("amqp://127.0.0.1:1", "amqp://localhost:1"),
        ("amqp://[::1]", "amqp://LOCALHOST:5672"),
        ("amqp://a", "pyamqp://A:5672/"),
        ("amqp://a/%2F", "amqp://a//"),
        ("amqps://a", "amqps://a:5671"),
        ("stomp://a", "stomp://a:61613"),
        ("amqp://u:%41@a", "amqp://u:A@a"),
        ("amqp://a?x=1&y=2", "amqp://a?y=2&x=1"),
    ],
)
def test_the_same_endpoint_twice(one: str, other: str) -> None:
    """F04: the first wins."""
    assert members(f"failover:({one},amqp://unknown,{other},failover:({other}))") == [
        one,
        "amqp://unknown",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("amqp://a_1", "amqp://a_2"),  # the same to ActiveMQ, which can't parse an underscore
        ("amqp://a", "amqp://a:5673"),
        ("amqp://a", "amqps://a"),
        ("amqp://u:p@a", "amqp://u:q@a"),
        ("amqp://a/v", "amqp://a/w"),
        ("amqp://a", "amqp://a?heartbeat=5"),
        ("tcp://a", "ssl://a"),
    ],
)
def test_different_endpoints(one: str, other: str) -> None:
    """F04."""
    assert len(parse(f"failover:({one},{other})").endpoints) == 2


def test_a_host_that_does_not_exist_stays_in_the_list() -> None:
    """F05: names are not looked up here."""
    assert members("failover:(amqp://nowhere.invalid:1,amqp://a)")[0] == "amqp://nowhere.invalid:1"
