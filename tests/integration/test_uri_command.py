"""``understudy uri``, run as a user runs it: what it explains, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from understudyd.testing.terminal import on_terminal
from understudyd.testing.uri_command import COMMAND, SECRET, environment, run

pytestmark = pytest.mark.integration


def test_lines() -> None:
    """F01."""
    done = run(
        f"failover:(amqp://app:{SECRET}@a/%2f?heartbeat=5,failover:(stomp://b))"
        f"?timeout=3000&nested.password={SECRET}&updateURIsURL=http://u:{SECRET}@h/x"
    )
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        "scheme failover",
        "endpoint 1 amqp://app:**@a/%2f?password=** heartbeat=5 password=** (URI)",
        "endpoint 2 stomp://b?password=** password=** (URI)",
    ]
    assert "option timeout=3000 (URI)" in lines
    assert "option randomize=true (default)" in lines
    assert "option updateURIsURL=http://u:**@h/x (URI)" in lines
    assert "option nested.password=** (URI)" in lines
    assert (done.returncode, done.stderr) == (0, "")


def test_json() -> None:
    done = run(f"masterslave:(amqp://b,amqps://u:{SECRET}@a?verify=false&x=1)?timeout=5", "--json")
    report = json.loads(done.stdout)
    assert report["scheme"] == "masterslave"
    assert report["endpoints"] == [
        {"uri": "amqp://b", "origin": "URI", "options": {}, "probe": None},
        {
            "uri": "amqps://u:**@a?x=1",
            "origin": "URI",
            "options": {"verify": False, "x": "1"},
            "probe": None,
        },
    ]
    assert report["agents"] == []
    assert report["options"]["timeout"] == {"value": 5, "origin": "URI"}
    assert report["options"]["randomize"] == {"value": False, "origin": "URI"}
    assert report["options"]["heartbeat"] == {"value": 10000, "origin": "default"}
    assert report["options"]["updateURIsURL"] == {"value": None, "origin": "default"}


@pytest.mark.parametrize(
    ("members", "notes"),
    [("amqp://a,stomp://b", 1), ("amqp://a,redis://b", 0), ("tcp://a,stomp+ssl://b", 0)],
)
def test_protocols_that_nobody_speaks_together_are_noted(members: str, notes: int) -> None:
    done = run(f"failover:({members})")
    assert done.stdout.count("note: stomp and amqp stand in one list") == notes
    assert done.returncode == 0
    assert len(json.loads(run(f"failover:({members})", "--json").stdout)["notes"]) == notes


def test_an_option_that_looks_like_one_of_ours_is_noted() -> None:
    uri = "failover:(amqp://a?locale=en_US,stomp://b?hearbeat=5,redis://c?ssl_certfile=x)"
    notes = json.loads(run(uri, "--json").stdout)["notes"]
    assert len(notes) == 2  # and that of the protocols
    assert notes[0].startswith("endpoint 2 has an option hearbeat")
    assert notes[0].endswith("did you mean heartbeat?")


def test_discovery_agents() -> None:
    done = run(f"discovery:(http://u:{SECRET}@h.invalid/uris)")
    assert "agent http://u:**@h.invalid/uris (URI)" in done.stdout.splitlines()
    assert done.returncode == 0
    done = run(f"discovery:(http://u:{SECRET}@h.invalid/uris)", "--probe")
    assert "agent http://u:**@h.invalid/uris (URI) failed: " in done.stdout
    assert done.returncode == 1
    assert "no endpoint to probe" in done.stderr


def test_an_agent_that_cannot_be_is_wrong_use() -> None:
    """D06."""
    done = run("discovery:(multicast://10.0.0.1)")
    assert done.returncode == 2
    assert "no multicast address" in done.stderr


def test_the_address_may_come_from_standard_input() -> None:
    assert "endpoint 1 amqp://u:**@a (URI)" in run("-", stdin=f"amqp://u:{SECRET}@a\n").stdout


def test_schemes_of_kombu_are_known() -> None:
    done = run(f"failover:(redis://:{SECRET}@a/0,sqs://key:{SECRET}@)")
    assert "endpoint 1 redis://:**@a/0 (URI)" in done.stdout
    assert "endpoint 2 sqs://key:**@ (URI)" in done.stdout


def test_a_table_on_a_terminal() -> None:
    text = on_terminal(
        [*COMMAND, "uri", f"failover:(amqp://u:{SECRET}@a)?timeout=3000"], environment()
    )
    assert "amqp://u:**@a" in text
    assert "deadline of a send" in text
    assert "┃" in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([f"failover:(amqp://u:{SECRET}@a)?timeot=5"], ["timeot", "did you mean timeout?"]),
        ([f"failover:(ampq://u:{SECRET}@a)"], ["ampq", "did you mean amqp?"]),
        ([f"failover:(amqp://u:{SECRET}@a"], ["parentheses"]),
        ([f"failover:(amqp://u:{SECRET}/x@a)"], ["%2F"]),
        (["amqp://a", f"amqp://u:{SECRET}@b"], ["unexpected extra argument"]),
        (["amqp://a", f"--prob=amqp://u:{SECRET}@b"], ["--prob"]),
        ([], ["Missing argument"]),
    ],
)
def test_wrong_use_is_one_line_and_code_2(arguments: list[str], words: list[str]) -> None:
    """F02, F03."""
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert [word for word in words if word not in done.stderr] == []


def test_without_click_the_pip_command_is_told(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('no click', name='click')")
    paths = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    done = run("amqp://a", PYTHONPATH=paths)
    assert done.returncode == 2
    assert done.stderr == 'understudy: click is not installed: pip install "understudy[cli]"\n'


@pytest.mark.parametrize("command", ["bridge", "network", "sidecar"])
def test_without_click_a_command_tells_the_extra_that_it_needs(
    tmp_path: Path, command: str
) -> None:
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('no click', name='click')")
    paths = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    argv = [sys.executable, "-c", "from understudyd.cli import main; main()", command]
    given = {**environment(), "PYTHONPATH": paths}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=given)
    extra = "sidecar" if command == "sidecar" else "bridge"
    assert done.returncode == 2
    assert done.stderr == f'understudy: click is not installed: pip install "understudy[{extra}]"\n'
