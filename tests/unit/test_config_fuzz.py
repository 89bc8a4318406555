"""Whatever stands in the file, or in a variable: an estate, or a refusal that shows no secret."""

from __future__ import annotations

import copy
import datetime
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import ConfigurationError
from understudyd.config.load import build
from understudyd.config.model import Estate
from understudyd.config.table import variable

FILE = Path("/etc/understudy/understudy.toml")
SECRET = "s3cret-Zq7"
ESTATE: dict[str, Any] = {
    "groups": {
        "orders": {
            "lock": f"redis://:{SECRET}@10.0.0.9/0",
            "preset": "fast",
            "store": "data",
            "hooks": {"fence": "fence it", "fence_timeout": "5s"},
            "nodes": {
                "a": {
                    "uri": f"amqp://app:{SECRET}@10.0.0.1/%2f",
                    "api": "10.0.0.1:8801",
                    "weight": 2,
                    "nofailover": False,
                    "broker": {
                        "command": ["rabbitmq-server"],
                        "health": "amqp",
                        "stop_timeout": "20s",
                        "env": {"PASSWORD": SECRET},
                    },
                }
            },
        }
    },
    "api": {"token": SECRET, "allow": ["10.0.0.0/8"]},
    "bridges": {},
}


def paths(data: dict[str, Any], before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in data.items():
        found.append((*before, key))
        if isinstance(value, dict):
            found += paths(value, (*before, key))
    return found


texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["amqp", "http://x", "file:", "redis://[", "1s", "h:1", "'", "::", "%", "\0"]),
)
values = st.recursive(
    st.one_of(
        texts,
        st.integers(),
        st.floats(),
        st.booleans(),
        st.just(datetime.date(2026, 1, 1)),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=5,
)


def checked(data: dict[str, Any], environ: dict[str, str]) -> None:
    try:
        estate = build(FILE, data, environ)
    except ConfigurationError as exc:
        told = str(exc)
        assert str(FILE) in told or "variable" in told
        assert "\n" not in told
    else:
        assert isinstance(estate, Estate)
        told = repr(estate)
    assert SECRET not in told


@settings(deadline=None)
@given(st.sampled_from(paths(ESTATE)), values)
def test_any_value_anywhere(path: tuple[str, ...], value: Any) -> None:
    data = copy.deepcopy(ESTATE)
    table = data
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    checked(data, {})


@settings(deadline=None)
@given(st.sampled_from(paths(ESTATE)), texts)
def test_any_key_anywhere(path: tuple[str, ...], name: str) -> None:
    data = copy.deepcopy(ESTATE)
    table = data
    for key in path[:-1]:
        table = table[key]
    table[name] = table.pop(path[-1])
    checked(data, {})


@settings(deadline=None)
@given(st.sampled_from(paths(ESTATE)), texts)
def test_any_text_in_any_variable(path: tuple[str, ...], text: str) -> None:
    checked(copy.deepcopy(ESTATE), {variable(*path): text})
