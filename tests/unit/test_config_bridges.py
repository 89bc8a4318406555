"""What ``[bridges.NAME]`` may say, and what it is told when it says something else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from understudy import ConfigurationError
from understudyd.bridge.run import links_of
from understudyd.config.bridges import BridgeConfig, load_bridges

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


def test_a_variable_goes_before_the_file(tmp_path: Path) -> None:
    bridges = loaded(tmp_path, PLAIN, UNDERSTUDY_BRIDGES__ORDERS__PREFETCH_SIZE="5")
    assert bridges["orders"].prefetch_size == 5


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("source", "sauce"), "sauce is no known key; did you mean source"),
        (('"queue://orders"', ""), "statically_included names nothing"),
        (("statically_included", "dynamically_included"), "forwarding on demand"),
        (("[bridges.orders]", "[bridges.orders]\nduplex = true"), "write a second bridge"),
        (("[bridges.orders]", "[bridges.orders]\nprefetch_size = 0"), "from 1 to 65535"),
        (("[bridges.orders]", "[bridges.orders]\nhold_time = 5"), "a duration with its unit"),
        (("amqp://app:s3cret@a/shop", "sight"), "is no address of a broker"),
        (("failover:(amqp://app:s3cret@b,amqp://c)", "amqp://a/shop"), "in a circle"),
        (("[bridges.orders]", "[bridges.orders]\nrename = {a = 5}"), "a text that is not empty"),
    ],
)
def test_what_is_wrong_is_told_with_what_is_valid(
    tmp_path: Path, change: tuple[str, str], why: str
) -> None:
    with pytest.raises(ConfigurationError, match=why) as raised:
        loaded(tmp_path, PLAIN.replace(*change))
    assert "s3cret" not in str(raised.value)
    assert "understudy.toml" in str(raised.value)


def test_one_broker_may_be_both_ends_where_the_names_differ(tmp_path: Path) -> None:
    text = PLAIN.replace("failover:(amqp://app:s3cret@b,amqp://c)", "amqp://a/shop")
    renamed = text + 'rename = { "queue://orders" = "queue://copied" }\n'
    assert loaded(tmp_path, renamed)["orders"].rename == {"queue://orders": "queue://copied"}


@pytest.mark.parametrize("name", ["queue://orders.*", "orders", "topic://a*"])
def test_what_is_no_destination_is_refused(tmp_path: Path, name: str) -> None:
    (bridge,) = loaded(tmp_path, PLAIN.replace("queue://orders", name)).values()
    with pytest.raises(ConfigurationError, match=r"bridges\.orders"):
        links_of(bridge)
