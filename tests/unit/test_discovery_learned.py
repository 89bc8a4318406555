"""What an announced address becomes: nobody collects a password by announcing himself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy import ConfigurationError, Endpoint, parse
from understudy.core.member import CORE_SCHEMES
from understudy.discovery.learned import Learner, is_allowed

SECRET = "s3cr:t/@,%"
USER = "app:s3cr%3At%2F%40%2C%25"
FIRST = f"amqp://{USER}@mq1:5672/orders"


def learner(uri: str = f"failover:({FIRST},amqp://other@mq2)", **options: Any) -> Learner:
    text = "&".join(f"{name}={value}" for name, value in options.items())
    return Learner(parse(f"{uri}?{text}" if text else uri), CORE_SCHEMES)


def told(address: str, it: Learner | None = None) -> tuple[Endpoint, str]:
    return (it or learner()).read(address)


# --- the allow rule -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "allow", "expected"),
    [
        ("mq1", [], True),
        ("MQ1.", [], True),
        ("mq1.evil.example", [], False),
        ("xmq1", [], False),
        ("127.0.0.1", [], True),  # localhost is configured
        ("::1", [], True),
        ("10.1.2.3", [], False),
        ("10.1.2.3", ["10.0.0.0/8"], True),
        ("::ffff:10.1.2.3", ["10.0.0.0/8"], True),
        ("11.1.2.3", ["10.0.0.0/8"], False),
        ("10.evil.example", ["10.0.0.0/8"], False),  # a name is never looked up
        ("010.1.2.3", ["10.0.0.0/8"], False),
        ("fd00::5", ["fd00::/8"], True),
        ("FD00:0::5", ["fd00::5"], True),
        ("mq7", ["mq7"], True),
        ("mq8", ["mq7"], False),
        ("a.corp.example", ["*.corp.example"], True),
        ("a.CORP.example", ["*.corp.example"], True),
        ("corp.example", ["*.corp.example"], False),
        ("evilcorp.example", ["*.corp.example"], False),
        ("anything", ["*"], True),
        ("", ["*"], False),
    ],
)
def test_who_may_be_given_credentials(host: str, allow: list[str], expected: bool) -> None:
    assert is_allowed(host, ["mq1", "localhost"], allow) is expected


@given(st.text(alphabet="amq1.-:", max_size=12), st.lists(st.sampled_from(["mq1", "10.0.0.1"])))
def test_nothing_but_the_configured_hosts_by_default(host: str, configured: list[str]) -> None:
    if is_allowed(host, configured, ()):
        assert host.lower().rstrip(".") in configured


# --- what is inherited ----------------------------------------------------------------------------


def test_a_configured_host_inherits_credentials_and_vhost_of_the_first() -> None:
    found, note = told("amqp://mq1:5673")
    assert note == ""
    assert (found.username, found.password) == ("app", SECRET)
    assert (found.host, found.port, found.path) == ("mq1", 5673, "/orders")
    assert SECRET not in str(found)
    assert "s3cr" not in repr(found)


def test_its_own_vhost_stays() -> None:
    found, _ = told("amqp://mq2:5673/%2fmine")
    assert found.path == "/%2fmine"
    assert found.password == SECRET  # the first member's, not those of the member on that host


@pytest.mark.parametrize(
    "address", ["amqp://evil", "amqp://mq1.evil.example", "amqp://10.0.0.1:5672", "tcp://mq1x"]
)
def test_a_forged_host_gets_nothing(address: str) -> None:
    found, note = told(address, learner(**{"nested.password": "x", "nested.heartbeat": "5"}))
    assert (found.username, found.password, found.path) == (None, None, "")
    assert found.query == {}
    assert found.options.heartbeat == 5
    assert "no credentials" in note
    assert "discovered.allow" in note
    assert SECRET not in note


def test_an_allowed_network_inherits() -> None:
    it = learner(**{"discovered.allow": "10.0.0.0/8"})
    assert told("amqp://10.9.8.7", it)[0].password == SECRET
    assert told("amqp://11.9.8.7", it)[0].password is None


@pytest.mark.parametrize("address", ["amqp://mq1:5672", "amqp://MQ1", "amqp://x:y@mq1/other?a=b"])
def test_f04_a_configured_place_is_that_member(address: str) -> None:
    assert told(address)[0] == parse(FIRST).endpoints[0]


def test_f04_each_place_keeps_its_own_credentials() -> None:
    assert told("amqp://mq2")[0].username == "other"


@pytest.mark.parametrize(
    "address",
    [
        "amqp://thief:loot@mq1:99",
        "amqp://thief:l@ot@mq1:99",
        "amqp://mq1:99?verify=false&cafile=/tmp/x&password=loot",
        "amqp://thief:loot@mq1:99/?heartbeat=0",
    ],
)
def test_credentials_and_options_in_a_list_are_dropped(address: str) -> None:
    found, note = told(address)
    assert (found.username, found.password) == ("app", SECRET)
    assert found.options == Endpoint("", "", "").options
    assert found.query == {}
    assert "dropped" in note
    assert "loot" not in note + found.uri


def test_no_password_goes_in_the_clear_that_goes_by_tls() -> None:
    it = learner(f"failover:(amqps://{USER}@mq1:5671)")
    found, note = told("amqp://mq1:5672", it)
    assert found.password is None
    assert "TLS" in note
    assert told("amqps://mq1:5673", it)[0].password == SECRET


@pytest.mark.parametrize(
    ("first", "address", "inherits"),
    [
        ("amqp", "stomp://mq1:61613", False),
        ("stomp", "stomp+ssl://mq1:61614", True),
        ("amqp", "tcp://mq1:1", True),
        ("tcp", "amqp://mq1:2", True),
        ("ssl", "tcp://mq1:3", False),
    ],
)
def test_another_protocol_inherits_nothing(first: str, address: str, inherits: bool) -> None:
    found, _ = told(address, learner(f"failover:({first}://{USER}@mq1:5)"))
    assert (found.password == SECRET) is inherits


def test_tls_options_are_inherited() -> None:
    tls = "cafile=/ca&certfile=/c&keyfile=/k&server_hostname=name&verify=false"
    it = learner(f"failover:(amqps://mq1?{tls})", **{"discovered.allow": "mq9"})
    same, other, forged = (
        told(f"amqps://{place}", it)[0].options for place in ("mq1:99", "mq9", "evil")
    )
    assert (same.cafile, same.certfile, same.keyfile, same.verify) == ("/ca", "/c", "/k", False)
    assert same.server_hostname == "name"
    assert (other.cafile, other.verify, other.server_hostname) == ("/ca", False, None)
    assert (forged.cafile, forged.verify) == (None, None)
    plain, _ = told("amqp://mq9", it)
    assert plain.options.cafile is None


def test_d04_discovered_options_are_added_to_every_found_address() -> None:
    it = learner(
        **{"discovered.heartbeat": "7", "nested.heartbeat": "5", "discovered.foo": "b%26r"}
    )
    for address in ("amqp://mq1:99", "amqp://evil"):
        found, _ = told(address, it)
        assert found.options.heartbeat == 7
        assert found.query == {"foo": "b&r"}


def test_d04_a_wrong_discovered_option_is_refused_at_construction() -> None:
    with pytest.raises(ConfigurationError, match="verify"):
        learner(**{"discovered.verify": "perhaps"})
    with pytest.raises(ConfigurationError, match="heartbeat"):
        learner(**{"discovered.heart_beat": "5"})


def test_without_a_configured_member_there_is_nothing_to_inherit() -> None:
    it = learner("discovery:(file:/x)", **{"nested.token": "x"})
    found, note = told("amqp://a:1/vh", it)
    assert (found.username, found.path, found.query, note) == (None, "/vh", {}, "")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "mq1",
        "amqp:mq1",
        "amqp://",
        "amqp:///vh",
        "amqp://mq1:0",
        "amqp://mq1:99999",
        "amqp://mq%31",
        "amqp://mq1#x",
        "amqp://mq1/a;b",
        "amqp://a/b@mq1",
        "amqp://mq1 ",
        "amqp://mq1\n",
        "amqp://[::1",
        "amqp://[127.0.0.1]",
        "failover:(amqp://mq1,amqp://mq2)",
        "http://mq1",
        "redis://mq1",
        "amqp://" + "m" * 1020,
    ],
)
def test_what_is_no_broker_is_refused_without_showing_a_secret(address: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        told(address)
    assert "s3cr" not in str(refused.value)


@given(
    st.text(max_size=40), st.sampled_from(["", "amqp://", "amqp://mq1", "amqp://x@", "amqp://["])
)
def test_any_text_is_an_endpoint_or_refused_and_no_stranger_gets_a_secret(
    text: str, begin: str
) -> None:
    try:
        found, note = told(begin + text)
    except ConfigurationError:
        return
    assert SECRET not in note
    if found.password is not None:
        assert found.host.lower().rstrip(".") in ("mq1", "mq2")
    else:
        assert "s3cr" not in found.uri


@pytest.mark.parametrize(
    ("address", "trusted"),
    [("amqp://mq1", True), ("amqp://mq1:9", True), ("amqp://10.1.1.1", True), ("amqp://x", False)],
)
def test_a_login_beside_the_uri_is_for_the_same_endpoints(address: str, trusted: bool) -> None:
    it = learner(**{"discovered.allow": "10.0.0.0/8"})
    assert it.trusts(told(address, it)[0]) is trusted


def test_without_a_configured_member_only_allowed_ones_are_trusted() -> None:
    it = learner("discovery:(file:/x)", **{"discovered.allow": "mq9"})
    assert it.trusts(told("amqp://mq9", it)[0])
    assert not it.trusts(told("amqp://mq8", it)[0])


@pytest.mark.parametrize("host", ["mq1", "evil"])
def test_reading_what_was_read_changes_nothing(host: str) -> None:
    it = learner()
    assert told(f"amqp://{host}:7", it)[0] == told(f"amqp://{host.upper()}:7/", it)[0]
