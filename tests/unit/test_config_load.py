"""The configuration file: what is read, and how what is wrong is refused."""

from __future__ import annotations

import re
from importlib import metadata
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from understudy.errors import ConfigurationError
from understudyd.config import load
from understudyd.config.model import DRIVER_GROUP, Command, Place
from understudyd.lock.timings import PRESETS, Timings
from understudyd.testing.configured import FILE, read, refusal


def test_reads_a_whole_estate(tmp_path: Path) -> None:
    estate = read(tmp_path)
    group = estate.groups["orders"]
    assert group.timings == PRESETS["fast"]
    assert group.stores == (tmp_path / "data",)
    assert list(group.nodes) == ["a", "b"]
    a, b = group.nodes.values()
    assert (a.weight, a.nofailover, b.weight, b.nofailover) == (2, False, 1, True)
    assert (str(a.api), str(a.listen), str(b.api)) == (
        "10.0.0.1:8801",
        "0.0.0.0:8801",
        "[::1]:8801",
    )
    assert b.listen == b.api == Place("::1", 8801)
    assert group.uris("b") == ("stomp://10.0.0.2:61613", "amqp://10.0.0.1:5672")
    assert a.broker.driver == "process"
    assert a.broker.command == ("rabbitmq-server",)
    assert a.broker.env["RABBITMQ_NODENAME"] == "orders@localhost"
    assert (a.broker.stop_timeout, a.broker.health.kind) == (20.0, "amqp")
    assert b.broker.promote == Command(("systemctl", "start", "mq"))
    assert b.broker.fence == Command(("systemctl", "kill", "-s", "KILL", "mq"), 0.5)
    assert (b.broker.health.kind, b.broker.health.argv) == ("command", ("/bin/check", "--fast"))
    assert estate.api.token is not None
    assert estate.api.token.reveal() == "hush"
    assert [str(network) for network in estate.api.allow] == ["10.0.0.0/8", "::1/128"]
    assert group.lock.reveal() == "redis://:hush@10.0.0.9:6379/0"


def test_shows_no_password(tmp_path: Path) -> None:
    estate = read(tmp_path)
    assert "hush" not in repr(estate) + str(estate)
    group = estate.groups["orders"]
    assert "hush" not in f"{group.lock} {group.nodes['a'].uri} {estate.api.token}"
    assert "10.0.0.9" in str(group.lock)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("amqp://app:hush@127.0.0.1/x", "amqp://127.0.0.1:5672"),
        ("amqps://[::1]?verify=false", "amqps://[::1]:5671"),
        ("stomp://MQ1:61614", "stomp://MQ1:61614"),
    ],
)
def test_clients_are_told_the_host_as_it_is_written(tmp_path: Path, uri: str, told: str) -> None:
    estate = read(tmp_path, FILE.replace("amqp://app:hush@10.0.0.1:5672/%2f", uri))
    assert estate.groups["orders"].nodes["a"].address == told


def test_a_relative_lock_starts_at_the_files_folder(tmp_path: Path) -> None:
    text = FILE.replace("redis://:hush@10.0.0.9:6379/0", "file:shared/orders.lock")
    assert (
        read(tmp_path, text).groups["orders"].lock.reveal() == f"file:{tmp_path}/shared/orders.lock"
    )
    text = FILE.replace("redis://:hush@10.0.0.9:6379/0", "file:///mnt/or%20ders.lock")
    assert read(tmp_path, text).groups["orders"].lock.reveal() == "file:/mnt/or%20ders.lock"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"fast"',
            '"fst"',
            'groups.orders.preset = "fst" is no preset (valid: fast, normal, safe)',
        ),
        ('"fast"', '"fst"', "did you mean fast?"),
        ('"20s"', "20", "groups.orders.nodes.a.broker.stop_timeout = 20 must be a duration with"),
        ('"20s"', '"20 s"', 'stop_timeout = "20 s" must be a duration with its unit, as "20s"'),
        ('"20s"', '"0s"', 'stop_timeout = "0s" must be a duration'),
        (
            "stop_timeout",
            'health_interval = "1ms"\nstop_timeout',
            'a.broker.health_interval = "1ms" must be 100ms or longer',
        ),
        (
            "stomp://10.0.0.2:61613",
            "amqp://other@10.0.0.1",
            'groups.orders.nodes.b.uri = "amqp://10.0.0.1:5672" is groups.orders.nodes.a.uri alre',
        ),
        ('"500ms"', '"9999h"', "broker.fence_timeout = "),
        ("weight = 2", 'weight = "2"', 'a.weight = "2" must be a whole number from 0 to 1000'),
        ("weight = 2", "weight = true", "a.weight = true must be a whole number"),
        ("weight = 2", "wieght = 2", "nodes.a.wieght is no known key (valid: api, broker, listen,"),
        ("weight = 2", "wieght = 2", "did you mean weight?"),
        ("nofailover = true", 'nofailover = "yes"', 'b.nofailover = "yes" must be true or false'),
        ('"exec"', '"exce"', 'driver = "exce" is no driver (valid: process, exec); did you mean'),
        ('"exec"', '"systemd"', 'driver = "systemd" is not built yet (valid: process, exec)'),
        ('fence   = "sys', 'never   = "sys', "groups.orders.nodes.b.broker.fence is missing"),
        ('fence   = "sys', 'fnce   = "sys', "b.broker.fnce is no known key; did you mean fence?"),
        (
            'lock   = "redis',
            'lok = "redis',
            "groups.orders.lok is no known key; did you mean lock?",
        ),
        ("[groups.orders]", "[group.orders]", "group is no known key (valid: api, bridges, groups"),
        ('"redis://:hush@10.0.0.9:6379/0"', '"memory:x"', "so every node would be master; use"),
        ('["rabbitmq-server"]', "[]", 'a.broker.command (a list) must be a command: ["program"'),
        ('["rabbitmq-server"]', '"don\'t"', "is no command: No closing quotation"),
        ('"10.0.0.1:8801"', '"10.0.0.1"', 'a.api = "10.0.0.1" must be host:port'),
        ('"10.0.0.1:8801"', '"10.0.0.1:99999"', "must be host:port"),
        (
            '"[::1]:8801"',
            '"10.0.0.1:8801"',
            'groups.orders.nodes.b.api = "10.0.0.1:8801" is groups',
        ),
        ("amqp://app", "ampq://app", "groups.orders.nodes.a.uri = "),
        ("stomp://10.0.0.2:61613", "failover:(stomp://a,stomp://b)", "must be the address of one"),
        (
            '["/bin/check", "--fast"]',
            '"amqp"',
            "does not fit to the node's uri, which is of stomp:",
        ),
        ('["/bin/check", "--fast"]', '"stmp"', "an http: address or a command"),
        ("redis://:hush@10.0.0.9:6379/0", "10.0.0.9", 'groups.orders.lock = "10.0.0.9" must be a'),
        ("redis://:hush@10.0.0.9:6379/0", "file:/mnt/", "must name a file"),
        ("redis://:hush@10.0.0.9:6379/0", "file://host/x", "must be a path of this machine"),
        ('["10.0.0.0/8", "::1"]', '["::1", "x"]', "api.allow (a list) number 2: must be addresses"),
        ('["10.0.0.0/8", "::1"]', '"10.0.0.0/8"', 'api.allow = "10.0.0.0/8" must be a list'),
        ('token = "hush"', 'token = "hush hush"', "api.token = ** must be printable ASCII"),
        (
            '["rabbitmq-server"]',
            '["mq", "a\\u0000b"]',
            "a.broker.command (a list) must be without a NUL",
        ),
        (
            '["rabbitmq-server"]',
            '"mq\\u0000"',
            'a.broker.command = "mq\\u0000" must be without a NUL',
        ),
        (
            '"orders@localhost"',
            '"\\u0000"',
            'env.RABBITMQ_NODENAME = "\\u0000" must be without a NUL',
        ),
        (
            'stop_timeout = "20s"',
            'user = "u\\u0000"',
            'broker.user = "u\\u0000" must be wi',
        ),
        (
            'store  = "data"',
            'store = "d\\u0000"',
            'orders.store = "d\\u0000" must be without a NUL',
        ),
        (
            'store  = "data"',
            'store = ["data", "data"]',
            "orders.store (a list) must name a folder, or several different ones",
        ),
        ("redis://:hush@10.0.0.9:6379/0", "file:l%00", 'lock = "file:l%00" must be without a NUL'),
        ('token = "hush"', 'tls_cert = "c.pem"', "api.tls_key is missing"),
        (
            "[network]",
            "[netwrok]",
            "netwrok is no known key (valid: api, bridges, groups, network)",
        ),
        ("[groups.orders.nodes.b]", "[groups.orders.nodes.a]", "is no valid TOML: Cannot declare"),
        ("nodes.b", "nodes.A", "groups.orders.nodes.A has the name of a but for case or signs"),
        ("nodes.b", 'nodes."b c"', 'groups.orders.nodes."b c" must be named with letters, digits'),
        ("SOME_PASSWORD", "UNDERSTUDY_LOCK_TOKEN", "env.UNDERSTUDY_LOCK_TOKEN is set by the side"),
        ("[api]\n", "api = 3\n", "nodes.b.broker.api is no known key"),
    ],
)
def test_refuses_with_file_key_value_and_what_is_valid(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in FILE
    told = refusal(tmp_path, FILE.replace(old, new))
    assert told.startswith(f"{tmp_path}/understudy.toml: ")
    assert message in told


def test_refuses_unsafe_timings_with_the_rule(tmp_path: Path) -> None:
    """Catalogue 6, L13."""
    timings = 'timings = {lease = "3s", renew = "1s", attempt = "500ms", kill = "1s"}'
    told = refusal(tmp_path, FILE.replace('preset = "fast"', timings))
    assert "groups.orders.timings can't be used: these timings are not safe" in told
    assert "lease x 0.999 - kill - margin must be at least renew + 3 x attempt" in told


def test_timings_stand_in_place_of_a_preset(tmp_path: Path) -> None:
    timings = 'timings = {lease = "1s", renew = "200ms", attempt = "100ms", kill = "100ms"}'
    text = FILE.replace('fence_timeout = "500ms"\n', "")
    estate = read(tmp_path, text.replace('preset = "fast"', timings))
    assert estate.groups["orders"].timings == Timings(1, 0.2, 0.1, 0.1)
    told = refusal(tmp_path, text.replace('preset = "fast"', f'{timings}\npreset = "fast"'))
    assert "groups.orders.timings stand in place of preset" in told
    told = refusal(tmp_path, FILE.replace('preset = "fast"', 'timings = {lease = "1s"}'))
    assert "groups.orders.timings.renew is missing" in told


@pytest.mark.parametrize("preset", PRESETS)
def test_a_fence_command_has_the_time_that_the_lease_leaves(tmp_path: Path, preset: str) -> None:
    text = FILE.replace('fence_timeout = "500ms"\n', "").replace('"fast"', f'"{preset}"')
    fence = read(tmp_path, text).groups["orders"].nodes["b"].broker.fence
    assert fence is not None
    assert fence.timeout == PRESETS[preset].fencing > PRESETS[preset].kill


def test_the_readmes_exec_broker_needs_nothing_else(tmp_path: Path) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    (broker,) = re.findall(
        r"```toml\n(\[groups\.demo\.nodes\.a\.broker\]\n.*?)```", readme, re.DOTALL
    )
    (group,) = re.findall(r"```toml\n(# understudy.toml.*?)```", readme, re.DOTALL)
    for preset in PRESETS:
        own = re.sub(
            r"\[groups\.demo\.nodes\.a\.broker.*?\n\n", broker + "\n", group, flags=re.DOTALL
        )
        node = read(tmp_path, own.replace('"fast"', f'"{preset}"')).groups["demo"].nodes["a"]
        assert node.broker.driver == "exec"


def test_a_fence_command_that_takes_too_long_is_refused_with_the_lease_it_needs(
    tmp_path: Path,
) -> None:
    told = refusal(tmp_path, FILE.replace('"500ms"', '"10s"'))
    assert 'groups.orders.nodes.b.broker.fence_timeout = "10s" does not fit into the lease' in told
    assert "0.697s at most" in told
    assert "a lease of 12.4s or more" in told
    timings = 'timings = {lease = "12.4s", renew = "700ms", attempt = "500ms", kill = "400ms"}'
    read(tmp_path, FILE.replace('"500ms"', '"10s"').replace('preset = "fast"', timings))


def test_another_package_may_have_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = EntryPoints([EntryPoint("docker", "their.module:Driver", DRIVER_GROUP)])
    monkeypatch.setattr(metadata, "entry_points", lambda **wanted: points.select(**wanted))
    text = FILE.replace('"exec"', '"docker"').replace('fence_timeout = "500ms"\n', "")
    broker = read(tmp_path, text).groups["orders"].nodes["b"].broker
    assert broker.driver == "docker"
    assert broker.promote == Command(("systemctl", "start", "mq"))
    assert broker.command == ()


@pytest.mark.parametrize("text", ["[groups.orders", "\x00", "a = 1\na = 2"])
def test_refuses_what_is_no_toml(tmp_path: Path, text: str) -> None:
    assert "is no valid TOML" in refusal(tmp_path, text)


def test_refuses_a_file_that_can_t_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.toml: can't be read: No such file"):
        load(tmp_path / "absent.toml", {})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="it is no UTF-8"):
        load(tmp_path / "binary.toml", {})


def test_refuses_one_file_lock_or_store_for_two_groups(tmp_path: Path) -> None:
    """Catalogue 5."""
    group = '[groups.{0}]\nlock = "{1}"\n[groups.{0}.nodes.a]\nuri = "amqp://h"\n'
    group += 'api = "h:{2}"\nbroker.command = "true"\n'
    told = refusal(tmp_path, group.format("x", "file:l", 1) + group.format("y", "file:./l", 2))
    assert "groups.y.lock" in told
    assert "is the lock of groups.x already" in told
    stores = [
        group.format(name, f"file:{name}", number).replace("\n", '\nstore = ["s", "./t"]\n', 1)
        for number, name in enumerate("xy", 1)
    ]
    told = refusal(tmp_path, "".join(stores))
    assert "groups.y.store" in told
    assert '/s" is a store of groups.x already; two groups would be two masters on it' in told
    shared = group.format("x", "redis://r", 1) + group.format("y", "redis://r", 2)
    assert len(read(tmp_path, shared).groups) == 2  # the key has the group's name


def test_refuses_a_group_without_nodes(tmp_path: Path) -> None:
    told = refusal(tmp_path, '[groups.x]\nlock = "file:l"\n')
    assert "groups.x.nodes are missing: write [groups.x.nodes.NAME]" in told
