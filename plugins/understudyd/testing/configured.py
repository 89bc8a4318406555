"""A whole configuration file for tests: read, or refused."""

from __future__ import annotations

from pathlib import Path

from understudy.errors import ConfigurationError
from understudyd.config import Estate, load

__all__ = ["FILE", "read", "refusal"]

FILE = """
[groups.orders]
lock   = "redis://:hush@10.0.0.9:6379/0"
preset = "fast"
store  = "data"

[groups.orders.nodes.a]
uri    = "amqp://app:hush@10.0.0.1:5672/%2f"
api    = "10.0.0.1:8801"
listen = "0.0.0.0:8801"
weight = 2
[groups.orders.nodes.a.broker]
command = ["rabbitmq-server"]
env     = { RABBITMQ_NODENAME = "orders@localhost", SOME_PASSWORD = "hush" }
stop_timeout = "20s"

[groups.orders.nodes.b]
uri  = "stomp://10.0.0.2:61613"
api  = "[::1]:8801"
nofailover = true
[groups.orders.nodes.b.broker]
driver  = "exec"
promote = "systemctl start mq"
demote  = "systemctl stop mq"
fence   = "systemctl kill -s KILL mq"
fence_timeout = "500ms"
health  = ["/bin/check", "--fast"]

[api]
token = "hush"
allow = ["10.0.0.0/8", "::1"]

[bridges.home]
source = "orders"
[network]
api = "10.0.0.1:8900"
"""


def read(folder: Path, text: str = FILE, **variables: str) -> Estate:
    file = folder / "understudy.toml"
    file.write_text(text)
    return load(file, variables)


def refusal(folder: Path, text: str, **variables: str) -> str:
    """Why it was not read, which holds no secret."""
    try:
        read(folder, text, **variables)
    except ConfigurationError as error:
        told = str(error)
    else:
        raise AssertionError("it was not refused")
    assert "hush" not in told
    return told
