"""What ``[bridges.NAME]`` may say, and what it is told when it says something else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from understudy import ConfigurationError
from understudyd.config.bridges import BridgeConfig, load_bridges
from understudyd.config.network import load_network

PLAIN = """
[bridges.orders]
source = "amqp://app:s3cret@a/shop"
target = "failover:(amqp://app:s3cret@b,amqp://c)"
statically_included = ["queue://orders"]
"""
GROUP = """
[groups.site]
lock = "file:/tmp/site.lock"
[groups.site.nodes.one]
uri = "amqp://app:s3cret@one"
api = "127.0.0.1:8801"
broker = { command = ["true"] }
[groups.site.nodes.two]
uri = "amqp://app:s3cret@two"
api = "127.0.0.1:8802"
broker = { command = ["true"] }
"""


def loaded(tmp_path: Path, text: str, **environ: str) -> dict[str, BridgeConfig]:
    file = tmp_path / "understudy.toml"
    file.write_text(text)
    return load_bridges(file, environ)


def test_the_readmes_bridge_can_be_run(tmp_path: Path) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    (text,) = re.findall(r"```toml\n(# bridges.toml.*?)```", readme, re.DOTALL)
    (bridge,) = loaded(tmp_path, text).values()
    assert bridge.rename == {"queue://orders": "queue://orders.branch"}
    assert bridge.excluded == ("topic://prices.test",)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("UNDERSTUDY_BRIDGES__ORDERS__PREFETCH_SIEZ", "UNDERSTUDY_BRIDGES__ORDERS__PREFETCH_SIZE"),
        ("UNDERSTUDY_BRIDGES__ORDER__RATE", "UNDERSTUDY_BRIDGES__ORDERS__RATE"),
        ("UNDERSTUDY_BRIDGES_ORDERS_RATE", "UNDERSTUDY_BRIDGES__ORDERS__RATE"),
        ("UNDERSTUDY_NETWORK__STAT", "UNDERSTUDY_NETWORK__STATE"),
        ("UNDERSTUDY_NETWORK_API", "UNDERSTUDY_NETWORK__API"),
    ],
)
def test_a_variable_that_stands_for_nothing_is_refused(
    tmp_path: Path, name: str, meant: str
) -> None:
    loaded(tmp_path, PLAIN)
    load = load_network if "NETWORK" in name else load_bridges
    with pytest.raises(ConfigurationError, match=f"variable {name} stands .*did you mean {meant}"):
        load(tmp_path / "understudy.toml", {name: "5"})


def test_a_bridge_has_two_ends_and_what_it_moves(tmp_path: Path) -> None:
    (bridge,) = loaded(tmp_path, PLAIN).values()
    assert bridge.name == "orders"
    assert bridge.source.reveal() == "amqp://app:s3cret@a/shop"
    assert bridge.statically_included == ("queue://orders",)
    assert (bridge.prefetch_size, bridge.hold_time) == (1000, 60.0)
    assert "s3cret" not in repr(bridge)


def test_a_group_is_an_end_with_its_nodes_in_order(tmp_path: Path) -> None:
    text = GROUP + PLAIN.replace('"amqp://app:s3cret@a/shop"', '"site"')
    bridge = loaded(tmp_path, text)["orders"]
    assert bridge.source.reveal() == "masterslave:(amqp://app:s3cret@one,amqp://app:s3cret@two)"
    assert "s3cret" not in repr(bridge)


@pytest.mark.parametrize(
    ("said", "replies", "ttl"),
    [
        ("", True, 300.0),
        ("reply_ttl = '1m'", True, 60.0),
        ("replies = false", False, 300.0),
        ("replies = 'all'", "all", 300.0),
        ("bridge_temp_destinations = false", False, 300.0),
    ],
)
def test_replies_come_back_unless_told_otherwise_in_either_name(
    tmp_path: Path, said: str, replies: bool | str, ttl: float
) -> None:
    """As with ActiveMQ's networks."""
    text = PLAIN.replace("[bridges.orders]", f"[bridges.orders]\n{said}")
    bridge = loaded(tmp_path, text)["orders"]
    assert (bridge.replies, bridge.reply_ttl) == (replies, ttl)


def test_a_variable_goes_before_the_file(tmp_path: Path) -> None:
    bridges = loaded(tmp_path, PLAIN, UNDERSTUDY_BRIDGES__ORDERS__PREFETCH_SIZE="5")
    assert bridges["orders"].prefetch_size == 5


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("source", "sauce"), "sauce is no known key; did you mean source"),
        (('"queue://orders"', ""), "statically_included names nothing"),
        (("statically_included", "dynamically_included"), "forwarding on demand"),
        (("[bridges.orders]", "[bridges.orders]\nduplex = 1"), "duplex = 1 must be true or false"),
        (("[bridges.orders]", "[bridges.orders]\nprefetch_size = 0"), "from 1 to 65535"),
        (
            (
                "[bridges.orders]",
                "[bridges.orders]\nreplies = true\nbridge_temp_destinations = true",
            ),
            "bridge_temp_destinations is replies by another name",
        ),
        (("[bridges.orders]", "[bridges.orders]\nhold_time = 5"), "a duration with its unit"),
        (("amqp://app:s3cret@a/shop", "sight"), "is neither an address"),
        (("amqp://app:s3cret@a/shop", "kafka://u:s3cret@h"), 'scheme "kafka" .valid: amqp'),
        (("failover:(amqp://app:s3cret@b,amqp://c)", "amqp://a/shop"), "in a circle"),
        (("[bridges.orders]", "[bridges.orders]\nrename = {a = 5}"), "a text that is not empty"),
        (("[bridges.orders]", "[bridges.orders]\nnetwork_ttl = 0"), "with 0 nothing is forwarded"),
        (("[bridges.orders]", "[bridges.orders]\nnetwork_ttl = -2"), "from -1 to 100"),
        (("[bridges.orders]", "[bridges.orders]\nrate = '5'"), "to 1000000, without quotes"),
        (("[bridges.orders]", "[bridges.orders]\ndelivery_limit = 0"), "from 1 to 1000000"),
        (
            ("[bridges.orders]", "[bridges.orders]\ndelivery_limit = 5\nspool = 'here'"),
            "delivery_limit = 5 has no effect with spool",
        ),
        (("[bridges.orders]", "[bridges.orders]\nduplex = 'true'"), "true or false, without"),
        (("[bridges.orders]", "[bridges.orders]\nrename = 'x'"), 'a table, as { "queue://a"'),
        (("[bridges.orders]", "[bridges.orders]\nbody = auto"), "texts stand in quotes"),
        (("[bridges.orders]", '[bridges.orders]\nsource_name = "a\\tb"'), "control characters"),
        (("statically_included", "queues"), "list what is to be forwarded in statically_included"),
        (("[bridges.orders]", "[bridges]"), r"a table: write \[bridges.NAME\]"),
        (("[bridges.orders]", "[[bridges]]"), r"a table: write \[bridges.NAME\]"),
        (
            ("[bridges.orders]", "[bridges.orders]\nheaders_set={a='b'}\nheaders_remove=['a']"),
            'headers_remove = "a" is in headers_set too',
        ),
        (('"amqp://app:s3cret@a/shop"', '["amqp://a"]'), r"must be one text; .*failover:\("),
        (("amqp://app:s3cret@a/shop", "amqp://a,amqp://b"), r"several brokers .*failover:\("),
        (("[bridges.orders]", "[bridges.orders]\nrate = 0"), "a number from 0.1 to 1000000"),
        (("[bridges.orders]", "[bridges.orders]\nbody = 'txt'"), "auto, bytes, text.*mean text"),
        (("[bridges.orders]", "[bridges.orders]\ntransformer = 'clean'"), "function of a module"),
        (("[bridges.orders]", "[bridges.orders]\ndurable_expires = '1h'"), "none is included"),
        (("[bridges.orders]", "[bridges.orders]\ndurable_expires = '2000h'"), "up to 1000h"),
        (("[bridges.orders]", "[bridges.orders]\nreply_ttl = '0s'"), "reply_ttl.*a duration"),
        (
            ("[bridges.orders]", "[bridges.orders]\nreplies = 'none'"),
            'must be true or false, without quotes, or "all"',
        ),
        (
            ("[bridges.orders]", "[bridges.orders]\nreplies = false\nreply_ttl = '1m'"),
            "reply_ttl has no effect with replies = false",
        ),
        (("[bridges.orders]", "[bridges.orders]\nconsumer_priority_base = 200"), "-127 to 127"),
        (
            (
                "[bridges.orders]",
                "[bridges.orders]\nconsumer_priority_base = -5\n"
                "decrease_network_consumer_priority = false",
            ),
            "has no effect with",
        ),
    ],
)
def test_what_is_wrong_is_told_with_what_is_valid(
    tmp_path: Path, change: tuple[str, str], why: str
) -> None:
    with pytest.raises(ConfigurationError, match=why) as raised:
        loaded(tmp_path, PLAIN.replace(*change))
    assert "s3cret" not in str(raised.value)
    assert "understudy.toml" in str(raised.value)


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("conduit_subscriptions", "forwarding on demand"),
        ("remote_user_name", "belongs into the addresses"),
        ("always_sync_send", "need not be said"),
        ("gc_sweep_time", "the inside of ActiveMQ"),
        ("auto_start", "name those to run"),
        ("enabled", "name those to run"),
        ("passcode", "belongs into the addresses"),
        ("dynamicOnly", "forwarding on demand"),
        ("dynamicallyIncludedDestinations", "forwarding on demand"),
        ("staticallyIncludedDestinations", "is called statically_included here"),
        ("excludedDestinations", "is called excluded here"),
        ("bridgeTempDestinations", "did you mean bridge_temp_destinations"),
        ("consumerTTL", "forwarding on demand"),
        ("networkTTL", "did you mean network_ttl"),
    ],
)
def test_an_option_of_activemqs_networks_without_effect_is_refused_with_the_reason(
    tmp_path: Path, option: str, why: str
) -> None:
    """B06: none of them is accepted and then means nothing."""
    text = PLAIN.replace("[bridges.orders]", f"[bridges.orders]\n{option} = true")
    with pytest.raises(ConfigurationError, match=rf"bridges\.orders\.{option} .*{why}"):
        loaded(tmp_path, text)


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("statically_included", r'must be a list, as \["queue://orders"\]'),
        ("excluded", r'must be a list, as \["queue://orders"\]'),
        ("headers_remove", r'must be a list, as \["x-internal"\]'),
    ],
)
def test_a_list_that_is_none_is_told_with_an_entry_of_its_own_kind(
    tmp_path: Path, option: str, why: str
) -> None:
    text = PLAIN.replace('statically_included = ["queue://orders"]', f'{option} = "x"')
    if option != "statically_included":
        text += 'statically_included = ["queue://orders"]'
    with pytest.raises(ConfigurationError, match=why):
        loaded(tmp_path, text)


@pytest.mark.parametrize(
    ("groups", "there"), [("", r"none\)"), (GROUP, r"site\); did you mean site")]
)
def test_a_misspelt_group_is_told_with_those_there_are(
    tmp_path: Path, groups: str, there: str
) -> None:
    text = groups + PLAIN.replace('"amqp://app:s3cret@a/shop"', '"stie"')
    with pytest.raises(ConfigurationError, match=rf"nor the name of a group \(.*{there}"):
        loaded(tmp_path, text)


def test_every_option_says_what_it_is(tmp_path: Path) -> None:
    """B06: the defaults are those of ActiveMQ's networks where these have the option."""
    (plain,) = loaded(tmp_path, PLAIN).values()
    assert (plain.network_ttl, plain.prefetch_size, plain.duplex) == (1, 1000, False)
    assert (plain.lowers_priority, plain.priority) == (True, None)
    said = """
    duplex = true
    network_ttl = -1
    source_name = "branch"
    target_name = "hq"
    selector = "colour = 'red'"
    rate = 0.5
    transformer = "orders.bridging:clean"
    body = "text"
    parking = "queue://parked"
    durable_expires = "36h"
    consumer_priority_base = -9
    delivery_limit = 3
    """
    text = PLAIN.replace('"queue://orders"', '"queue://orders", "topic://orders"') + said
    (bridge,) = loaded(tmp_path, text).values()
    assert (bridge.duplex, bridge.network_ttl, bridge.rate) == (True, -1, 0.5)
    assert (bridge.source_name, bridge.target_name) == ("branch", "hq")
    assert (bridge.selector, bridge.transformer) == ("colour = 'red'", "orders.bridging:clean")
    assert (plain.delivery_limit, bridge.delivery_limit) == (20, 3)
    assert (bridge.body, bridge.parking) == ("text", "queue://parked")
    assert (bridge.durable_expires, bridge.priority) == (36 * 3600.0, -9)


def test_message_ttl_is_the_part_of_network_ttl_that_is_about_messages(tmp_path: Path) -> None:
    text = PLAIN + "network_ttl = 2\nmessage_ttl = 3\n"
    assert loaded(tmp_path, text)["orders"].network_ttl == 3


MEMBERS = "masterslave:(amqp://one,amqp://two)"


@pytest.mark.parametrize(
    ("source", "target", "why"),
    [
        ("amqp://one", "amqp://two", "members of the group site"),
        ("amqp://one/a", "amqp://two/b", "members of the group site"),
        ("site", "amqp://two", "one list of brokers"),
        (MEMBERS, "amqp://two", "one list of brokers"),
        ("failover:(amqp://x,amqp://y)", "failover:(amqp://z,amqp://x)", "one list of brokers"),
        ("site", "site", ""),
        (MEMBERS, MEMBERS.replace("one", "one/b").replace("two", "two/b"), ""),
        ("amqp://one", "amqp://elsewhere", ""),
    ],
)
def test_a_bridge_between_members_of_one_group_is_refused(
    tmp_path: Path, source: str, target: str, why: str
) -> None:
    """Scenario 59, B26: also where the names differ, since it could never run."""
    text = f"""{GROUP}
    [bridges.orders]
    source = "{source}"
    target = "{target}"
    statically_included = ["queue://orders"]
    rename = {{ "queue://orders" = "queue://copied" }}
    """
    if not why:
        assert loaded(tmp_path, text)
        return
    with pytest.raises(ConfigurationError, match=f"bridges.orders.target .*{why}"):
        loaded(tmp_path, text)


def test_one_broker_may_be_both_ends_where_the_names_differ(tmp_path: Path) -> None:
    text = PLAIN.replace("failover:(amqp://app:s3cret@b,amqp://c)", "amqp://a/shop")
    renamed = text + 'rename = { "queue://orders" = "queue://copied" }\n'
    assert loaded(tmp_path, renamed)["orders"].rename == {"queue://orders": "queue://copied"}
