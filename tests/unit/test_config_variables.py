"""What goes before the configuration file: variables, and secrets in files of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudyd.testing.configured import FILE, read, refusal


def test_variables_go_before_the_file(tmp_path: Path) -> None:
    estate = read(
        tmp_path,
        UNDERSTUDY_GROUPS__ORDERS__LOCK="file:/mnt/x.lock",
        UNDERSTUDY_GROUPS__ORDERS__NODES__A__WEIGHT="7",
        UNDERSTUDY_GROUPS__ORDERS__NODES__B__NOFAILOVER="false",
        UNDERSTUDY_GROUPS__ORDERS__NODES__A__BROKER__STOP_TIMEOUT="2m",
        UNDERSTUDY_GROUPS__ORDERS__NODES__A__BROKER__COMMAND="sleep 60",
        UNDERSTUDY_GROUPS__ORDERS__NODES__A__BROKER__ENV__SOME_PASSWORD="other",
        UNDERSTUDY_API__TOKEN="another",
        UNDERSTUDY_API__ALLOW="10.1.0.0/16, 10.2.0.7",
    )
    group = estate.groups["orders"]
    a, b = group.nodes.values()
    assert group.lock.reveal() == "file:/mnt/x.lock"
    assert (a.weight, b.nofailover, a.broker.stop_timeout) == (7, False, 120.0)
    assert a.broker.command == ("sleep", "60")
    assert a.broker.env["SOME_PASSWORD"] == "other"
    assert estate.api.token is not None
    assert estate.api.token.reveal() == "another"
    assert len(estate.api.allow) == 2


def test_a_variable_may_give_what_the_file_leaves_out(tmp_path: Path) -> None:
    text = FILE.replace('lock   = "redis://:hush@10.0.0.9:6379/0"\n', "")
    assert "groups.orders.lock is missing (as a variable: UNDERSTUDY_GROUPS__ORDERS__LOCK)" in (
        refusal(tmp_path, text)
    )
    estate = read(tmp_path, text, UNDERSTUDY_GROUPS__ORDERS__LOCK="redis://r")
    assert estate.groups["orders"].lock.reveal() == "redis://r"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "UNDERSTUDY_GROUPS__ORDERS__PRESET",
            "fst",
            "variable UNDERSTUDY_GROUPS__ORDERS__PRESET: ",
        ),
        ("UNDERSTUDY_GROUPS__ORDERS__PRESET", "fst", 'groups.orders.preset = "fst" is no preset'),
        ("UNDERSTUDY_GROUPS__ORDRS__PRESET", "fast", "stands for no key of"),
        ("UNDERSTUDY_GROUPS__ORDRS__PRESET", "fast", "did you mean UNDERSTUDY_GROUPS__ORDERS__PRE"),
        ("UNDERSTUDY_API_TOKEN", "hush", "did you mean UNDERSTUDY_API__TOKEN?"),
        ("UNDERSTUDY_GROUPS__ORDERS__NODES__A__WEIGHT", "2.5", "must be a whole number"),
        ("UNDERSTUDY_API__TOKEN", "hu sh", "api.token = ** must be printable ASCII"),
    ],
)
def test_refuses_a_variable_by_its_name(
    tmp_path: Path, name: str, value: str, message: str
) -> None:
    assert message in refusal(tmp_path, FILE, **{name: value})


def test_leaves_foreign_variables_alone(tmp_path: Path) -> None:
    """What a sidecar gives its broker, and what Kubernetes sets for a service of that name."""
    read(
        tmp_path,
        UNDERSTUDY_LOCK_TOKEN="7",
        UNDERSTUDY_PORT_8801_TCP_ADDR="10.0.0.1",
        UNDERSTUDY_SERVICE_HOST="10.0.0.1",
        UNDERSTUDY_BRIDGES__HOME__RATE="5",
    )


# --- secrets in files -----------------------------------------------------------------------------


def test_secrets_may_stand_in_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    (tmp_path / "uri").write_text("amqp://app:hush@h\n")
    text = FILE.replace('token = "hush"', 'token_file = "token"')
    text = text.replace('uri    = "amqp://app:hush@10.0.0.1:5672/%2f"', 'uri_file = "uri"')
    estate = read(tmp_path, text)
    assert estate.api.token is not None
    assert estate.api.token.reveal() == "from-file"
    assert estate.groups["orders"].nodes["a"].uri.reveal() == "amqp://app:hush@h"


def test_refuses_a_secrets_file_by_its_key(tmp_path: Path) -> None:
    text = FILE.replace('token = "hush"', 'token_file = "token"')
    told = f'api.token_file = "{tmp_path}/token" can\'t be read: No such file'
    assert told in refusal(tmp_path, text)
    (tmp_path / "token").write_text("")
    assert "its content must be" in refusal(tmp_path, text)
    (tmp_path / "token").write_text("hush")
    text = FILE.replace('token = "hush"', 'token_file = "token"\ntoken = "hush"')
    assert "api.token and token_file are both given" in refusal(tmp_path, text)
