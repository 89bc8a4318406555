"""What bridges come to: ways, their options, and what they would do to each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from understudy import ConfigurationError, parse
from understudyd.bridge.dedup.chosen import check_dedup
from understudyd.bridge.effects import one_broker_hint
from understudyd.bridge.settings import Reading
from understudyd.bridge.ways import Way, ways_of
from understudyd.config.bridges import BridgeConfig
from understudyd.config.model import Api, Secret
from understudyd.config.network import NetworkConfig

HERE = Path(__file__).parent
BY_STOMP = {"source": "stomp://a", "target": "stomp://b"}


def bridge(
    name: str = "b", source: str = "amqp://a", target: str = "amqp://b", **given: Any
) -> Any:
    given = {"statically_included": ("queue://x",), **given}
    return BridgeConfig(
        name, Secret(source, str(parse(source))), Secret(target, str(parse(target))), **given
    )


def only(**given: Any) -> Way:
    (way,) = ways_of([bridge(**given)], HERE)
    return way


def test_a_bridge_is_one_way_with_all_its_options() -> None:
    way = only(
        network_ttl=3, headers_set={"a": "b"}, statically_included=("queue://x", "topic://y")
    )
    assert [str(pattern) for pattern in way.patterns] == ["queue://x", "topic://y"]
    assert (way.routes.here, way.routes.there) == ("a:5672/", "b:5672/")
    assert way.reading == Reading()
    assert way.parking == "understudy.parking.b"
    assert not way.routes.needs_messages


def test_how_a_source_is_read() -> None:
    way = only(
        **BY_STOMP, selector="n > 5", durable_expires=60.0, priority=-9, parking="queue://parked.x"
    )
    assert way.reading == Reading("n > 5", 60.0, True, -9)
    assert way.parking == "parked.x"


def test_duplex_does_the_same_in_both_directions() -> None:
    """B24, scenario 54."""
    there, back = ways_of(
        [bridge(duplex=True, statically_included=("topic://x",), target_name="hq", rate=5)], HERE
    )
    assert (there.source.reveal(), there.target.reveal()) == ("amqp://a", "amqp://b")
    assert (back.source.reveal(), back.target.reveal()) == ("amqp://b", "amqp://a")
    assert (there.routes.here, there.routes.there) == ("a:5672/", "hq")
    assert (back.routes.here, back.routes.there) == ("hq", "a:5672/")
    assert there.patterns == back.patterns


def test_duplex_over_one_queue_is_refused_and_over_two_is_not() -> None:
    with pytest.raises(ConfigurationError, match=r"bridges\.b: .*to and fro"):
        ways_of([bridge(duplex=True)], HERE)
    renamed = bridge(duplex=True, rename={"queue://x": "queue://x.in"})
    assert len(ways_of([renamed], HERE)) == 2


def test_one_broker_is_no_circle_of_queues() -> None:
    given = {"source": "amqp://a", "target": "amqp://a", "statically_included": ("queue://x",)}
    assert only(**given, rename={"queue://x": "queue://y"})
    assert only(**given, rename={"queue://x": "queue://y"}, source_name="one", target_name="one")
    circle = {**given, "statically_included": ("queue://x", "queue://y")}
    with pytest.raises(ConfigurationError, match="to and fro"):
        only(**circle, rename={"queue://x": "queue://y", "queue://y": "queue://x"})


@pytest.mark.parametrize(
    ("other", "is_refused"),
    [
        ({"source": "amqp://b", "target": "amqp://a"}, True),
        ({"source": "amqp://u:p@b/", "target": "failover:(amqp://z,amqp://a)"}, True),
        ({"source": "amqp://b", "target": "amqp://a", "rename": {"queue://x": "queue://y"}}, True),
        ({"source": "amqp://b", "target": "amqp://c"}, False),
        ({"source": "amqp://b", "target": "amqp://a/other"}, False),
        ({"source": "amqp://a", "target": "amqp://b"}, False),
        (
            {"source": "amqp://b", "target": "amqp://a", "statically_included": ("queue://y",)},
            False,
        ),
    ],
)
def test_opposite_bridges_of_one_file_over_one_queue_are_refused(
    other: dict[str, Any], is_refused: bool
) -> None:
    bridges = [bridge("one"), bridge("back", **other)]
    if not is_refused:
        assert len(ways_of(bridges, HERE)) == 2
        return
    with pytest.raises(ConfigurationError, match=r"bridges\.one and bridges\.back .*to and fro"):
        ways_of(bridges, HERE)


def test_a_list_is_one_broker_in_whatever_order() -> None:
    """Scenario 59: one identity, so that a path is understood by all bridges."""
    one = only(source="masterslave:(amqp://n1/v,amqp://n2/v)")
    other = only(source="masterslave:(amqp://n2/v,amqp://n1/v)")
    assert one.routes.here == other.routes.here == "n1:5672/v"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"selector": "n > 5"}, "RabbitMQ has no selectors"),
        ({"body": "text"}, "over AMQP text and bytes are the same"),
        ({"statically_included": ("queue://x.*",)}, "no wildcards for queues"),
        ({"statically_included": ("orders",)}, "is no destination"),
        ({"statically_included": ("topic://a*",)}, "a wildcard stands alone"),
        ({"parking": "topic://x"}, "it is one queue"),
        ({"parking": "queue://x.*"}, "it is one queue"),
        ({"parking": "queue://x"}, "one of the queues that are forwarded"),
        ({"statically_included": ("queue://understudy.parking.b",)}, "one of the queues that are"),
        (
            {"rename": {"queue://x": "queue://p"}, "parking": "queue://p"},
            "the target of a rename as well; name another",
        ),
        ({"parking": "queue://amq.x"}, "lets nobody make a queue; name another"),
        ({"source_name": "hq", "target_name": "hq"}, "both called 'hq'.*names of their own"),
        ({"source_name": "b:5672/"}, "both called 'b:5672/'"),
        ({"source": "tcp://a:61616"}, "tcp://a:61616 does not say what .* stomp://"),
        ({"target": "amqp+tls://a"}, "amqps:// .* instead of amqp.tls://"),
        ({"hold_time": 3600.0}, "hold_time = 3600s: .* given back after 900 s"),
        ({"transformer": "nowhere_at_all:f"}, "can't be imported"),
        ({"source": "discovery:(file:/uris)"}, "write source_name"),
        ({"target": "failover:(amqp://b)?timeout=5"}, "timeout has no effect here"),
        (
            {"source": "failover:(amqp://a)?blockedTimeout=5"},
            "blockedTimeout has no effect at a source",
        ),
        (
            {"source": "failover:(amqp://a)?maxReconnectAttempts=5", "spool": Path("/s")},
            "maxReconnectAttempts has no effect at the source of a spool",
        ),
        ({"source": "failover:(amqp://a)?reconnect=false", "spool": Path("/s")}, "tried for ever"),
        ({"statically_included": ("queue://x", "queue://x")}, "'queue://x' .* in common"),
        ({"statically_included": ("topic://x.*", "topic://x.y")}, "'topic://x.y' .* in common"),
        ({"statically_included": ("topic://*.y", "topic://x.>")}, "'topic://x.>' .* in common"),
        ({"excluded": ("queue://*",)}, "included, and excluded"),
        ({"excluded": ("queue://zzz",)}, "nothing in statically_included matches it"),
        ({"rename": {"queue://z": "queue://y"}}, "is not in statically_included"),
        ({"rename": {"queue://x": "topic://y"}}, "a topic keeps nothing"),
        ({"rename": {"queue://x": "queue://x"}}, "the name that it has"),
        (
            {"rename": {"queue://*": "queue://y.*", "queue://x": "queue://y"}},
            "since 'queue://\\*' stands before it",
        ),
        ({"headers_set": {"message-id": "x"}, "target": "stomp://b"}, "meaning of its own"),
        ({"source": "amqp://u:pw1@"}, r"amqp://u:\*\*@ names no host"),
        ({"source": "amqp://u:pw1@:5672"}, "names no host"),
        ({"target": "amqp://u:pw1@h?foo=1"}, r"'foo', which no bridge reads .valid: heartbeat"),
        ({"target": "amqp://u:pw1@h?auth_mechanisn=PLAIN"}, "did you mean auth_mechanism"),
        ({"target": "amqp://h?randomise=false"}, "did you mean randomize"),
        ({"target": "amqp://u:pw1@h/a/b"}, "a raw slash in its vhost; write a%2Fb"),
        ({"target": "amqps://h?cafile=/no/ca.pem"}, "cafile = /no/ca.pem: there is no such file"),
        ({"target": "failover:(stomp://b,amqp://u:pw1@c)"}, "members of AMQP and of STOMP"),
    ],
)
def test_what_cannot_be_is_told_at_load(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^bridges\.b: .*{why}"):
        only(**given)


def test_what_looks_odd_and_is_none_is_taken() -> None:
    assert only(source="amqp://", target="amqp://u:p@b//?auth_mechanism=external")
    assert only(headers_set={"message-id": "x"})
    assert only(**BY_STOMP, parking="queue://amq.x", hold_time=3600.0)
    assert only(source_name="b", target_name="a")
    assert only(
        **BY_STOMP,
        statically_included=("queue://x.*",),
        excluded=("queue://x.parked",),
        parking="queue://x.parked",
    )
    assert only(
        statically_included=("topic://x.*",),
        excluded=("topic://*.y",),
        rename={"topic://x.z": "queue://z"},
    )


def test_entries_that_share_nothing_are_taken() -> None:
    texts = ("queue://x", "topic://x", "topic://x.*", "topic://*.a.y", "exchange://e/x")
    assert len(only(statically_included=texts).patterns) == len(texts)


def test_an_error_names_the_file_too() -> None:
    file = HERE / "estate.toml"
    with pytest.raises(ConfigurationError, match=rf"^{file}: bridges\.b: .*is no destination"):
        only(statically_included=("orders",), file=file)
    opposite = [bridge("a", file=file), bridge("b", "amqp://b", "amqp://a", file=file)]
    with pytest.raises(ConfigurationError, match=rf"^{file}: bridges\.a and bridges\.b are"):
        ways_of(opposite, HERE)


@pytest.mark.parametrize(
    ("given", "is_told"),
    [
        ({"source": "stomp://h", "target": "amqp://h"}, True),
        ({"source": "amqp://h", "target": "failover:(stomp://g,stomp://h)"}, True),
        ({"source": "stomp://h", "target": "amqp://other"}, False),
        ({"source": "stomp://h:1", "target": "stomp://h:2"}, False),
        (
            {"source": "stomp://h", "target": "amqp://h", "rename": {"queue://x": "queue://y"}},
            False,
        ),
    ],
)
def test_one_broker_by_two_protocols_is_thought_of(given: dict[str, Any], is_told: bool) -> None:
    way = only(**given)
    hint = one_broker_hint(way.source, way.target, way.routes)
    assert ("h is the same broker at both ends" in hint) is is_told


def test_opposite_bridges_are_told_the_queue_and_the_broker_where_they_meet() -> None:
    first = bridge("one", rename={"queue://x": "queue://y"})
    back = bridge("back", "amqp://b", "amqp://a", statically_included=("queue://y",))
    with pytest.raises(
        ConfigurationError, match="'queue://x' becomes queue://y at b:5672/, where 'queue://y' is"
    ):
        ways_of([first, back], HERE)


def test_a_discovered_broker_has_a_name_of_its_own() -> None:
    way = only(source="discovery:(file:/uris)", source_name="branch")
    assert way.routes.here == "branch"


def test_what_only_another_kind_of_broker_can_is_left_to_it() -> None:
    assert only(**BY_STOMP, selector="n > 5", statically_included=("queue://x.*",))
    assert only(target="stomp://b", body="text")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"statically_included": ("queue://" + "x" * 300,)}, "queue://x+ has 300 bytes"),
        ({"statically_included": ("topic://" + "x" * 300,)}, "topic://x+ has 300 bytes"),
        ({"statically_included": (f"exchange://{'x' * 300}/a",)}, "exchange://x+ has 300 bytes"),
        ({"name": "b" * 201}, "the bridge's name, .* has 201 bytes; valid is 200 at most"),
        ({"parking": "queue://" + "p" * 256}, "parking has 256 bytes; valid is 255 at most"),
        ({"headers_set": {"h" * 256: "v"}}, "'h+' has 256 bytes; valid is 255 at most"),
    ],
)
def test_what_amqp_has_no_room_for_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        ways_of([bridge(**{"rename": {}, **given})], HERE)


def test_a_long_name_that_the_source_can_have_is_none_of_amqp() -> None:
    only(**BY_STOMP, statically_included=("queue://" + "x" * 300,))


@pytest.mark.parametrize("dedup", ["journal", "target"])
def test_what_is_remembered_needs_a_folder(dedup: str, tmp_path: Path) -> None:
    network = NetworkConfig(tmp_path / "understudy.toml", Api())
    with pytest.raises(ConfigurationError, match="needs a folder to remember in"):
        check_dedup(bridge(dedup=dedup), network)
    check_dedup(bridge(), network)
    check_dedup(bridge(dedup=dedup), replace(network, state=tmp_path))
    assert (tmp_path / "dedup").is_dir()
    with pytest.raises(ConfigurationError, match="cannot be made"):
        check_dedup(bridge(dedup=dedup), replace(network, state=tmp_path / "none"))


def test_rabbitmq_cannot_be_asked_to_know_messages_again() -> None:
    with pytest.raises(ConfigurationError, match=r"'target'.*take 'journal'"):
        ways_of([bridge(dedup="target")], HERE)
    ways_of([bridge(dedup="journal")], HERE)
    ways_of([bridge(dedup="target", target="stomp://hq")], HERE)
